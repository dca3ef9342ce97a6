"""Tests of the engine's corrections, each with its proof: the same scenario with the correction taken away.

::

    @audited("1", off=cuts_at_every_append, harm="leader completeness")
    def test_audit_01_...() -> None:
        ...                              # passes; with ``off`` applied it raises `Broken`, and says ``harm``
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from raft.cluster import Broken

Scenario = Callable[[], None]
SwitchOff = Callable[[pytest.MonkeyPatch], None]


def audited(number: str, *, off: SwitchOff, harm: str) -> Callable[[Scenario], Any]:
    """The scenario as two tests: with the correction ``number`` of the audit, and without it."""

    def both(scenario: Scenario) -> Any:
        def test(corrected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
            if corrected:
                scenario()
                return
            off(monkeypatch)
            with pytest.raises(Broken, match=harm):
                scenario()

        test.__name__ = test.__qualname__ = scenario.__name__
        test.__doc__ = scenario.__doc__
        test.__module__ = scenario.__module__
        test.audit = number  # type: ignore[attr-defined]
        return pytest.mark.parametrize("corrected", [True, False], ids=["corrected", "switched-off"])(test)

    return both


def replaced(owner: Any, name: str, value: Any) -> SwitchOff:
    """Switch a correction off by putting ``value`` in the place of a method or constant."""
    return lambda patch: patch.setattr(owner, name, value)


def all_of(*switches: SwitchOff) -> SwitchOff:
    """Several at once: where a second line of defence would hide the first."""

    def off(patch: pytest.MonkeyPatch) -> None:
        for switch in switches:
            switch(patch)

    return off


def planted(name: str) -> SwitchOff:
    """The same switch that the simulator plants as a defect (`jepsen-style/simulator/defects_*`)."""

    def off(patch: pytest.MonkeyPatch) -> None:
        from simulator import campaign  # noqa: F401  # registers them all
        from simulator.defects import DEFECTS

        for where, attribute, instead in DEFECTS[name].changes():
            patch.setattr(where, attribute, instead, raising=False)

    return off


def nothing(*_: Any, **__: Any) -> None:
    """Does nothing."""
