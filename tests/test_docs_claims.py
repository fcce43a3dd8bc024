"""Each sentence on what happens when something dies names the tests that show it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/explanation/worker.md"

# The beginning of each sentence of the page, in its order, and what shows it: functions of tests/, or a chaos run.
CLAIMS = {
    "*At-least-once execution": ["chaos/__main__.py::main"],
    "A job may be started again": ["chaos/__main__.py::main", "test_once.py::test_no_job_runs_twice"],
    "Its local processes die": ["executors/test_process.py::test_it_dies_with_its_worker"],
    "Its lease, 30 seconds": [
        "test_queue.py::test_a_lease_runs_on_the_databases_clock",
        "test_docs.py::test_the_settings_page_lists_every_setting_with_its_default",
    ],
    "Another worker adopts": ["test_worker.py::test_a_job_of_a_dead_worker_is_run_again"],
    "For the database it is as if": ["test_worker.py::test_a_job_of_a_dead_worker_is_run_again"],
    "When its lease is over, its warden": [
        "executors/test_process.py::test_a_worker_that_is_not_heard_loses_its_jobs",
        "test_zombie.py::test_a_frozen_worker_loses_its_job_and_works_on",
    ],
    "When it wakes up": [
        "test_zombie.py::test_a_zombie_cannot_end_the_job",
        "test_zombie.py::test_a_zombie_can_neither_renew_nor_write_nor_take_back",
    ],
    "It registers under a new name": [
        "test_zombie.py::test_a_frozen_worker_loses_its_job_and_works_on",
        "test_protocol.py::test_a_worker_that_registers_anew_drops_all_it_held",
    ],
    "The worker keeps what it knows": [
        "test_outage.py::test_what_ends_while_the_database_is_away_is_stored_when_it_is_back",
        "test_output.py::test_what_is_stored_is_the_head_and_the_tail",
    ],
    "It tries again with growing pauses": ["test_protocol.py::test_a_worker_without_its_database_does_not_spin"],
    "When the database is back": [
        "test_outage.py::test_what_ends_while_the_database_is_away_is_stored_when_it_is_back"
    ],
    "Was a commit's fate unknown": [
        "test_queue.py::test_a_second_finish_changes_nothing",
        "test_queue.py::test_sent_again_it_is_stored_once",
    ],
    "A deadlock that the database reports": [
        "test_deadlock_retried.py::test_a_deadlock_while_a_worker_stores_ends_is_retried"
    ],
    "Nobody is taken for dead": ["test_protocol.py::test_a_worker_that_was_kept_away_judges_nobody_at_once"],
    "A transaction that sleeps": [
        "test_queue.py::test_a_transaction_that_sleeps_for_too_long_is_rolled_back",
        "test_protocol.py::test_every_connection_of_a_worker_limits_its_transactions",
    ],
    "Rescue, promotion and pruning": ["test_queue.py::test_nobody_waits_for_one_that_sleeps_in_a_transaction"],
    "Retries that are due": [
        "test_queue.py::test_the_oldest_worker_alive_maintains",
        "test_worker.py::test_a_worker_prunes_what_ended_long_ago_if_it_is_told_to",
    ],
    "When its lease is over, or it ends": ["test_queue.py::test_the_oldest_worker_alive_maintains"],
    "Attempts of dead workers": ["test_queue.py::test_only_executors_that_it_serves_or_nobody_alive_does"],
    "The row is `cancelled`": ["test_transitions.py::test_a_legal_edge_passes_and_is_in_the_journal"],
    "The worker that holds the attempt": [
        "test_worker.py::test_cancelling_a_running_job_ends_its_process",
        "executors/conformance.py::test_what_ignores_the_request_is_killed",
        "test_operations.py::test_workers_are_woken_when_a_job_is_queued_or_cancelled",
    ],
    "The attempt is closed when": [
        "test_worker_limits.py::test_of_a_cancel_and_the_end_of_a_command_one_wins_and_no_process_is_left"
    ],
    "A job that was cancelled never": ["test_queue.py::test_of_cancel_and_finish_one_wins"],
    "The attempt's reason is one of": ["test_worker.py::test_a_failure_has_its_reason_and_its_words"],
    "`image`, `start` and `unschedulable`": [
        "test_worker.py::test_a_failure_has_its_reason_and_its_words",
        "test_bad_input.py::test_each_bad_job_fails_with_its_reason_and_the_worker_lives_on",
    ],
    "The n-th retry waits": ["test_worker.py::test_the_delay_of_a_retry_follows_its_formula"],
    "`manage.py container doctor` compares": [
        "test_operations.py::test_a_true_life_has_no_problems",
        "test_operations.py::test_each_lie_is_found",
    ],
    "It ends with 1": ["test_operations.py::test_each_lie_is_found"],
}


def sentences() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if not part.startswith("#")]
    return [
        sentence
        for part in paragraphs
        for sentence in re.split(r"(?:(?<=[.?])|(?<=[.][*]))\s+(?=[A-Z`*])", " ".join(part.split()))
    ]


def test_each_sentence_has_its_tests() -> None:
    found = sentences()
    assert len(found) == len(CLAIMS)
    for sentence, beginning in zip(found, CLAIMS, strict=True):
        assert sentence.startswith(beginning), sentence
    for named in CLAIMS.values():
        for test in named:
            module, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / "tests" / module).read_text(encoding="utf-8"), test
