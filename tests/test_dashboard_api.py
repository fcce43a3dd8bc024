"""The JSON API does what its document says, for those who may, and nothing for others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from container_manager import queue
from container_manager.dashboard.access import Act
from container_manager.dashboard.acts import act_on_all
from container_manager.dashboard.api.authentication import new_token
from container_manager.dashboard.api.openapi import SHOW_DOCUMENT, document
from container_manager.dashboard.api.routes import ROUTES, Route
from container_manager.dashboard.job_acts import JobAct
from container_manager.dashboard.models import ApiToken, AuditEntry, BulkAct
from container_manager.dashboard.search import parse
from container_manager.models import ContainerJob, JobAttempt, JobLog, PausedQueue, Worker

from .dashboard_users import TEAM_RULE, user_who_may
from .jobs import THEN, job_in, row_of
from .span_counts import add_counts

pytestmark = [pytest.mark.django_db, pytest.mark.usual_statements]
BASE = "/jobs/api/v1/"
BY_NAME: Mapping[str, Route] = {route.name: route for route in (*ROUTES, SHOW_DOCUMENT)}
_DOCUMENT = document()
_REGISTRY = Registry().with_resource(
    "urn:api", Resource.from_contents({**_DOCUMENT, "$schema": "https://json-schema.org/draft/2020-12/schema"})
)


class Api:
    """A client whose every answer is validated against the document."""

    def __init__(self, user: Any = None, *, token: str = "", enforce_csrf: bool = False) -> None:
        self.client = Client(enforce_csrf_checks=enforce_csrf)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        if user is not None:
            self.client.force_login(user)

    def __call__(
        self, name: str, body: Any = None, *, key: Any = "", headers: Mapping[str, str] = {}, **query: Any
    ) -> Any:
        route = BY_NAME[name]
        url = BASE + route.path.replace("{id}", str(key))
        options: dict[str, Any] = {"headers": {**self.headers, **headers}}
        if route.method == "POST":
            text = body if isinstance(body, str) else json.dumps({} if body is None else body)
            answer = self.client.post(url, text, content_type="application/json", **options)
        else:
            answer = self.client.get(url, query, **options)
        if answer.status_code not in (304,):
            declared = _DOCUMENT["paths"][f"/{route.path}"][route.method.lower()]["responses"]
            schema = declared[str(answer.status_code)]["content"]["application/json"]["schema"]
            if "$ref" in schema:
                schema = {"$ref": "urn:api" + schema["$ref"]}
            Draft202012Validator(schema, registry=_REGISTRY).validate(answer.json())
        return answer


def with_attempt(job: ContainerJob, *lines: bytes) -> JobAttempt:
    attempt = JobAttempt.objects.create(
        job=job, number=1, worker="w1", executor="default", launched_at=THEN, finished_at=THEN
    )
    ContainerJob.objects.filter(pk=job.pk).update(attempt=1)
    for number, line in enumerate(lines):
        JobLog.objects.create(attempt=attempt, sequence=number, stream="stdout", data=line)
    return attempt


@pytest.mark.without_database
def test_the_openapi_document_is_valid() -> None:
    # Imports pydantic, which no other test needs.
    from openapi_spec_validator import validate

    validate(document())


@pytest.mark.without_database
def test_the_docs_have_the_openapi_document_and_each_operation() -> None:
    docs = Path(__file__).parent.parent / "docs/reference"
    text = json.dumps(document(), indent=1) + "\n"
    assert (docs / "openapi.json").read_text() == text, "write it anew: json.dumps(document(), indent=1)"
    page = (docs / "api.md").read_text()
    for route in (*ROUTES, SHOW_DOCUMENT):
        assert f"| `{route.method} {route.path}` | {route.summary} |" in page


# What each route needs, in addition to view; and what it is sent.
VIEW_ONLY: dict[str, Any] = dict.fromkeys(
    ("list_jobs", "count_jobs", "show_job", "list_transitions", "list_attempts", "explain_job", "list_bulk_acts",
     "show_bulk_act", "list_queues", "list_workers", "show_document")
)  # fmt: skip
TABLE: list[tuple[str, Act, Any]] = [
    *((name, Act.VIEW, None) for name in VIEW_ONLY),
    ("read_log", Act.SEE_OUTPUT, None),
    ("submit_job", Act.SUBMIT, {"command": "true"}),
    ("act_on_job", Act.CANCEL, {"act": "cancel"}),
    ("act_on_job", Act.CANCEL, {"act": "kill"}),
    ("act_on_job", Act.RETRY, {"act": "retry"}),
    ("act_on_job", Act.SUBMIT, {"act": "queue"}),
    ("act_on_selected", Act.CANCEL, {"act": "cancel"}),
    ("act_on_selected", Act.RETRY, {"act": "retry"}),
    ("act_on_selected", Act.SUBMIT, {"act": "queue"}),
    ("begin_bulk_act", Act.CANCEL, {"act": "cancel", "search": ""}),
    ("begin_bulk_act", Act.RETRY, {"act": "retry", "search": ""}),
    ("begin_bulk_act", Act.SUBMIT, {"act": "queue", "search": ""}),
    ("advance_bulk_act", Act.CANCEL, None),
    ("stop_bulk_act", Act.CANCEL, None),
    ("act_on_queue", Act.PAUSE_QUEUES, {"queue": "default", "act": "pause"}),
]
_SUITABLE = {"cancel": "running", "kill": "running", "retry": "failed", "queue": "pending"}


def state_of_everything() -> Any:
    return (
        list(ContainerJob.objects.order_by("pk").values()),
        list(BulkAct.objects.values()), list(PausedQueue.objects.values()), list(AuditEntry.objects.values()),
    )  # fmt: skip


@pytest.mark.without_database
@pytest.mark.shows("reference/api.md#permissions")
@pytest.mark.parametrize(("name", "needed", "body"), TABLE)
def test_each_route_answers_only_those_who_have_its_permission(name: str, needed: Act, body: Any) -> None:
    assert {route.name for route in (*ROUTES, SHOW_DOCUMENT)} == {entry[0] for entry in TABLE}
    act = (body or {}).get("act", "")
    job = job_in(_SUITABLE.get(act, "queued"))
    with_attempt(job, b"line\n")
    root = user_who_may(*Act, name="root")
    bulk = act_on_all(parse(""), JobAct.CANCEL, user=root) if "bulk" in name and not body else None
    body = {**body, "jobs": [str(job.pk)]} if name == "act_on_selected" else body
    key = bulk.pk if bulk else job.pk
    before = state_of_everything()
    route = BY_NAME[name]
    # Whoever has all but the one permission, whoever has none, and whoever is not logged in.
    without = user_who_may(*(each for each in Act if each != needed), name="without")
    for user, status in ((without, 403), (user_who_may(name="nobody"), 403), (None, 401)):
        answer = Api(user)(name, body, key=key)
        assert answer.status_code == status, answer.content
        assert state_of_everything() == before
    answer = Api(user_who_may(Act.VIEW, needed, name="ada"))(name, body, key=key)
    assert answer.status_code == route.status, answer.content
    if route.method == "POST":
        assert state_of_everything() != before


@pytest.mark.without_database
@pytest.mark.shows("howto/permissions.md#read-only-mode")
@pytest.mark.parametrize(("name", "needed", "body"), [entry for entry in TABLE if entry[1].changes])
def test_read_only_mode_forbids_every_act_even_to_a_superuser(name: str, needed: Act, body: Any, settings: Any) -> None:
    job = job_in("running")
    root = user_who_may(*Act)
    root.is_superuser = True
    root.save()
    bulk = act_on_all(parse(""), JobAct.CANCEL, user=root) if "bulk" in name and not body else None
    settings.CONTAINER_MANAGER = {"READ_ONLY": True}
    before = state_of_everything()
    body = {**body, "jobs": [str(job.pk)]} if name == "act_on_selected" else body
    answer = Api(root)(name, body, key=bulk.pk if bulk else job.pk)
    assert (answer.status_code, "READ_ONLY" in answer.json()["message"]) == (403, True)
    assert state_of_everything() == before


@pytest.mark.shows("howto/permissions.md#teams-see-their-own-jobs")
def test_a_job_that_the_visibility_rule_hides_does_not_exist_for_any_route(settings: Any) -> None:
    settings.CONTAINER_MANAGER = {"VISIBLE_JOBS": TEAM_RULE}
    mine, other = job_in("queued", labels={"team": "ada"}), job_in("queued", labels={"team": "bob"})
    api = Api(user_who_may(*Act, name="ada"))
    assert [job["id"] for job in api("list_jobs").json()["jobs"]] == [str(mine.pk)]
    assert api("count_jobs").json()["number"] == 1
    for text in (f"id:{other.pk}", "label.team:bob", str(other.pk)):
        assert api("list_jobs", search=text).json()["jobs"] == []
    for name in ("show_job", "list_transitions", "list_attempts", "read_log", "explain_job"):
        hidden, absent = api(name, key=other.pk), api(name, key=uuid4())
        assert (hidden.status_code, hidden.content) == (404, absent.content)
        assert api(name, key=mine.pk).status_code == 200
    assert api("act_on_job", {"act": "cancel"}, key=other.pk).status_code == 404
    answer = api("act_on_selected", {"act": "cancel", "jobs": [str(other.pk), str(uuid4())]}).json()
    assert answer == {"changed": 0, "refused": {"There is no such job.": 2}}
    bulk = api("begin_bulk_act", {"act": "cancel", "search": ""}).json()
    assert api("advance_bulk_act", key=bulk["id"]).json()["changed"] == 1
    assert (row_of(mine)["status"], row_of(other)["status"]) == ("cancelled", "queued")
    assert Api(user_who_may(*Act, name="bob"))("show_bulk_act", key=bulk["id"]).status_code == 404
    Worker.objects.create(id="w1", host="h", pid=1, lease_expires_at=THEN)
    JobAttempt.objects.create(job=other, number=1, worker="w1", executor="default", launched_at=THEN)
    assert [(w["busy"], w["jobs"]) for w in api("list_workers").json()["workers"]] == [(1, [])]


def test_nobody_submits_a_job_that_the_visibility_rule_would_hide_from_them(settings: Any) -> None:
    settings.CONTAINER_MANAGER = {"VISIBLE_JOBS": TEAM_RULE}
    api = Api(user_who_may(*Act, name="ada"))
    assert api("submit_job", {"command": "true", "labels": {"team": "bob"}}).status_code == 400
    assert not ContainerJob.objects.exists()
    assert api("submit_job", {"command": "true", "labels": {"team": "ada"}}).status_code == 201


def test_a_submitted_job_has_all_that_was_given_and_its_submitter() -> None:
    given = {
        "name": "n", "command": "echo 'a b'", "environment": {"A": "1"}, "queue": "reports", "priority": 9,
        "labels": {"team": "web"}, "memory_bytes": 1000000, "timeout_seconds": 60, "scheduled_for": "2030-01-01T00:00:00Z",
    }  # fmt: skip
    answer = Api(user_who_may(*Act))("submit_job", given).json()
    assert {name: answer[name] for name in given} == given
    assert (answer["status"], answer["created_by"]) == ("queued", "ada")


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"command": "echo 'open"}, "quoting"),
        ({"command": ["true"]}, "text is needed"),
        ({"command": "true", "priority": 1000}, "100"),
        ({"command": "true", "priority": {}}, "integer"),
        ({"command": "true", "status": "completed"}, "Unknown: 'status'. Known: name, image"),
        ({"command": "true", "labels": [1]}, "JSON object of strings"),
        ({"command": "true", "secrets": {"A": "env:PATH"}}, "env:PATH"),
        ({"command": "true", "scheduled_for": "soon"}, "format"),
        ({"command": "true", "name": "\x1b[2J"}, "character"),
        ("[1]", "must be a JSON object"),
        ("{", "is not JSON"),
        ('{"cpu_count": NaN}', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_an_invalid_job_is_refused_with_its_errors(body: Any, said: str) -> None:
    answer = Api(user_who_may(*Act))("submit_job", body)
    assert answer.status_code == 400
    assert said in answer.json()["message"]
    assert not ContainerJob.objects.exists()


def test_environment_and_secrets_are_shown_without_values_to_users_without_permission() -> None:
    job = job_in(
        "queued", environment={"KEY": "hidden"}, secrets={"S": "file:mail-x"}, secret_files={"f": "file:mail-y"}
    )
    answer = Api(user_who_may(Act.VIEW))("show_job", key=job.pk)
    assert (answer.json()["environment"], answer.json()["secrets"]) == ({"KEY": None}, {"S": None})
    assert b"hidden" not in answer.content
    assert b"mail" not in answer.content
    assert Api(user_who_may(Act.VIEW, Act.SEE_ENVIRONMENT, name="eve"))("show_job", key=job.pk).json()[
        "environment"
    ] == {"KEY": "hidden"}


def test_the_log_is_read_page_by_page_and_by_stream() -> None:
    job = job_in("completed")
    attempt = with_attempt(job, *(b"%d\n" % n for n in range(250)))
    JobLog.objects.create(attempt=attempt, sequence=250, stream="stderr", data=b"\xff\x1b[31mred <script>")
    api, texts, after = Api(user_who_may(Act.VIEW, Act.SEE_OUTPUT)), [], -1
    while True:
        page = api("read_log", key=job.pk, after=after).json()
        texts += [entry["text"] for entry in page["entries"]]
        after = page["next"]
        if not page["is_more"]:
            break
    assert texts[:250] == [f"{n}\n" for n in range(250)]
    assert (page["is_over"], after) == (True, 250)
    answer = api("read_log", key=job.pk, stream="stderr")
    assert answer.json()["entries"][0]["text"] == "\ufffd\x1b[31mred <script>"
    assert b"\x1b" not in answer.content, "an escape would reach a terminal"
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert api("read_log", key=job.pk, attempt=9).status_code == 404
    assert api("read_log", key=job.pk, stream="x").status_code == 400


def test_transitions_and_attempts_have_a_next_page_only_if_there_is_more() -> None:
    job = job_in("queued")
    job.mark_as_running(actor="w1")
    job.mark_as_failed(reason="exit 1", actor="w1")
    with_attempt(job)
    api = Api(user_who_may(Act.VIEW))
    answer = api("list_transitions", key=job.pk).json()
    assert [(t["from_status"], t["to_status"], t["actor"]) for t in answer["transitions"]] == [
        ("queued", "running", "w1"),
        ("running", "failed", "w1"),
    ]
    assert answer["next"] is None
    assert len(api("list_transitions", key=job.pk, after=answer["transitions"][0]["id"]).json()["transitions"]) == 1
    assert [a["number"] for a in api("list_attempts", key=job.pk).json()["attempts"]] == [1]


def test_an_act_that_is_no_longer_legal_is_refused_with_the_status_of_now() -> None:
    job, api = job_in("running"), Api(user_who_may(*Act))
    assert api("show_job", key=job.pk).json()["acts"] == ["cancel"]
    JobAttempt.objects.create(job=job, number=1, worker="w1", executor="default", launched_at=THEN)
    assert api("show_job", key=job.pk).json()["acts"] == ["cancel", "kill"]
    job.mark_as_completed()
    answer = api("act_on_job", {"act": "cancel"}, key=job.pk)
    assert (answer.status_code, answer.json()["code"]) == (409, "refused")
    assert "completed" in answer.json()["message"]
    again = api("act_on_job", {"act": "retry", "reason": "once more"}, key=job.pk).json()
    assert (again["origin"], again["status"], again["created_by"]) == (str(job.pk), "queued", "ada")


def test_acts_record_user_and_reason_in_the_journal_or_the_audit() -> None:
    job, api = job_in("queued"), Api(user_who_may(*Act))
    api("act_on_job", {"act": "kill", "reason": "wrong input"}, key=job.pk)
    assert list(job.transitions.values_list("to_status", "actor", "reason")) == [("cancelled", "ada", "wrong input")]
    assert api("act_on_queue", {"queue": "q", "act": "pause", "reason": "disk"}).json() == {"changed": True}
    assert api("act_on_queue", {"queue": "q", "act": "pause"}).json() == {"changed": False}
    assert api("act_on_queue", {"queue": "q", "act": "resume"}).json() == {"changed": True}
    api("begin_bulk_act", {"act": "cancel", "search": "status:queued", "reason": "all"})
    kept = AuditEntry.objects.order_by("pk").values_list("actor", "act", "subject", "reason")
    assert list(kept) == [
        ("ada", "kill", str(job.pk), "wrong input"), ("ada", "pause", "q", "disk"), ("ada", "resume", "q", ""),
        ("ada", "cancel", "all that match status:queued", "all"),
    ]  # fmt: skip
    assert api("act_on_queue", {"queue": "q\x1b", "act": "pause"}).status_code == 400
    assert api("act_on_job", {"act": "retry", "reason": "\x1b"}, key=job.pk).status_code == 400


@pytest.mark.without_database
@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("list_jobs", {"search": "colour:red"}), ("list_jobs", {"cursor": "'; DROP TABLE"}), ("list_jobs", {"size": "0"}),
        ("list_jobs", {"size": "1e9"}), ("count_jobs", {"search": "status:x"}),
    ],
)  # fmt: skip
def test_an_invalid_query_is_refused_with_an_error_message(name: str, query: Any) -> None:
    answer = Api(user_who_may(Act.VIEW))(name, **query)
    assert answer.status_code == 400
    assert answer.json()["message"]


@pytest.mark.parametrize(
    "text",
    [
        "' OR 1=1 --",
        "%",
        "_",
        "\\",
        '"" or 1=1',
        "name:%",
        "name:_*",
        "label.x') or 1=1 --:1",
        "label.a'b:c",
        'label."a\\"b":c',
        "queue:'; --",
        "<script>alert(1)</script>",
    ],
)
def test_text_of_sql_html_or_patterns_finds_nothing_and_breaks_nothing(text: str) -> None:
    job_in("queued", name="job", labels={"x": "1"})
    answer = Api(user_who_may(Act.VIEW))("list_jobs", search=text)
    assert answer.status_code in (200, 400)
    assert not answer.json().get("jobs")


def test_a_polled_response_is_not_sent_again_until_it_changes() -> None:
    job, api = job_in("queued"), Api(user_who_may(Act.VIEW))
    for name in ("list_jobs", "show_job", "list_queues"):
        first = api(name, key=job.pk)
        same = api(name, key=job.pk, headers={"If-None-Match": first.headers["ETag"]})
        assert (same.status_code, same.content) == (304, b"")
    first = api("show_job", key=job.pk)
    job.mark_as_cancelled()
    assert api("show_job", key=job.pk, headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


@pytest.mark.without_database
def test_a_session_without_its_csrf_token_changes_nothing() -> None:
    job, user = job_in("queued"), user_who_may(*Act)
    api = Api(user, enforce_csrf=True)
    answer = api("act_on_job", {"act": "cancel"}, key=job.pk)
    assert (answer.status_code, answer.json()["code"]) == (403, "csrf")
    assert row_of(job)["status"] == "queued"
    secret = "a" * 32
    api.client.cookies[settings.CSRF_COOKIE_NAME] = secret
    assert api("act_on_job", {"act": "cancel"}, key=job.pk, headers={"X-CSRFToken": "b" * 32}).status_code == 403
    assert api("act_on_job", {"act": "cancel"}, key=job.pk, headers={"X-CSRFToken": secret}).status_code == 200


@pytest.mark.shows("reference/api.md#tokens")
def test_a_token_has_the_permissions_of_its_user_until_it_expires_or_is_revoked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    job, user = job_in("queued"), user_who_may(Act.VIEW, Act.CANCEL)
    call_command("dashboard_token", "ada", "--name", "ci")
    token = capsys.readouterr().out.strip()
    assert token not in str(list(ApiToken.objects.values()))
    api = Api(token=token, enforce_csrf=True)
    assert api("submit_job", {"command": "true"}).status_code == 403
    assert api("act_on_job", {"act": "cancel"}, key=job.pk).status_code == 200
    with pytest.raises(CommandError, match="already"):
        call_command("dashboard_token", "ada", "--name", "ci")
    # A session beside a wrong token does not count.
    wrong = Api(user, token="cmt_wrong")
    assert wrong("show_job", key=job.pk).status_code == 401
    ApiToken.objects.update(expires_at=THEN)
    assert api("show_job", key=job.pk).status_code == 401
    ApiToken.objects.update(expires_at=None)
    user.is_active = False
    user.save()
    assert api("show_job", key=job.pk).status_code == 401
    user.is_active = True
    user.save()
    assert api("show_job", key=job.pk).status_code == 200
    call_command("dashboard_token", "ada", "--name", "ci", "--revoke")
    assert api("show_job", key=job.pk).status_code == 401
    with pytest.raises(CommandError, match="no user 'nobody'"):
        call_command("dashboard_token", "nobody", "--name", "ci")
    assert new_token(user, name="x", lifetime=None) != new_token(user, name="y", lifetime=None)


@pytest.mark.without_database
def test_a_method_that_a_path_has_not_is_refused() -> None:
    api = Api(user_who_may(*Act))
    for method in ("put", "patch", "delete", "post"):
        answer = getattr(api.client, method)(f"{BASE}jobs/{uuid4()}")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


def test_no_request_takes_more_than_twelve_queries(settings: Any) -> None:
    settings.CONTAINER_MANAGER = {"VISIBLE_JOBS": TEAM_RULE}
    user = user_who_may(*Act)
    jobs = [
        job_in(status, labels={"team": "ada"}, queue=f"q{n}")
        for n in range(4)
        for status in ("queued", "failed", "running")
    ]
    for job in jobs:
        with_attempt(job, b"x")
    # As the maintainer has counted them: MariaDB looks for each queue that the statistics do not know.
    for number in range(4):
        add_counts(0, f"q{number}", kept=False)
    bulk = act_on_all(parse(""), JobAct.CANCEL, user=user)
    token = new_token(user, name="t", lifetime=None)
    api = Api(token=token)
    for route in (*ROUTES, SHOW_DOCUMENT):
        if route.method == "GET":
            key: UUID = bulk.pk if "bulk" in route.path else jobs[0].pk
            with CaptureQueriesContext(connection) as queries:
                assert (
                    api(
                        route.name,
                        key=key,
                        **({"search": "status:failed queue:q1 ja"} if "search" in route.query else {}),
                    ).status_code
                    == 200
                )
            assert len(queries) <= 12, route.name


@pytest.mark.parametrize("acts", [(Act.SUBMIT,), (Act.SUBMIT, Act.VIEW)], ids=["submits only", "sees another team's"])
def test_a_taken_unique_key_shows_nothing_of_a_job_that_the_user_may_not_see(settings: Any, acts: Any) -> None:
    settings.CONTAINER_MANAGER = {"VISIBLE_JOBS": TEAM_RULE}
    other = queue.enqueue(command="true secret-word", unique_key="nightly", labels={"team": "other"})
    given = {"command": "true", "unique_key": "nightly", "labels": {"team": "ada"}}
    answer = Api(user_who_may(*acts))("submit_job", given)
    assert answer.status_code == 400
    assert "secret-word" not in answer.content.decode()
    assert str(other.pk) not in answer.content.decode()
    assert list(ContainerJob.objects.all()) == [other]
