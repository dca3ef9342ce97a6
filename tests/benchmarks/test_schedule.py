"""Open-loop load: due times do not depend on what was late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.schedule import STAMP_BYTES, Schedule, latency_s, stamp

schedules = st.builds(Schedule, st.floats(0.5, 1e6), st.integers(1, 10_000))
moments = st.integers(0, 10**12)


def test_a_schedule_lasts_as_long_as_it_is_asked() -> None:
    assert Schedule.lasting(2.5, rate=1_000) == Schedule(1_000, 2_500)


@given(schedules, moments, moments)
def test_what_is_due_is_what_has_a_due_time_until_now(schedule: Schedule, begins_ns: int, now_ns: int) -> None:
    count = schedule.due_count(begins_ns, now_ns)
    assert 0 <= count <= schedule.count
    assert count == 0 or schedule.due_ns(begins_ns, count - 1) <= now_ns
    assert count == schedule.count or schedule.due_ns(begins_ns, count) > now_ns


def test_a_stall_makes_everything_due_that_it_held_up() -> None:
    schedule = Schedule(1_000, 10_000)
    assert schedule.due_count(0, 1_000_000_000) - schedule.due_count(0, 0) == 1_000


def test_a_late_message_counts_from_when_it_was_due() -> None:
    """Coordinated omission would count from when it was sent."""
    schedule = Schedule(10, 100)
    assert latency_s(stamp(schedule.due_ns(0, 5), 64), 2_000_000_000) == pytest.approx(1.5)


@given(st.integers(0, 2**64 - 1), st.integers(STAMP_BYTES, 500))
def test_a_stamped_payload_has_its_length_and_its_time(due_ns: int, payload_bytes: int) -> None:
    payload = stamp(due_ns, payload_bytes)
    assert len(payload) == payload_bytes
    assert latency_s(payload, due_ns) == 0


def test_a_payload_without_a_stamp_has_no_latency() -> None:
    with pytest.raises(ValueError, match="stamp"):
        latency_s(bytes(64), 0)
