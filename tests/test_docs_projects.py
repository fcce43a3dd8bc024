"""The projects that the how-to pages build: the files of the pages, run as their readers run them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from django import VERSION

from .test_statemachine_app import ALONE, GATE, MANAGE, Project

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
PAGES = Path(__file__).resolve().parent.parent / "docs/howto"
CONTRIB = [f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages")]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
URLS = """
from django.contrib import admin
from django.urls import include, path
urlpatterns = [path("admin/", admin.site.urls), path("orders/", include("orders.urls"))]
"""


def shown(page: str) -> dict[str, str]:
    """Return the blocks of a page by the name in the comment before each."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^<!-- test: shown, ([^\n]+) -->\n```\w+\n(.*?)^```", text, re.M | re.S))


def files_of(page: str) -> dict[str, str]:
    """Return those blocks of a page that are files, by path."""
    return {name: text for name, text in shown(page).items() if "/" in name}


class PageProject(Project):
    """A project made of the files of pages."""

    def __init__(
        self, folder: Path, apps: list[str], database: dict[str, object], files: Mapping[str, str], **more: Any
    ) -> None:
        self.folder = folder
        settings: dict[str, Any] = {
            "SECRET_KEY": "only for tests",
            "INSTALLED_APPS": apps,
            "MIDDLEWARE": MIDDLEWARE,
            "TEMPLATES": TEMPLATES,
            "ROOT_URLCONF": "urls",
            "ALLOWED_HOSTS": ["testserver"],
            "EMAIL_BACKEND": "django.core.mail.backends.locmem.EmailBackend",
            "DATABASES": {"default": database},
            "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
            "USE_TZ": True,
            **more,
        }
        self.write("manage.py", MANAGE)
        self.write("urls.py", "urlpatterns = []")
        self.write("settings.py", "\n".join(f"{name} = {value!r}" for name, value in settings.items()))
        for path, text in files.items():
            self.write(path, text)

    def write(self, path: str, text: str) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        for parent in target.relative_to(self.folder).parents[:-1]:
            if target.suffix == ".py":
                (self.folder / parent / "__init__.py").touch()

    def run(self, program: str) -> str:
        return self.shell(dedent(program))


def orders(folder: Path, database: dict[str, object], *, apps: tuple[str, ...] = (ALONE,)) -> PageProject:
    """Return the project of the complete example, not yet migrated."""
    files = {"urls.py": URLS, **files_of("own-model.md")}
    return PageProject(folder, [*CONTRIB, *apps, "orders"], database, files)


def test_the_complete_example_works_in_form_view_admin_and_journal(tmp_path: Path, database: dict[str, object]) -> None:
    project = orders(tmp_path, database)
    project.manage("makemigrations", "--check")
    project.migrate()
    project.manage(*GATE)
    project.run(
        """
        from django.contrib.auth.models import User
        from django.core import mail
        from django.test import Client
        from orders.models import Change, Order, Status

        client = Client()
        client.force_login(User.objects.create_superuser("alice"))
        order = Order.objects.create(customer="Bob")
        page = client.get(f"/orders/{order.pk}/").content.decode()
        assert "order 1 of Bob: Placed" in page
        assert "<button>Paid</button>" in page and "<button>Cancelled</button>" in page
        assert "<button>Shipped</button>" not in page

        page = client.post(f"/orders/{order.pk}/paid/", {"reason": "card"}, follow=True).content.decode()
        assert "placed -&gt; paid by alice card" in page
        page = client.post(f"/orders/{order.pk}/placed/", follow=True).content.decode()
        assert "Invalid transition from paid to placed" in page
        page = client.post(f"/orders/{order.pk}/lost/", follow=True).content.decode()
        assert "Unknown status" in page

        client.post(f"/orders/{order.pk}/", {"customer": "Carol", "status": "placed"})
        order.refresh_from_db()
        assert (order.customer, order.status) == ("Carol", "paid")

        client.post(f"/orders/{order.pk}/shipped/")
        assert [message.subject for message in mail.outbox] == ["Order 1 has shipped"]

        other = Order.objects.create(customer="Dora")
        chosen = {"action": "cancel", "_selected_action": [order.pk, other.pk]}
        page = client.post("/admin/orders/order/", chosen, follow=True).content.decode()
        assert "1 cancelled." in page and "1 cannot be cancelled any more." in page
        page = client.get(f"/admin/orders/order/{other.pk}/change/").content.decode()
        assert "placed -&gt; cancelled" in page
        steps = list(Change.objects.values_list("order", "from_status", "to_status", "actor"))
        assert steps == [
            (order.pk, "placed", "paid", "alice"),
            (order.pk, "paid", "shipped", "alice"),
            (other.pk, "placed", "cancelled", "alice"),
        ], steps
        """
    )


