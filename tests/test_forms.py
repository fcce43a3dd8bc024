"""Forms, views and the admin show refusals as errors of the form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models.signals import pre_save
from django.http import HttpResponse, QueryDict
from django.test import Client, RequestFactory
from django.urls import include, path, reverse
from django.views.generic import UpdateView

from container_manager.models import ContainerJob
from container_manager.statemachine import StaleTransition
from container_manager.statemachine.forms import RefusalsAsFormErrors, RefusalsInAdmin, StateMachineModelForm
from tests.machines.models import Parcel, Shelf

from .jobs import job_in, row_of

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.test_forms")]


class ParcelForm(StateMachineModelForm):
    class Meta:
        model = Parcel
        fields = ("state", "title", "origin", "labels")


class ParcelView(RefusalsAsFormErrors, UpdateView):
    model = Parcel
    form_class = ParcelForm
    success_url = "/done"

    def render_to_response(self, context: dict[str, Any], **options: Any) -> HttpResponse:
        return HttpResponse(str(context["form"].errors))


class ParcelAdmin(RefusalsInAdmin, admin.ModelAdmin):
    form = ParcelForm
    list_display = ("id", "state")
    list_editable = ("state",)


site = admin.AdminSite(name="parcels")
site.register(Parcel, ParcelAdmin)
urlpatterns = [path("parcels/", site.urls), path("admin/", include((admin.site.urls[0], "admin")))]


def opened(parcel: Parcel, **chosen: object) -> QueryDict:
    """Return what a browser posts when the form is opened now and only these fields are changed."""
    form = ParcelForm(instance=Parcel.objects.get(pk=parcel.pk))
    data = QueryDict(mutable=True)
    for bound in form:
        data[bound.html_name] = "" if bound.value() is None else bound.value()
        for name, value in re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', str(bound)):
            data[name] = value.replace("&quot;", '"')
    data.update({name: str(value) for name, value in chosen.items()})
    return data


def posted(parcel: Parcel, data: QueryDict) -> ParcelForm:
    return ParcelForm(data, instance=Parcel.objects.get(pk=parcel.pk))


def state_of(parcel: Parcel) -> tuple[str, str]:
    return Parcel.objects.values_list("state", "title").get(pk=parcel.pk)


@pytest.fixture
def parcel() -> Parcel:
    return Parcel.objects.create()


@pytest.fixture
def race(parcel: Parcel) -> Iterator[None]:
    """Another request sends the parcel after the form was validated and before it is saved.

    It uses the same connection, so that the admin's rollback undoes it too.
    """

    def send(instance: Parcel, **kwargs: Any) -> None:
        pre_save.disconnect(send, sender=Parcel)
        Parcel.objects.filter(pk=instance.pk).transition_to("sent")

    pre_save.connect(send, sender=Parcel)
    yield
    pre_save.disconnect(send, sender=Parcel)


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def test_a_state_chosen_in_a_form_is_saved(parcel: Parcel) -> None:
    form = posted(parcel, opened(parcel, state="sent", title="new"))
    assert form.is_valid(), form.errors
    form.save()
    assert state_of(parcel) == ("sent", "new")


def test_a_form_opened_earlier_that_changes_only_the_title_does_not_revert_the_state(parcel: Parcel) -> None:
    parcel.transition_to("sent")
    data = opened(parcel, title="mended")
    parcel.transition_to("packed")
    form = posted(parcel, data)
    assert form.is_valid(), form.errors
    form.save()
    assert state_of(parcel) == ("packed", "mended")
    assert form.changed_data == ["title"]


def test_a_form_opened_earlier_does_not_revert_lifecycle_fields(parcel: Parcel) -> None:
    data = opened(parcel, title="mended")
    parcel.origin, parcel.labels = Shelf.objects.create(), {"to": "Rome"}
    parcel.save()
    form = posted(parcel, data)
    assert form.is_valid(), form.errors
    form.save()
    row = Parcel.objects.values().get()
    assert (row["origin_id"], row["labels"], row["title"]) == (parcel.origin.pk, {"to": "Rome"}, "mended")


def test_a_state_chosen_in_a_form_opened_earlier_is_an_error_of_its_field(parcel: Parcel) -> None:
    data = opened(parcel, state="lost", title="mended")
    parcel.transition_to("sent")
    form = posted(parcel, data)
    assert form.errors.as_data()["state"][0].code == "stale_transition"
    assert state_of(parcel) == ("sent", "")


def test_a_request_without_the_state_that_its_user_saw_cannot_change_it(parcel: Parcel) -> None:
    parcel.transition_to("sent")
    data = opened(parcel, state="packed")
    del data["initial-state"]
    assert posted(parcel, data).errors.as_data()["state"][0].code == "no_initial"
    data["state"] = "sent"
    assert posted(parcel, data).is_valid()


def test_an_illegal_transition_in_a_form_is_an_error_of_the_field(parcel: Parcel) -> None:
    parcel.transition_to("lost")
    form = posted(parcel, opened(parcel, state="packed"))
    assert form.errors.as_data()["state"][0].code == "invalid_transition"


def test_a_new_row_in_a_state_that_is_not_initial_is_an_error_of_the_field() -> None:
    form = ParcelForm({"state": "sent", "labels": "{}"})
    assert list(form.errors) == ["state"]
    assert ParcelForm({"state": "packed", "labels": "{}"}).is_valid()


@pytest.mark.usefixtures("race")
def test_a_lost_race_between_validation_and_save_is_an_error_of_the_form(parcel: Parcel) -> None:
    form = posted(parcel, opened(parcel, state="lost"))
    assert form.is_valid()
    with pytest.raises(StaleTransition):
        form.save()
    assert form.non_field_errors().as_data()[0].code == "stale_transition"
    assert state_of(parcel) == ("sent", "")


@pytest.mark.usefixtures("race")
def test_a_lost_race_in_a_view_shows_the_form_again(parcel: Parcel) -> None:
    request = RequestFactory().post("/", opened(parcel, state="lost").dict())
    answer = ParcelView.as_view()(request, pk=parcel.pk)
    assert answer.status_code == 200
    assert "changed by somebody else" in answer.content.decode()
    assert state_of(parcel) == ("sent", "")


@pytest.mark.usefixtures("race")
def test_a_lost_race_in_the_admin_shows_the_form_again(parcel: Parcel, client: Client) -> None:
    page = reverse("parcels:machines_parcel_change", args=[parcel.pk])
    assert 'name="initial-state"' in client.get(page).content.decode()
    answer = client.post(page, opened(parcel, state="lost").dict())
    assert answer.status_code == 200
    assert "changed by somebody else" in answer.content.decode()
    assert state_of(parcel) == ("packed", "")
    assert client.post(page, opened(parcel, state="lost").dict()).status_code == 302
    assert state_of(parcel) == ("lost", "")


def listed(parcel: Parcel, chosen: str) -> dict[str, object]:
    """Return what the admin's list posts if it was opened when the parcel was packed."""
    return {
        "form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "form-0-id": parcel.pk, "form-0-state": chosen,
        "initial-form-0-state": "packed", "_save": "Save",
    }  # fmt: skip


