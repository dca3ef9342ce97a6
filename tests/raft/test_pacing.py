"""Who is far behind is fed at a pace: slowly enough for the others, and always faster than the log grows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from raft.cluster import STEP_S, Cluster

from lanyinglog.raft.pacing import BURST_BYTES, Pace

RATE = 1_000_000.0
STEPS = st.lists(
    st.tuples(st.sampled_from(("grow", "send", "wait")), st.integers(1, 3_000_000)), min_size=1, max_size=60
)


@given(steps=STEPS)
def test_no_more_is_sent_than_the_rate_and_twice_the_growth_allow(steps: list[tuple[str, int]]) -> None:
    pace, now, sent, grown, largest = Pace(RATE), 100.0, 0, 0, 0
    for kind, amount in steps:
        if kind == "grow":
            pace.grew(amount)
            grown += amount
        elif kind == "send" and pace.ready_at(now) <= now:
            pace.spend(amount, now)
            sent += amount
            largest = max(largest, amount)
        elif kind == "wait":
            now += amount / 1e6
        assert sent <= BURST_BYTES + RATE * (now - 100.0) + 2 * grown + largest


@given(sizes=st.lists(st.integers(1, 9_000_000), min_size=1, max_size=50))
def test_who_is_told_to_wait_may_go_on_when_he_was_told(sizes: list[int]) -> None:
    pace, now = Pace(RATE), 0.0
    for size in sizes:
        pace.spend(size, now)
        now = pace.ready_at(now)
        assert pace.ready_at(now + 1e-6) <= now + 1e-6


def test_twice_what_the_log_grows_by_may_be_sent_at_once() -> None:
    pace = Pace(1.0)
    pace.spend(BURST_BYTES + 1, 0.0)
    for _ in range(100):
        pace.grew(1_000)
        assert pace.ready_at(0.0) == 0.0
        pace.spend(2_000, 0.0)


def test_a_long_silence_does_not_make_a_flood() -> None:
    pace = Pace(RATE)
    assert pace.ready_at(1e6) == 1e6
    pace.spend(BURST_BYTES + 1, 1e6)
    assert pace.ready_at(1e6) > 1e6


def test_a_follower_far_behind_is_fed_bit_by_bit_while_the_others_go_on() -> None:
    """40 MiB behind: a second or more at 32 MiB/s, in which it hears from its leader and the log grows."""
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.cut("n1", "n3")
    for number in range(40):
        cluster.propose("n1", b"\\0%d" % number + bytes(1 << 20))
        cluster.settle()
    term = cluster["n1"].term
    cluster.heal()
    had, ticks = cluster["n3"].last_index, 0
    while cluster["n3"].last_index < cluster["n1"].last_index:
        cluster.tick(STEP_S)
        cluster.propose("n1", b"\\0small %d" % ticks)
        cluster.settle()
        ticks += 1
        has = cluster["n3"].last_index
        assert (has - had) << 20 <= (32 << 20) * STEP_S + (4 << 20) or has == cluster["n1"].last_index
        had = has
        assert cluster["n1"].commit == cluster["n1"].last_index, "the others do not wait"
    assert 0.6 / STEP_S < ticks < 3 / STEP_S, "about a second for what is not within the last window"
    assert (cluster["n1"].leads, cluster["n1"].term) == (True, term)
    assert cluster["n3"].commands() == cluster["n1"].commands()
