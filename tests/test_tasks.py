"""The backend for Django's task framework: what is enqueued, and what results say. No task runs here."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import connection, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from container_manager.models import ContainerJob
from container_manager.statemachine import InvalidTransition
from container_manager.tasks import ContainerTask, ContainerTaskBackend, ContainerTaskResult
from container_manager.tasks.compat import (
    InvalidTask,
    TaskResultDoesNotExist,
    task_backends,
    task_enqueued,
)

from .task_functions import add, add_asynchronously, describe, fail, task

pytestmark = pytest.mark.django_db


def job_of(result: Any) -> ContainerJob:
    return ContainerJob.objects.get(pk=result.id)


def backend(**options: Any) -> ContainerTaskBackend:
    return ContainerTaskBackend("default", {"OPTIONS": options, "QUEUES": []})


def not_at_module_level() -> Any:
    def inner() -> None: ...

    return inner


def without_context(name: str) -> None: ...


class TestEnqueue:
    def test_a_result_is_ready_and_the_job_is_queued_with_path_and_arguments(self) -> None:
        result = add.enqueue((1, 2), second={"a": None})
        assert isinstance(result, ContainerTaskResult)
        assert (result.status, result.is_finished, result.attempts) == ("READY", False, 0)
        assert (result.args, result.kwargs, result.backend) == ([[1, 2]], {"second": {"a": None}}, "default")
        assert len(result.id) <= 64
        job = job_of(result)
        assert (job.status, job.task, job.name) == ("queued", "tests.task_functions.add", "tests.task_functions.add")
        assert job.task_arguments == {"args": [[1, 2]], "kwargs": {"second": {"a": None}}}
        assert job.created_at == result.enqueued_at
        with pytest.raises(ValueError, match="has not finished"):
            _ = result.return_value

    def test_a_transaction_that_is_rolled_back_takes_the_task_with_it(self) -> None:
        with transaction.atomic():
            result = add.enqueue(1, 2)
            transaction.set_rollback(True)
        with pytest.raises(TaskResultDoesNotExist):
            add.get_result(result.id)

    def test_an_asynchronous_enqueue_makes_a_job(self) -> None:
        result = async_to_sync(add_asynchronously.aenqueue)(1, 2)
        assert job_of(result).task == "tests.task_functions.add_asynchronously"

    @pytest.mark.parametrize("value", [object(), {1, 2}, float("nan")], ids=["object", "set", "NaN"])
    def test_an_argument_that_is_no_json_is_refused_and_no_job_is_made(self, value: object) -> None:
        with pytest.raises((TypeError, ValidationError)):
            add.enqueue(value, 1)
        assert not ContainerJob.objects.exists()

    def test_a_deferred_task_is_scheduled(self) -> None:
        at = timezone.now() + timedelta(hours=1)
        result = add.using(run_after=at).enqueue(1, 2)
        assert job_of(result).scheduled_for == at
        assert add.get_result(result.id).task.run_after == at

    @pytest.mark.parametrize(("priority", "expected"), [(-100, 0), (-99, 0), (0, 50), (1, 50), (100, 100)])
    def test_priorities_of_tasks_are_halved_to_priorities_of_jobs(self, priority: int, expected: int) -> None:
        result = add.using(priority=priority).enqueue(1, 2)
        assert job_of(result).priority == expected
        assert abs(add.get_result(result.id).task.priority - priority) <= 1

    def test_the_queue_of_a_task_is_the_queue_of_its_job(self) -> None:
        result = add.using(queue_name="mail").enqueue(1, 2)
        assert job_of(result).queue == "mail"
        assert add.get_result(result.id).task.queue_name == "mail"

    def test_the_task_enqueued_signal_is_sent_with_the_result(self) -> None:
        sent: list[Any] = []

        def receive(sender: object, task_result: Any, **kwargs: Any) -> None:
            sent.append((sender, task_result.id, task_result.status))

        task_enqueued.connect(receive)
        try:
            result = add.enqueue(1, 2)
        finally:
            task_enqueued.disconnect(receive)
        assert sent == [(ContainerTaskBackend, result.id, "READY")]

    def test_many_calls_are_enqueued_in_one_insert(self) -> None:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            results = add.enqueue_many([((number,), {"second": 1}) for number in range(10)])
        assert [result.args for result in results] == [[number] for number in range(10)]
        assert len([q for q in queries if q["sql"].startswith("INSERT")]) == 1
        assert ContainerJob.objects.filter(status="queued").count() == 10


class TestValidation:
    def test_a_function_inside_another_is_refused(self) -> None:
        with pytest.raises(InvalidTask, match="module level"):
            task(not_at_module_level())

    def test_a_task_that_takes_the_context_must_name_it_first(self) -> None:
        with pytest.raises(InvalidTask, match="context"):
            task(takes_context=True)(without_context)

    @pytest.mark.parametrize("priority", [-101, 101, 1.5])
    def test_a_priority_out_of_range_is_refused(self, priority: Any) -> None:
        with pytest.raises(InvalidTask, match="priority"):
            add.using(priority=priority)

    def test_a_naive_time_is_refused(self) -> None:
        with pytest.raises(InvalidTask, match="aware"):
            add.using(run_after=datetime(2026, 1, 1))

    def test_a_queue_that_the_backend_does_not_serve_is_refused(self) -> None:
        served = ContainerTaskBackend("default", {"QUEUES": ["default"]})
        with pytest.raises(InvalidTask, match="mail"):
            served.validate_task(add.using(queue_name="mail"))

    def test_an_unknown_task_option_is_refused_with_the_known_options(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"has no 'timeot'\. Known: .*timeout"):
            backend(timeot=3)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"timeout": -1}, "timeout_seconds"),
            ({"timeout": "soon"}, "timeout_seconds"),
            ({"memory": "512x"}, "no size such as"),
            ({"cpus": 0}, "cpu_count"),
            ({"retries": -1}, "max_retries"),
            ({"backoff": -1}, "backoff_seconds"),
            ({"environment": {"A=B": "1"}}, "environment"),
            ({"container": {"no such": 1}}, "container"),
            ({"executor": "nowhere"}, "There is no executor 'nowhere'. Known: default"),
            ({"unique": "sometimes"}, "unique is True"),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
    )
    def test_a_wrong_option_is_an_error_where_the_task_is_declared(self, options: Any, message: str) -> None:
        with pytest.raises(InvalidTask, match=message):
            backend(**options).validate_task(add)
        with pytest.raises(InvalidTask, match=message):
            add.using(**options)

    def test_options_of_the_task_come_before_those_of_the_backend_and_become_the_jobs(self) -> None:
        asked = add.using(memory="512m", timeout=600, retries=5, backoff=7, image="app:1", cpus=1.5)
        job = job_of(asked.enqueue(1, 2))
        assert (job.memory_bytes, job.timeout_seconds, job.max_retries) == (512 * 1024**2, 600, 5)
        assert (job.image, job.cpu_count, job.backoff_seconds) == ("app:1", 1.5, 7)
        assert job_of(add.enqueue(1, 2)).max_retries == 0

    def test_using_refuses_attributes_that_no_task_has(self) -> None:
        with pytest.raises(TypeError, match="using\\(\\) has no 'memroy'"):
            add.using(memroy=3)

    def test_the_task_class_is_ours_and_flags_say_what_the_backend_does(self) -> None:
        assert isinstance(add, ContainerTask)
        ours = task_backends["default"]
        assert ours.supports_defer
        assert ours.supports_async_task
        assert ours.supports_get_result
        assert ours.supports_priority


class TestResults:
    def test_a_result_is_found_by_its_id_and_follows_the_job(self) -> None:
        result = add.enqueue(1, 2)
        job = job_of(result)
        job.mark_as_running()
        result.refresh()
        assert result.status == "RUNNING"
        job.mark_as_completed()
        async_to_sync(result.arefresh)()
        assert result.status == "SUCCESSFUL"
        found = add.get_result(result.id)
        assert (found.id, found.args, found.status) == (result.id, [1, 2], "SUCCESSFUL")
        assert found.finished_at is not None
        assert async_to_sync(add.aget_result)(result.id).id == result.id

    @pytest.mark.parametrize("key", ["", "no id", str(UUID(int=7)), None, 3])
    def test_an_id_that_no_task_has_is_not_found(self, key: Any) -> None:
        with pytest.raises(TaskResultDoesNotExist):
            task_backends["default"].get_result(key)

    def test_a_job_that_is_no_task_is_not_found(self) -> None:
        job = ContainerJob.objects.create_job(command="true")
        with pytest.raises(TaskResultDoesNotExist):
            add.get_result(str(job.pk))

    def test_the_result_of_another_task_is_a_mismatch(self) -> None:
        with pytest.raises(Exception, match="does not match"):
            describe.get_result(add.enqueue(1, 2).id)

    def test_the_result_of_a_removed_task_is_not_found_and_says_why(self) -> None:
        result = fail.enqueue("x")
        ContainerJob.objects.filter(pk=result.id).update(task="tests.task_functions.removed")
        with pytest.raises(TaskResultDoesNotExist, match=r"There is no task tests\.task_functions\.removed"):
            result.refresh()

    def test_a_result_is_read_though_its_executor_and_its_queue_are_not_known_any_more(self) -> None:
        result = add.using(queue_name="mail").enqueue(1, 2)
        ContainerJob.objects.filter(pk=result.id).update(executor="gone")
        served = ContainerTaskBackend("default", {"QUEUES": ["default"], "OPTIONS": {"executor": "gone"}})
        assert served.get_result(result.id).task.queue_name == "mail"

    def test_a_cancelled_task_has_failed_with_a_named_error_that_says_who_and_why(self) -> None:
        result = add.enqueue(1, 2)
        result.cancel(actor="alice", reason="by mistake")
        assert (result.status, result.is_finished) == ("FAILED", True)
        [error] = result.errors
        assert error.exception_class_path == "container_manager.tasks.errors.TaskCancelled"
        assert error.exception_class.__name__ == "TaskCancelled"
        assert error.traceback == "Cancelled by alice.\nby mistake"
        with pytest.raises(InvalidTransition):
            result.cancel()

    def test_a_task_is_cancelled_asynchronously(self) -> None:
        result = add.enqueue(1, 2)
        async_to_sync(result.acancel)()
        assert job_of(result).status == "cancelled"


class TestUnique:
    def test_enqueueing_a_unique_task_with_the_same_arguments_returns_the_existing_one(self) -> None:
        only = add.using(unique=True)
        first, same, other = only.enqueue(1, 2), only.enqueue(1, 2), only.enqueue(1, 3)
        assert first.id == same.id != other.id
        first.cancel()
        assert only.enqueue(1, 2).id != first.id

    def test_the_scopes_of_unique_tasks_are_those_of_jobs(self) -> None:
        job = job_of(add.using(unique="started").enqueue(1, 2))
        assert (job.unique_until, job.unique_seconds) == ("started", None)
        job = job_of(add.using(unique=60).enqueue(1, 3))
        assert job.unique_seconds == 60

    def test_each_of_many_calls_of_a_unique_task_gets_the_job_with_its_arguments(self) -> None:
        only = add.using(unique=True)
        before = only.enqueue(0, 0)
        results = only.enqueue_many([((0, 0), {}), ((1, 1), {}), ((1, 1), {})])
        assert results[0].id == before.id
        assert results[1].id == results[2].id != before.id
        assert ContainerJob.objects.count() == 2


def test_checks_report_a_backend_without_the_app_and_a_task_that_was_declared_too_early() -> None:
    early = backend(executor="nowhere")
    early._unchecked.append(add)
    assert [message.id for message in early.check()] == ["container_manager.E015"]
    with override_settings(INSTALLED_APPS=[]):
        assert [message.id for message in early.check()] == ["container_manager.E014"]
    assert list(backend().check()) == []
