"""Forms, views and admin pages that show a refused transition as an error of the form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.forms import FileField
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext_lazy as _

from .exceptions import StaleTransition, TransitionError
from .machine import machine_of

# Django's classes are generic only in the type stubs.
if TYPE_CHECKING:
    AnyModelForm = forms.ModelForm[Any]
else:
    AnyModelForm = forms.ModelForm


class StateMachineModelForm(AnyModelForm):
    """A ModelForm of a `StateMachineModel` that knows what its user saw.

    The state and the other fields that only the machine's owner writes are rendered with a hidden copy of their values
    (Django's ``show_hidden_initial``; it is part of ``{{ form.status }}``). What the user left alone is left alone by
    the form, whatever the row has become since. A state that the user chose for a row that has moved is an error of the
    field. A request without the copy cannot change the state.

    `save()` adds a refusal of the database, which comes after `is_valid()`, to the form's errors and raises it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model: type[Model] = type(self.instance)
        self._machine = machine_of(model)
        names = [field.name for field in model._meta.concrete_fields if field.attname in self._machine.guarded]
        self._compared = [
            name for name in names if name in self.fields and not isinstance(self.fields[name], FileField)
        ]
        if self.instance._state.adding:
            self._compared = []
        for name in self._compared:
            self.fields[name].show_hidden_initial = True

    def _post_clean(self) -> None:
        # Private to Django, and the last place before the cleaned data are put into the instance.
        for name in self._compared:
            if name not in self.cleaned_data or self.fields[name].disabled:
                continue
            if not self[name]._has_changed():  # type: ignore[attr-defined]  # its public twin compares all fields
                self.cleaned_data[name] = getattr(self.instance, name)
            elif name == self._machine.field:
                self._compare_state(name, chosen=self.cleaned_data[name], present=getattr(self.instance, name))
        super()._post_clean()  # type: ignore[misc]

    def _compare_state(self, name: str, *, chosen: Any, present: Any) -> None:
        field = self.fields[name]
        try:
            seen = field.clean(
                field.hidden_widget().value_from_datadict(self.data, self.files, self.add_initial_prefix(name))
            )
        except ValidationError:
            seen = None
        if present in (chosen, seen):
            return
        if seen is None:
            text = _("The form does not say which status it was opened with.")
            self.add_error(name, ValidationError(text, code="no_initial"))
        else:
            refusal = StaleTransition(pk=self.instance.pk, expected=seen, found=present)
            self.add_error(name, refusal.as_validation_error())

    def save(self, commit: bool = True) -> Any:
        try:
            return super().save(commit)
        except TransitionError as refusal:
            self.add_error(None, refusal.as_validation_error())
            raise


class RefusalsAsFormErrors:
    """A mixin for Django's ``CreateView`` and ``UpdateView``: a refused save shows the form again, with the refusal."""

    def form_valid(self, form: Any) -> HttpResponse:
        try:
            return super().form_valid(form)  # type: ignore[misc,no-any-return]
        except TransitionError as refusal:
            if not form.errors:
                form.add_error(None, refusal.as_validation_error())
            return self.form_invalid(form)  # type: ignore[attr-defined,no-any-return]


class RefusalsInAdmin:
    """A mixin for ``ModelAdmin``: a refused save shows the form again, with the refusal as its error."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)  # type: ignore[misc,no-any-return]
        except TransitionError as refusal:
            # What the admin had written is rolled back. A second pass stops at the form.
            request._refused = refusal  # type: ignore[attr-defined]
            return super().changeform_view(request, *args, **kwargs)  # type: ignore[misc,no-any-return]

    def changelist_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changelist_view(request, *args, **kwargs)  # type: ignore[misc,no-any-return]
        except TransitionError as refusal:
            text = " ".join(refusal.as_validation_error().messages)
            self.message_user(request, text, messages.ERROR)  # type: ignore[attr-defined]
            return HttpResponseRedirect(request.get_full_path())

    def get_changelist_form(self, request: HttpRequest, **kwargs: Any) -> Any:
        return super().get_changelist_form(request, **{"form": StateMachineModelForm, **kwargs})  # type: ignore[misc]

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        form = super().get_form(request, *args, **kwargs)  # type: ignore[misc]
        refusal: TransitionError | None = getattr(request, "_refused", None)
        return form if refusal is None else _refused_form(form, refusal)


def _refused_form(form: Any, refusal: TransitionError) -> Any:
    class RefusedForm(form):  # type: ignore[misc]
        def _post_clean(self) -> None:
            super()._post_clean()
            self.add_error(None, refusal.as_validation_error())

    return RefusedForm
