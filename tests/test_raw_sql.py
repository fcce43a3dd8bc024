"""What SQL itself can try, past Django: each statement is refused, or recorded as what it did.

In the statements ``{jobs}`` stands for the table, ``{id}`` for the job's key as a literal, ``{then}`` for a time, and
``{done}`` and ``{cancelled}`` for assignments that complete or cancel a job. A semicolon parts two statements.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import IntegrityError, connection, transaction

from container_manager.models import ContainerJob
from container_manager.statemachine import StaleTransition
from tests.machines.models import DRAFT, PUBLISHED, REVIEW, Article, Order

from .jobs import job_in, journal_of, row_of

pytestmark = pytest.mark.django_db

_JOBS = "container_manager_containerjob"
_THEN = "'2026-01-02 03:04:05'"
_DATES = f"launched_at = {_THEN}, completed_at = {_THEN}"
_COLUMNS = ", ".join(field.column for field in ContainerJob._meta.concrete_fields)
_SQLITE, _POSTGRESQL, _MARIADB = "sqlite", "postgresql", "mysql"

# From pending, where completed is out of reach.
_ILLEGAL = {
    _SQLITE: {
        "update": "UPDATE {jobs} SET {done} WHERE id = {id}",
        "or_replace": "UPDATE OR REPLACE {jobs} SET {done}",
        "or_ignore": "UPDATE OR IGNORE {jobs} SET {done}",
        "or_fail": "UPDATE OR FAIL {jobs} SET {done}",
        "recursive_triggers": "PRAGMA recursive_triggers = ON; UPDATE {jobs} SET {done}",
        "no_checks": "PRAGMA ignore_check_constraints = ON; UPDATE {jobs} SET status = 'completed'",
        "from": "UPDATE {jobs} SET {done} FROM (SELECT {id} AS k) v WHERE id = v.k",
        "row_value": "UPDATE {jobs} SET (status, launched_at, completed_at) = ('completed', {then}, {then})",
        "with": "WITH v (s) AS (SELECT 'completed') UPDATE {jobs} SET status = (SELECT s FROM v), {dates}",
        "other_case": "UPDATE {jobs} SET STATUS = 'completed', {dates}",
        "blob": "UPDATE {jobs} SET status = CAST('queued' AS BLOB), queued_at = {then}",
        "zero_byte": "UPDATE {jobs} SET status = 'queued' || char(0), queued_at = {then}",
        "upsert": "INSERT INTO {jobs} SELECT * FROM {jobs} WHERE true ON CONFLICT (id) DO UPDATE SET {done}",
    },
    _POSTGRESQL: {
        "update": "UPDATE {jobs} SET {done} WHERE id = {id}",
        "only": "UPDATE ONLY {jobs} SET {done}",
        "from": "UPDATE {jobs} j SET {done} FROM (VALUES ({id}::uuid)) v (k) WHERE j.id = v.k",
        "row_value": "UPDATE {jobs} SET (status, launched_at, completed_at) = ROW ('completed', {then}, {then})",
        "with": "WITH moved AS (UPDATE {jobs} SET {done} RETURNING id) SELECT count(*) FROM moved",
        "merge": "MERGE INTO {jobs} j USING (VALUES (1)) v (k) ON j.id = {id} WHEN MATCHED THEN UPDATE SET {done}",
        "replica": "SET LOCAL session_replication_role = replica; UPDATE {jobs} SET {done}",
        "view": "CREATE TEMP VIEW v AS SELECT * FROM {jobs}; UPDATE v SET {done}",
        "block": "DO $$ BEGIN UPDATE {jobs} SET {done}; END $$",
        "prepared": "PREPARE p AS UPDATE {jobs} SET {done}; EXECUTE p",
        "cursor": (
            "DECLARE c CURSOR FOR SELECT * FROM {jobs} FOR UPDATE; FETCH c; UPDATE {jobs} SET {done} WHERE CURRENT OF c"
        ),
        "deferred": "SET CONSTRAINTS ALL DEFERRED; UPDATE {jobs} SET {done}",
        "upsert": "INSERT INTO {jobs} SELECT * FROM {jobs} ON CONFLICT (id) DO UPDATE SET {done}",
        "no_break_space": "UPDATE {jobs} SET status = U&'queued\\00a0', queued_at = {then}",
    },
    _MARIADB: {
        "update": "UPDATE {jobs} SET {done} WHERE id = {id}",
        "limit": "UPDATE {jobs} SET {done} ORDER BY id LIMIT 1",
        "join": "UPDATE {jobs} j JOIN (SELECT 'completed' s) v SET j.status = v.s, {dates}",
        "ignore": "UPDATE IGNORE {jobs} SET {done}",
        "ignore_join": "UPDATE IGNORE {jobs} j JOIN (SELECT 'completed' s) v SET j.status = v.s, {dates}",
        "loose": "SET STATEMENT sql_mode = '' FOR UPDATE {jobs} SET status = NULL",
        "loose_ignore": "SET STATEMENT sql_mode = '' FOR UPDATE IGNORE {jobs} SET status = NULL",
        "loose_cut": "SET STATEMENT sql_mode = '' FOR UPDATE {jobs} SET queued_at = {then}, status = 'queued           x'",
        "no_checks": "SET STATEMENT check_constraint_checks = 0 FOR UPDATE {jobs} SET status = 'completed'",
        "no_keys": "SET STATEMENT foreign_key_checks = 0, unique_checks = 0 FOR UPDATE {jobs} SET {done}",
        "other_charset": "UPDATE {jobs} SET {dates}, status = CONVERT('COMPLETED' USING utf16)",
        "accent": "UPDATE {jobs} SET queued_at = {then}, status = 'quéued'",
        "prepared": 'EXECUTE IMMEDIATE "UPDATE {jobs} SET {done}"',
        "upsert": "INSERT INTO {jobs} SELECT * FROM {jobs} o ON DUPLICATE KEY UPDATE {jobs}.status = 'completed'",
        "ignore_upsert": (
            "INSERT IGNORE INTO {jobs} SELECT * FROM {jobs} o ON DUPLICATE KEY UPDATE {jobs}.status = 'completed'"
        ),
        "replace": "REPLACE INTO {jobs} ({columns}) SELECT {columns_done} FROM {jobs} o",
        "replace_with_the_mark": (
            "REPLACE INTO {jobs} ({columns}) SELECT {columns_done} FROM {jobs} o "
            "WHERE (@cm_job_transitions_key := NULL) IS NULL AND (@cm_job_transitions_state := 'pending') <> ''"
        ),
    },
}

# From queued to cancelled, by whom nobody knows.
_LEGAL = {
    _SQLITE: {
        "update": "UPDATE {jobs} SET {cancelled}",
        "recursive_triggers": "PRAGMA recursive_triggers = ON; UPDATE {jobs} SET {cancelled}",
        "no_time": "UPDATE OR IGNORE {jobs} SET {cancelled}, {mallory}, status_version = 7, status_changed_at = NULL",
        "or_replace": "UPDATE OR REPLACE {jobs} SET {cancelled}, status_version = 7, status_changed_at = NULL",
        "no_version": "UPDATE {jobs} SET {cancelled}, {mallory}, status_changed_at = {then}",
    },
    _POSTGRESQL: {
        "update": "UPDATE {jobs} SET {cancelled}",
        "replica": "SET LOCAL session_replication_role = replica; UPDATE {jobs} SET {cancelled}",
        "no_time": "UPDATE {jobs} SET {cancelled}, {mallory}, status_version = 7, status_changed_at = NULL",
        "no_version": "UPDATE {jobs} SET {cancelled}, {mallory}, status_changed_at = {then}",
        "with": "WITH moved AS (UPDATE {jobs} SET {cancelled} RETURNING id) SELECT count(*) FROM moved",
        "with_twice": (
            "WITH moved AS (UPDATE {jobs} SET {cancelled} RETURNING id) "
            "UPDATE {jobs} SET status = 'running', {dates} WHERE status = 'cancelled'"
        ),
        "merge": "MERGE INTO {jobs} j USING (VALUES (1)) v (k) ON j.id = {id} WHEN MATCHED THEN UPDATE SET {cancelled}",
        "upsert": "INSERT INTO {jobs} SELECT * FROM {jobs} ON CONFLICT (id) DO UPDATE SET {cancelled}",
        "cursor": (
            "DECLARE c CURSOR FOR SELECT * FROM {jobs} FOR UPDATE; FETCH c; "
            "UPDATE {jobs} SET {cancelled} WHERE CURRENT OF c"
        ),
    },
    _MARIADB: {
        "update": "UPDATE {jobs} SET {cancelled}",
        "ignore": "UPDATE IGNORE {jobs} SET {cancelled}",
        "no_time": "UPDATE IGNORE {jobs} SET {cancelled}, {mallory}, status_version = 7, status_changed_at = NULL",
        "no_version": "UPDATE {jobs} SET {cancelled}, {mallory}, status_changed_at = {then}",
        "join": "UPDATE {jobs} j JOIN (SELECT 'cancelled' s) v SET j.status = v.s",
        "upsert": "INSERT INTO {jobs} SELECT * FROM {jobs} o ON DUPLICATE KEY UPDATE {jobs}.status = 'cancelled'",
    },
}


def each(statements: dict[str, dict[str, str]]) -> pytest.MarkDecorator:
    mine = statements[connection.vendor]
    return pytest.mark.parametrize("statement", mine.values(), ids=mine.keys())


@pytest.fixture(autouse=True)
def _settings_of_the_connection() -> Iterator[None]:
    yield
    if connection.vendor == _SQLITE:
        run("PRAGMA recursive_triggers = OFF; PRAGMA ignore_check_constraints = OFF")


def run(text: str, job: ContainerJob | None = None) -> None:
    key = "" if job is None else ContainerJob._meta.pk.get_db_prep_value(job.pk, connection)
    done = {"status": "'completed'", "launched_at": _THEN, "completed_at": _THEN}
    words = {
        "jobs": _JOBS,
        "id": f"'{key}'",
        "then": _THEN,
        "dates": _DATES,
        "done": f"status = 'completed', {_DATES}",
        "cancelled": "status = 'cancelled'",
        "mallory": "status_changed_by = 'mallory', status_changed_reason = 'for fun'",
        "columns": _COLUMNS,
        "columns_done": ", ".join(done.get(column, f"o.{column}") for column in _COLUMNS.split(", ")),
    }
    with connection.cursor() as cursor:
        for statement in text.format(**words).split("; " if "$$" not in text else "\0"):
            cursor.execute(statement)


def refusal_of(text: str, job: ContainerJob | None = None) -> str:
    """Run statements in a savepoint; return what refused them, or nothing."""
    try:
        with transaction.atomic():
            run(text, job)
    except IntegrityError as refusal:
        return str(refusal)
    return ""


@each(_ILLEGAL)
def test_no_sql_statement_makes_an_illegal_transition(statement: str) -> None:
    job = job_in("pending")
    before = row_of(job)
    refusal = refusal_of(statement, job)
    assert "Invalid" in refusal if refusal else "IGNORE" in statement
    assert row_of(job) == before
    assert journal_of(job) == []


@each(_LEGAL)
def test_every_sql_statement_that_changes_a_status_is_journaled_without_an_actor(statement: str) -> None:
    job = job_in("queued", status_changed_by="alice", status_changed_reason="earlier", status_version=5)
    stale = ContainerJob.objects.get(pk=job.pk)
    run(statement, job)
    row, step = row_of(job), job.transitions.get()
    assert (step.from_status, step.to_status, row["status"]) == ("queued", "cancelled", "cancelled")
    assert (step.actor, step.reason, row["status_changed_by"], row["status_changed_reason"]) == ("", "", "", "")
    assert step.at == row["status_changed_at"]
    assert row["status_version"] not in {5, 7}
    with pytest.raises(StaleTransition):
        stale.mark_as_running()


def test_sql_that_sets_a_new_version_and_time_is_journaled_with_its_actor() -> None:
    job = job_in("queued")
    run("UPDATE {jobs} SET {cancelled}, {mallory}, status_version = 7, status_changed_at = {then}")
    assert [(step.actor, step.reason) for step in job.transitions.all()] == [("mallory", "for fun")]


def test_a_new_version_without_a_new_status_is_not_journaled_but_makes_instances_stale() -> None:
    job = job_in("queued")
    run("UPDATE {jobs} SET {mallory}, status_version = 7, status_changed_at = {then}")
    assert journal_of(job) == []
    with pytest.raises(StaleTransition):
        job.mark_as_running()


@pytest.mark.skipif(connection.vendor == _MARIADB, reason="there nothing can be done about it: the docs say so")
def test_a_temporary_table_cannot_shadow_the_journal() -> None:
    job, journal = job_in("queued"), "container_manager_jobtransition"
    run(f"CREATE TEMP TABLE {journal} AS SELECT * FROM {journal}")
    refusal = refusal_of("UPDATE {jobs} SET {cancelled}")
    run(f"DROP TABLE {'temp' if connection.vendor == _SQLITE else 'pg_temp'}.{journal}")
    assert ("hides the journal" in refusal) == (connection.vendor == _POSTGRESQL)
    assert journal_of(job) == ([] if refusal else [("queued", "cancelled")])


@pytest.mark.parametrize("status", ["bogus", "Pending", "pending ", ""])
def test_no_row_is_inserted_in_an_unknown_status(status: str) -> None:
    job_in("pending")
    statement = f"INSERT INTO {{jobs}} ({_COLUMNS}) SELECT " + ", ".join(
        {"id": "'0198aaaa00007000800000000000cafe'", "status": f"'{status}'"}.get(column, column)
        for column in _COLUMNS.split(", ")
    )
    if connection.vendor == _POSTGRESQL:
        statement = statement.replace("cafe'", "cafe'::uuid")
    verbs = {_SQLITE: ["INSERT", "INSERT OR IGNORE"], _MARIADB: ["INSERT", "INSERT IGNORE"], _POSTGRESQL: ["INSERT"]}
    for verb in verbs[connection.vendor]:
        refusal = refusal_of(statement.replace("INSERT", verb) + " FROM {jobs}")
        assert "Invalid status" in refusal if refusal else "IGNORE" in verb
    assert ContainerJob.objects.count() == 1


@pytest.mark.skipif(connection.vendor != _POSTGRESQL, reason="COPY is PostgreSQL's")
def test_copy_cannot_insert_an_unknown_status() -> None:
    job = job_in("pending")
    with connection.cursor() as cursor:
        with cursor.copy(f"COPY {_JOBS} TO STDOUT") as out:
            text = b"".join(bytes(part) for part in out).decode()
        with (
            pytest.raises(IntegrityError, match="Invalid status"),
            transaction.atomic(),
            connection.wrap_database_errors,
            cursor.copy(f"COPY {_JOBS} FROM STDIN") as into,
        ):
            into.write(text.replace("pending", "bogus").replace(str(job.pk)[:8], "00000000"))
    assert ContainerJob.objects.count() == 1


_TAKE_OVER = {
    _SQLITE: {
        "update": "UPDATE machines_article SET id = {victim} WHERE id = {other}",
        "or_replace": "UPDATE OR REPLACE machines_article SET ID = {victim} WHERE id = {other}",
        "or_ignore": "UPDATE OR IGNORE machines_article SET id = {victim} WHERE id = {other}",
        "rowid": "UPDATE OR REPLACE machines_article SET rowid = {victim} WHERE id = {other}",
        "oid": "UPDATE OR REPLACE machines_article SET oid = {victim} WHERE id = {other}",
        "insert_rowid": (
            "INSERT OR REPLACE INTO machines_article (rowid, title, stage, published_at, shelf_id) "
            "SELECT {victim}, title, 10, published_at, shelf_id FROM machines_article WHERE id = {other}"
        ),
    },
    _POSTGRESQL: {"update": "UPDATE machines_article SET id = {victim} WHERE id = {other}"},
    _MARIADB: {
        "update": "UPDATE machines_article SET id = {victim} WHERE id = {other}",
        "ignore": "UPDATE IGNORE machines_article SET id = {victim} WHERE id = {other}",
    },
}


@each(_TAKE_OVER)
def test_an_update_cannot_give_a_row_the_key_of_another(statement: str) -> None:
    victim, other = Article.objects.create(title="victim"), Article.objects.create(title="other")
    victim.transition_to(REVIEW)
    before = list(Article.objects.order_by("pk").values())
    assert refusal_of(statement.format(victim=victim.pk, other=other.pk)) or "IGNORE" in statement
    assert list(Article.objects.order_by("pk").values()) == before


@each({vendor: {"update": statements.get("update", "")} for vendor, statements in _TAKE_OVER.items()})
def test_an_update_cannot_give_a_row_the_key_of_a_deleted_row(statement: str) -> None:
    victim, other = Article.objects.create(title="victim"), Article.objects.create(title="other")
    Article.objects.filter(pk=victim.pk).delete()
    assert "primary key" in refusal_of(statement.format(victim=victim.pk, other=other.pk))
    assert Article.objects.get().pk == other.pk


@pytest.mark.skipif(connection.vendor == _POSTGRESQL, reason="PostgreSQL has no REPLACE")
class TestReplaceWithTwoMachines:
    """A REPLACE in a table with two constraints: each compares its own column."""

    @pytest.mark.parametrize(("payment", "shipping"), [("paid", "new"), ("new", "packed"), ("paid", "packed")])
    def test_a_changed_state_is_refused(self, payment: str, shipping: str) -> None:
        Order.objects.create(id=1)
        assert "Invalid transition" in self.replace(payment, shipping)
        assert Order.objects.values_list("payment", "shipping").get() == ("new", "new")

    def test_the_same_states_are_accepted(self) -> None:
        Order.objects.create(id=1)
        Order.objects.update(shipping="packed")
        assert self.replace("new", "packed") == ""
        assert Order.objects.get().note == "replaced"

    def replace(self, payment: str, shipping: str) -> str:
        names = "payment, shipping, note, id, shipping_version, shipping_changed_by, shipping_reason"
        return refusal_of(
            f"REPLACE INTO machines_order ({names}) VALUES ('{payment}', '{shipping}', 'replaced', 1, 0, '', '')"
        )


def test_integer_states_cannot_be_bypassed_with_values_of_other_types() -> None:
    article = Article.objects.create()
    values = {
        _SQLITE: ["30", "'30'", "30.0", "2e1 + 10", "CAST('30' AS BLOB)", "NULL", "'x'", "20.5"],
        _POSTGRESQL: ["30", "'30'", "30.0", "NULL"],
        _MARIADB: ["30", "'30'", "30.0", "NULL", "29.9"],
    }
    for value in values[connection.vendor]:
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"UPDATE machines_article SET stage = {value}")
    article.refresh_from_db()
    assert article.stage == DRAFT
    assert PUBLISHED == 30
