"""What a seed draws: the same faults at the same times, all kinds of them, and scenarios as they are written."""

from __future__ import annotations

from itertools import pairwise

import pytest
from suite import faults, scenarios, schedule
from suite.arena import Order

NAMES = ("n1", "n2", "n3")


def _draw(seed: int, seconds: float = 60.0) -> list[Order]:
    return schedule.draw(seed, seconds=seconds, names=faults.NAMES, nodes=3)


def test_a_seed_draws_the_same_schedule_each_time_and_another_seed_another_one() -> None:
    assert _draw(7) == _draw(7)
    assert _draw(7) != _draw(8)


def test_a_schedule_keeps_its_rhythm() -> None:
    for seed in range(50):
        orders = _draw(seed)
        assert len(orders) >= 20, "at least one fault every three seconds"
        assert orders[0].start_s >= schedule.QUIET_S
        assert all(a.start_s < b.start_s for a, b in pairwise(orders))
        assert all(order.start_s + order.seconds <= 60.0 + 0.3 for order in orders)


def test_hard_faults_leave_time_to_recover_unless_they_are_meant_to_overlap() -> None:
    for seed in range(50):
        free_from = 0.0
        for order in _draw(seed):
            if faults.load(order.fault).HARD:
                assert order.overlaps or order.start_s >= free_from
                free_from = max(free_from, order.start_s + order.seconds + schedule.RECOVERY_S)


def test_every_fault_comes_sooner_or_later() -> None:
    seen = {order.fault for seed in range(20) for order in _draw(seed)}
    assert seen == set(faults.NAMES)


@pytest.mark.parametrize("name", faults.NAMES)
def test_a_fault_says_what_it_does_and_what_it_needs(name: str) -> None:
    assert faults.purpose(name).endswith(".")
    assert set(faults.load(name).NEEDS) <= set(faults.CAPABILITIES)
    assert faults.missing(name, []) == list(faults.load(name).NEEDS)
    assert not faults.missing(name, faults.CAPABILITIES)


@pytest.mark.parametrize("name", sorted(scenarios.SCENARIOS))
def test_a_scenario_is_repeated_as_written_with_faults_that_exist(name: str) -> None:
    scenario = scenarios.SCENARIOS[name]
    orders = scenarios.orders(name, 5, 60.0)
    assert orders == scenarios.orders(name, 5, 60.0)
    cycles = int((60.0 - 2.0) // scenario.cycle_s)
    assert [order.fault for order in orders] == [step[2] for step in scenario.script] * cycles
    assert {order.fault for order in orders} <= set(faults.NAMES)