def test_without_the_app_the_triggers_hold_but_there_are_no_checks_and_no_command(
    tmp_path: Path, database: dict[str, object]
) -> None:
    project = orders(tmp_path, database, apps=())
    project.migrate()
    project.run(
        """
        from django.db import IntegrityError
        from orders.models import Change, Order
        order = Order.objects.create()
        try:
            Order.objects.update(status="shipped")
        except IntegrityError:
            pass
        else:
            raise SystemExit("not refused")
        order.transition_to("paid")
        assert Change.objects.get().to_status == "paid"
        """
    )
    models = (tmp_path / "orders/models.py").read_text(encoding="utf-8")
    project.write("orders/models.py", models.replace('"shipped_at": Effect', '"sent_at": Effect'))
    project.manage("check")
    assert "Unknown command" in project.manage("statemachine", "triggers", status=1)


def with_release(models: str, block: str | None = None) -> str:
    """Return ``orders/models.py`` with a page's block in place of the states and the map."""
    if block is None:
        return models.replace("default=Status.PLACED", "default=Status.OPEN")
    return re.sub(r"^class Status\b.*?(?=\n\nclass Order\b)", lambda _: block, models, flags=re.M | re.S)


def test_a_state_is_renamed_in_three_releases_and_the_journal_keeps_the_old_name(
    tmp_path: Path, database: dict[str, object]
) -> None:
    project, page = orders(tmp_path, database), shown("rename-a-state.md")
    project.migrate()
    project.run(
        """
        from orders.models import Order
        Order.objects.create(customer="waits")
        Order.objects.create(customer="paid").transition_to("paid", actor="alice")
        """
    )
    models = with_release((tmp_path / "orders/models.py").read_text(encoding="utf-8"), page["release 1"])
    project.write("orders/models.py", models)
    project.manage("makemigrations", "orders", "--name", "expand")
    project.migrate()

    models = with_release(models)
    project.write("orders/models.py", models)
    project.write("orders/migrations/0003_move_to_open.py", page["orders/migrations/0003_move_to_open.py"])
    project.manage("makemigrations", "orders", "--check")
    print_states = "from orders.models import Order; print(list(Order.objects.order_by('pk').values_list('status')))"
    assert "[('placed',), ('paid',)]" in project.shell(print_states)
    project.run(
        """
        from django.core.management import call_command
        from container_manager.statemachine import StaleTransition
        from orders.models import Order
        loaded = Order.objects.get(customer="waits")
        call_command("migrate", verbosity=0)
        try:
            loaded.transition_to("paid")
        except StaleTransition as refusal:
            assert refusal.found == "open"
        else:
            raise SystemExit("not refused")
        Order.objects.create(customer="late, by a process of release 1", status="placed")
        """
    )
    assert "[('open',), ('paid',), ('placed',)]" in project.shell(print_states)
    project.manage(*GATE)

    project.write("orders/models.py", with_release(models, page["release 3"]))
    project.write("orders/migrations/0004_contract.py", page["orders/migrations/0004_contract.py"])
    project.manage("makemigrations", "orders", "--check")
    project.migrate()
    project.manage(*GATE)
    assert "[('open',), ('paid',), ('open',)]" in project.shell(print_states)
    project.run(
        """
        from django.db import IntegrityError
        from orders.models import Change, Order
        try:
            Order.objects.filter(status="open").update(status="placed")
        except IntegrityError:
            pass
        else:
            raise SystemExit("not refused")
        Order.objects.get(customer="waits").transition_to("paid", actor="bob")
        kept = list(Change.objects.values_list("order__customer", "from_status", "to_status", "actor", "reason"))
        assert kept == [
            ("paid", "placed", "paid", "alice", ""),
            ("waits", "placed", "open", "", ""),
            ("late, by a process of release 1", "placed", "open", "", ""),
            ("waits", "open", "paid", "bob", ""),
        ], kept
        """
    )
    project.migrate("orders", "0002")
    assert "[('paid',), ('paid',), ('open',)]" in project.shell(print_states)