def test_an_editable_list_of_the_admin_opened_earlier_does_not_revert_the_state(parcel: Parcel, client: Client) -> None:
    parcel.transition_to("sent")
    answer = client.post(reverse("parcels:machines_parcel_changelist"), listed(parcel, "packed"))
    assert answer.status_code == 302
    assert state_of(parcel) == ("sent", "")


@pytest.mark.usefixtures("race")
def test_a_lost_race_in_the_editable_list_of_the_admin_is_a_message(parcel: Parcel, client: Client) -> None:
    page = reverse("parcels:machines_parcel_changelist")
    answer = client.post(page, listed(parcel, "lost"), follow=True)
    assert "changed by somebody else" in answer.content.decode()
    assert state_of(parcel) == ("packed", "")


def test_a_lost_race_in_the_admin_of_jobs_shows_the_form_again(client: Client) -> None:
    job = job_in("pending")

    def queue(instance: ContainerJob, **kwargs: Any) -> None:
        pre_save.disconnect(queue, sender=ContainerJob)
        ContainerJob.objects.filter(pk=instance.pk).transition_to("queued")

    data: dict[str, object] = {
        "name": "n", "command": "true", "environment": "{}", "secrets": "{}", "labels": "{}", "grace_seconds": 10,
        "executor": "default", "queue": "default", "priority": 50, "max_retries": 3, "unique_until": "finished",
        "scheduled_for_0": "2030-01-01", "scheduled_for_1": "00:00:00",
        **{f"{prefix}-{name}_FORMS": 0 for prefix in ("transitions", "attempts") for name in ("TOTAL", "INITIAL")},
    }  # fmt: skip
    pre_save.connect(queue, sender=ContainerJob)
    answer = client.post(reverse("admin:container_manager_containerjob_change", args=[job.pk]), data)
    pre_save.disconnect(queue, sender=ContainerJob)
    assert answer.status_code == 200
    assert "changed by somebody else" in answer.content.decode()
    assert (row_of(job)["status"], row_of(job)["scheduled_for"]) == ("pending", None)
