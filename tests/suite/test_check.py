"""``jepsen-style check``: what each way a check can end comes to."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from acceptance import command
from acceptance.checks import roundtrip
from acceptance.cluster import Skipped, TooSlow, Violated

Ends = Callable[..., dict[str, Any]]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ends:
    """Runs one check whose runs end with these, one after the other: its exit code, and what it says of itself."""

    def check(*outcomes: dict[str, int] | BaseException) -> dict[str, Any]:
        left = iter(outcomes)

        def run(scale: command.Scale) -> dict[str, int]:
            outcome = next(left)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(roundtrip, "run", run)
        code = command.main(["roundtrip"])
        assert next(left, None) is None, "a run is missing"
        report = json.loads(capfd.readouterr().out.splitlines()[-1])
        return {"code": code, "valid": report["valid"], **report["checks"][0]}

    return check


def test_figures_are_shown(ends: Ends) -> None:
    seen = ends({"lines": 3})
    assert (seen["code"], seen["valid"], seen["verdict"], seen["figures"]) == (0, True, "ok", {"lines": 3})


def test_a_broken_promise_is_never_tried_again(ends: Ends) -> None:
    seen = ends(ExceptionGroup("tasks", [TooSlow("late"), ValueError(), Violated("a line is lost")]))
    assert (seen["code"], seen["valid"], seen["verdict"], seen["why"]) == (1, False, "violated", "a line is lost")


def test_what_was_slow_is_measured_once_more(ends: Ends) -> None:
    seen = ends(ExceptionGroup("tasks", [TooSlow("late")]), {"lines": 3})
    assert (seen["code"], seen["verdict"], seen["first"]) == (0, "ok", "late")


def test_what_is_slow_twice_is_slow(ends: Ends) -> None:
    seen = ends(TooSlow("late"), TooSlow("late again"))
    assert (seen["code"], seen["verdict"], seen["why"], seen["first"]) == (1, "violated", "late again", "late")


def test_a_check_that_can_not_be_made_violates_nothing(ends: Ends) -> None:
    seen = ends(Skipped("no namespaces"))
    assert (seen["code"], seen["verdict"], seen["why"]) == (0, "skipped", "no namespaces")


def test_a_check_that_goes_wrong_itself_proves_nothing(ends: Ends) -> None:
    seen = ends(ValueError("oh"))
    assert (seen["code"], seen["valid"], seen["verdict"]) == (2, "unknown", "unknown")
    assert seen["why"].splitlines()[-1] == "ValueError: oh"