def test_rest_framework_answers_a_refused_transition_with_400_and_a_race_with_409(
    tmp_path: Path, database: dict[str, object]
) -> None:
    names: dict[str, Any] = {}
    exec(shown("rest-framework.md")["the settings"], names)  # noqa: S102  # our own docs
    files = {**files_of("own-model.md"), **files_of("rest-framework.md")}
    files["urls.py"] = URLS.replace("]", ', path("api/", include("orders.api"))]')
    apps = [*CONTRIB, ALONE, "orders"]
    framework = names["REST_FRAMEWORK"]
    project = PageProject(tmp_path, apps, database, files, REST_FRAMEWORK=framework)
    project.migrate()
    project.run(
        """
        from django.contrib.auth.models import User
        from django.db.models.signals import post_init
        from rest_framework.test import APIClient
        from orders.models import Change, Order

        client = APIClient(raise_request_exception=False)
        client.force_login(User.objects.create_user("alice"))

        def asked(method, path, expected, **data):
            answer = getattr(client, method)(f"/api/{path}/", data, format="json")
            assert answer.status_code == expected, (answer.status_code, answer.content)
            return answer.json()

        def order():
            return asked("post", "orders", 201, customer="Bob")["id"]

        def meanwhile(change, method, path, **data):
            # The row changes between the view's SELECT and its UPDATE.
            def once(sender, instance, **kwargs):
                post_init.disconnect(once, sender=Order)
                change(Order.objects.filter(pk=instance.pk))
            post_init.connect(once, sender=Order)
            answer = asked(method, path, 409, **data)
            assert answer["code"] == "stale", answer

        key = order()
        made = asked("post", f"orders/{key}/transitions", 200, to="paid", reason="card")
        assert (made["status"], made["valid_targets"]) == ("paid", ["shipped", "cancelled"])
        refused = asked("post", f"orders/{key}/transitions", 400, to="placed")
        assert (refused["code"], refused["allowed"]) == ("invalid_transition", ["shipped", "cancelled"])
        assert "from paid to placed" in refused["detail"]
        for odd in ("lost", None, 7, ["paid"], {"to": "paid"}, True):
            assert asked("post", f"orders/{key}/transitions", 400, to=odd)["code"] == "unknown_state"
        assert asked("put", f"orders/{key}", 200, customer="Carol", status="placed")["status"] == "paid"

        refused = asked("patch", f"writable/{key}", 400, status="placed")
        assert (refused["code"], refused["allowed"]) == ("invalid_transition", ["shipped", "cancelled"])
        assert "status" in asked("patch", f"writable/{key}", 400, status="lost")
        assert asked("patch", f"writable/{key}", 200, status="shipped")["valid_targets"] == []
        assert list(Change.objects.values_list("to_status", "actor", "reason")) == [
            ("paid", "alice", "card"), ("shipped", "alice", "")
        ]

        cancel = lambda rows: rows.update(status="cancelled")
        delete = lambda rows: rows.delete()
        for change in (cancel, delete):
            meanwhile(change, "post", f"orders/{(key := order())}/transitions", to="paid")
            meanwhile(change, "patch", f"writable/{(key := order())}", status="paid")
        assert Change.objects.filter(to_status="paid").count() == 1

        from orders.api import WritableViewSet
        del WritableViewSet.perform_update
        assert asked("patch", f"writable/{(key := order())}", 400, status="shipped")["code"] == "invalid_transition"
        meanwhile(cancel, "patch", f"writable/{(key := order())}", status="paid")
        """
    )


BEFORE = """
from django.contrib.auth.models import User
from blog.models import Post
alice = User.objects.create_user("alice")
for title, score, steps in [
    ("new", 0, []), ("waiting", 0, ["submit"]), ("good", 0, ["submit", "judge"]), ("bad", 9, ["submit", "judge"]),
    ("gone", 0, ["remove"]), ("old draft", 0, []), ("old spam", 0, []),
]:
    post = Post.objects.create(title=title, spam_score=score)
    for step in steps:
        getattr(post, step)(by=alice)
        post.save()
for state in ("draft", "spam"):
    Post.objects.filter(title=f"old {state}").update(state=state)
"""
AFTER = """
from django.db import IntegrityError, transaction
from container_manager.statemachine import InvalidTransition, StaleTransition, TransitionError
from blog.models import Change, Post

def refused(kind, act):
    try:
        with transaction.atomic():
            act()
    except kind as refusal:
        return refusal
    raise SystemExit("not refused")

kept = {post.title: post.state for post in Post.objects.all()}
assert kept == {
    "new": "new", "waiting": "review", "good": "published", "bad": "rejected", "gone": "removed",
    "old draft": "draft", "old spam": "rejected",
}, kept
history = list(Change.objects.values_list("post__title", "from_status", "to_status", "actor"))
assert history == [
    ("waiting", "new", "review", "alice"),
    ("good", "new", "review", "alice"), ("good", "review", "published", "alice"),
    ("bad", "new", "review", "alice"), ("bad", "review", "rejected", "alice"),
    ("gone", "new", "removed", "alice"),
], history

post = Post.objects.get(title="waiting")
stale = Post.objects.get(title="waiting")
post.judge(by="bob")
assert Post.objects.get(title="waiting").state == "review"
post.save()
assert Post.objects.get(title="waiting").state == "published"
entry = Change.objects.get(post=post, to_status="published")
assert (entry.from_status, entry.actor) == ("review", "bob")
stale.judge()
refused(StaleTransition, stale.save)

refused(IntegrityError, lambda: Post.objects.filter(title="good").update(state="new"))
refused(IntegrityError, lambda: Post.objects.filter(title="good").update(state="no state"))
post.state = "new"
refused(InvalidTransition, post.save)
refused(InvalidTransition, Post.objects.get(title="gone").remove)
refused(TransitionError, Post.objects.create().submit)
draft = Post.objects.get(title="old draft")
assert draft.valid_targets() == ("removed",) and not draft.can_transition_to("review")
draft.remove()
draft.save()
assert Post.objects.get(title="old draft").state == "removed"
"""


