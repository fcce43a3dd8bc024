# Each command sets up what it needs in .venv; python3 (3.11 or later), venv and make are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The versions that the tests, the lint and the docs were last seen with: a new release of a tool changes nothing here.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
JOBS ?= 10000
CONTAINERS ?= 150
EXTRAS := mysql,docker-ssh,cli,metrics,opentelemetry,browser,test,check,docs,bench
# Some backends of tasks need Django 6, and that Python 3.12.
TASKS_PYTHON ?= $(or $(lastword $(sort $(wildcard $(HOME)/.pyenv/versions/3.1[2-9].*/bin/python))),$(PYTHON))
# Many tests wait for processes: so many at once on each of two databases keep two cores busy.
WORKERS ?= 4
# Tests start some hundred interpreters: none compiles again what another has compiled, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(BIN)/pytest -q --dist worksteal -n $(WORKERS)
# Beside a server run only what depends on the database: the run on SQLite has covered the rest. `.ci/run` runs on servers
# what is marked `usual_statements` too.
SERVER_TESTS := $(PYTEST) -m 'not slow and not without_database and not usual_statements' \
    $(addprefix --ignore tests/,browser docker kubernetes)

.DEFAULT_GOAL := help
.PHONY: help demo serve test test_sqlite test_postgresql chaos check docs bench constraints clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/$(or $(filter docker kubernetes,$(EXECUTOR)),installed)  ## Run jobs through their whole life, on SQLite and real processes; EXECUTOR=docker or kubernetes: in containers
	$(BIN)/python -m container_manager demo $(if $(EXECUTOR),--executor $(EXECUTOR) $(if $(IMAGE),--image $(IMAGE)) $(if $(NAMESPACE),--namespace $(NAMESPACE)))

serve: $(VENV)/installed  ## Serve the dashboard, with a worker and jobs to watch, on http://127.0.0.1:8000
	$(BIN)/python -m example.serve

test: $(VENV)/test  ## Run the tests on SQLite and PostgreSQL, and on MariaDB where it is installed
	@echo 'SQLite and PostgreSQL are tested beside each other; what was seen is shown when one of them is done.'
	@$(MAKE) --no-print-directory --keep-going --jobs 2 --output-sync=target test_sqlite test_postgresql
	@if command -v mariadbd >/dev/null && $(BIN)/python -c 'import MySQLdb' 2>/dev/null; then \
	    $(BIN)/python -m tests.servers mariadb -- $(SERVER_TESTS); \
	else \
	    echo 'MariaDB: skipped, since mariadbd or the Python package mysqlclient is not installed.'; \
	fi

test_sqlite:
	$(PYTEST)

test_postgresql:
	$(BIN)/python -m tests.servers postgresql -- $(SERVER_TESTS)

chaos: $(VENV)/test  ## Kill, freeze and cut off workers, databases and Docker daemons, then look for a job that lies
	$(BIN)/python -m tests.chaos sqlite --jobs $(JOBS)
	@[ $(CONTAINERS) = 0 ] || $(BIN)/python -m tests.chaos sqlite --executor docker --jobs $(CONTAINERS)
	$(BIN)/python -m tests.chaos postgresql --jobs $(JOBS)
	@[ $(CONTAINERS) = 0 ] || $(BIN)/python -m tests.chaos postgresql --executor docker --jobs $(CONTAINERS)
	@if command -v mariadbd >/dev/null && $(BIN)/python -c 'import MySQLdb' 2>/dev/null; then \
	    $(BIN)/python -m tests.chaos mariadb --jobs $(JOBS) && \
	    { [ $(CONTAINERS) = 0 ] || $(BIN)/python -m tests.chaos mariadb --executor docker --jobs $(CONTAINERS); }; \
	else \
	    echo 'MariaDB: skipped, since mariadbd or the Python package mysqlclient is not installed.'; \
	fi

check: $(VENV)/check docs  ## Lint, type-check, check import layers and migrations, build the docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m django makemigrations --check --dry-run --settings tests.settings

docs: $(VENV)/check  ## Build the documentation
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/bench  ## Measure beside peers, as ratios from one run
	-$(BIN)/python -m benchmarks.transitions --json benchmarks/results.json
	-$(BIN)/python -m benchmarks.process --json benchmarks/process/results.json
	-$(BIN)/python -m benchmarks.docker --json benchmarks/docker/results.json
	-$(BIN)/python -m benchmarks.kubernetes --json benchmarks/kubernetes/results.json
	-$(BIN)/python -m benchmarks.queue --json benchmarks/queue/results.json
	-$(BIN)/python -m benchmarks.pages --json benchmarks/pages/results.json
	-$(MAKE) $(VENV)/tasks/installed && $(VENV)/tasks/bin/python -m benchmarks.tasks --json benchmarks/tasks/results.json
	$(BIN)/python -m benchmarks.report

constraints: $(VENV)/bin/python  ## Take the newest release of each tool into constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e '.[$(EXTRAS)]'
	$(BIN)/pip freeze --exclude-editable --exclude django >constraints.txt

clean:  ## Remove what the commands above made
	rm -rf $(VENV) docs/_build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/docker: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[docker]'
	@touch $@ $(VENV)/installed

$(VENV)/kubernetes: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[kubernetes]'
	@touch $@ $(VENV)/installed

$(VENV)/test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[test]'
	@# Compile the tests once, or each of the processes that run them does.
	$(BIN)/pytest -q --collect-only >/dev/null
	@touch $@ $(VENV)/installed

$(VENV)/check: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[test,check,docs]'
	@touch $@ $(VENV)/test $(VENV)/installed

$(VENV)/bench: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -e '.[test,bench]'
	@touch $@ $(VENV)/installed

$(VENV)/tasks/installed: pyproject.toml
	$(TASKS_PYTHON) -m venv $(VENV)/tasks
	$(VENV)/tasks/bin/pip install --quiet --disable-pip-version-check -e '.[bench-tasks]'
	@touch $@
