"""The errors of refused transitions can be pickled and copied, with all their attributes."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from container_manager.columns.unique_keys import UniqueKeyHeld
from container_manager.statemachine import (
    InvalidTransition,
    MissingRow,
    StaleTransition,
    TransitionError,
    UnknownState,
    UnsavedInstance,
)

pytestmark = pytest.mark.without_database

ERRORS = [
    UnknownState("x", ["a", "b"]),
    InvalidTransition(pk=1, source="a", target="b", allowed=["c"], saving=True),
    InvalidTransition(pk=1, source="a", target="b", allowed=[]),
    StaleTransition(pk=1, expected="a", found="b"),
    StaleTransition(pk=1, expected=None, found=None, message="told"),
    MissingRow(pk=1, expected="a", using="default"),
    UnsavedInstance("article"),
    UniqueKeyHeld("nightly"),
]


def test_the_message_of_an_invalid_transition_names_both_states_and_what_the_map_allows() -> None:
    ended = InvalidTransition(pk=1, source="completed", target="running", allowed=[])
    assert str(ended) == "Invalid transition from completed to running. Valid transitions: [] (completed is terminal)"


def test_every_transition_error_is_in_these_tests() -> None:
    def below(cls: type[TransitionError]) -> set[type[TransitionError]]:
        return {cls, *(found for child in cls.__subclasses__() for found in below(child))}

    declared = {cls for cls in below(TransitionError) if cls.__module__.startswith("container_manager.")}
    assert {type(error) for error in ERRORS} == declared - {TransitionError}


def assert_same(copied: BaseException, error: TransitionError) -> None:
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert copied.args == error.args
    assert vars(copied) == vars(error)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_transition_error_survives_pickling(error: TransitionError, protocol: int) -> None:
    error.add_note("a note")
    assert_same(pickle.loads(pickle.dumps(error, protocol)), error)  # noqa: S301  # our own pickle


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_a_transition_error_survives_copying(error: TransitionError) -> None:
    assert_same(copy.deepcopy(error), error)


def refuse(number: int) -> None:
    raise ERRORS[number]


def test_a_process_pool_hands_on_a_transition_error() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = [pool.submit(refuse, number).exception() for number in range(len(ERRORS))]
    assert [str(error) for error in found] == [str(error) for error in ERRORS]
    assert [type(error) for error in found] == [type(error) for error in ERRORS]