def test_a_django_fsm_2_project_with_data_moves_by_the_steps_of_the_page(
    tmp_path: Path, database: dict[str, object]
) -> None:
    page, files = shown("move-from-django-fsm-2.md"), files_of("move-from-django-fsm-2.md")
    apps = [*CONTRIB, "django_fsm", "django_fsm_log", "blog"]
    project = PageProject(tmp_path, apps, database, {"blog/models.py": page["the models before"]})
    project.manage("makemigrations", "blog")
    project.migrate()
    project.shell(BEFORE)
    told = project.shell(page["the question"])
    assert told.split("\n")[:-1] == ["draft 1", "new 1", "published 1", "rejected 1", "removed 1", "review 1", "spam 1"]

    text = (PAGES / "move-from-django-fsm-2.md").read_text(encoding="utf-8")
    [command] = re.findall(r"<!-- test: run -->\n```sh\n(.*?)^```", text, re.M | re.S)
    subprocess.run(["/bin/sh", "-ec", command], cwd=tmp_path, check=True)
    settings = (tmp_path / "settings.py").read_text(encoding="utf-8")
    project.write("settings.py", settings.replace("'blog'", f"'{ALONE}', 'blog'"))
    for path in ("blog/models.py", "blog/migrations/0002_legacy_states.py", "blog/migrations/0003_change.py"):
        project.write(path, files[path])
    project.manage("makemigrations", "blog", "--name", "state_machine")
    project.write("blog/migrations/0005_history.py", files["blog/migrations/0005_history.py"])
    project.manage("makemigrations", "--check", "blog")
    project.migrate()
    project.manage(*GATE)
    project.shell(AFTER)

    # Step 5; from here on nobody can import django-fsm-2.
    history = (tmp_path / "blog/migrations/0005_history.py").read_text(encoding="utf-8")
    history = re.sub(r"operations = .*", "operations = []", history)
    project.write("blog/migrations/0005_history.py", re.sub(r".*\"django_fsm_log\", \"0.*\n", "", history))
    settings = (tmp_path / "settings.py").read_text(encoding="utf-8")
    project.write("settings.py", settings.replace("'django_fsm', 'django_fsm_log', ", ""))
    for name in ("django_fsm", "django_fsm_log"):
        project.write(f"{name}.py", "raise ImportError")
    project.migrate()
    project.manage("makemigrations", "--check", "blog")
    project.manage(*GATE)


def test_the_tutorial_of_tasks_runs_in_its_order(tmp_path: Path, database: dict[str, object]) -> None:
    page = shown("../tutorial/tasks.md")
    settings: dict[str, Any] = {}
    exec(page["settings.py"], settings)  # noqa: S102  # our own docs
    framework = "django.tasks" if find_spec("django.tasks") else "django_tasks"
    tasks = page["shop/tasks.py"].replace("django.tasks", framework)
    # Options of a task's own are not in Django 6.0.
    if VERSION[:2] != (6, 0):
        tasks += page["more of shop/tasks.py"]
    given = {name: settings[name] for name in ("TASKS", "CONTAINER_MANAGER")}
    apps = ["container_manager", "shop"]
    project = PageProject(tmp_path, apps, database, {"shop/tasks.py": tasks, "shop/__init__.py": ""}, **given)
    project.migrate()
    worker = "subprocess.run([sys.executable, 'manage.py', 'container', 'worker', '--drain'], check=True)"
    steps = [page["enqueue"], "import subprocess, sys", worker, page["after the worker"], page["stop"]]
    said = project.run("\n".join(steps))
    assert re.fullmatch(r"[0-9a-f-]{36} READY", said.splitlines()[0])
