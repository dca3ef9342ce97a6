"""The table of errors: one code a class, each with an outcome and an advice, and the way over the wire and back."""

from __future__ import annotations

import pytest

from lanyinglog import errors
from lanyinglog.errors import BY_CODE, LanyingError, Outcome, from_wire

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, LanyingError)]


def test_no_two_classes_share_a_code() -> None:
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)
    assert set(BY_CODE.values()) == set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_every_class_says_whether_it_may_have_happened_and_what_to_do(cls: type[LanyingError]) -> None:
    assert isinstance(cls.outcome, Outcome)
    assert cls.advice
    assert cls.__doc__
    assert cls.code.isidentifier()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.code)
def test_an_error_comes_back_from_the_wire_as_it_was(cls: type[LanyingError]) -> None:
    error = from_wire(cls.code, "why", hint="where", outcome=cls.outcome)
    assert type(error) is cls
    assert (error.message, error.hint, error.outcome, str(error)) == ("why", "where", cls.outcome, "why")


@pytest.mark.parametrize("outcome", Outcome)
def test_of_an_unknown_code_the_outcome_is_what_the_peer_said(outcome: Outcome) -> None:
    error = from_wire("from_the_future", "why", outcome=outcome)
    assert type(error) is LanyingError
    assert error.outcome is outcome
    assert "from_the_future" in error.message


def test_without_a_word_about_it_an_unknown_code_may_have_happened() -> None:
    assert from_wire("from_the_future", "why").outcome is Outcome.UNKNOWN


UNKNOWN = {"internal", "outcome_unknown", "unavailable"}


def test_only_these_errors_leave_the_outcome_open() -> None:
    assert {cls.code for cls in CLASSES if cls.outcome is Outcome.UNKNOWN} == UNKNOWN
