"""Named scenarios: what others' logs were found to lose data by, as scripts of the same faults."""

from __future__ import annotations

import random
from dataclasses import dataclass

from suite.arena import Order


@dataclass(frozen=True, slots=True)
class Scenario:
    """``script``: ``(seconds into a cycle, how long, fault, target, settings)``, repeated with fresh seeds."""

    words: str
    nodes: int
    cycle_s: float
    script: tuple[tuple[float, float, str, str, dict[str, object]], ...]


SCENARIOS: dict[str, Scenario] = {
    "power-and-pauses": Scenario(
        "NATS 2.12 (Jepsen, 2025): some nodes are stopped, another loses power with what it had not synced, the first "
        "go on, others are stopped. A majority that never saw a write must not vote it away.",
        nodes=5,
        cycle_s=9.0,
        script=(
            (0.0, 2.5, "pause", "minority", {}),
            (1.0, 3.0, "power", "leader", {"brownout_ms": 50}),
            (3.0, 2.5, "pause", "minority", {}),
            (6.2, 1.0, "power", "all", {"brownout_ms": 50}),
        ),
    ),
    "one-flipped-bit": Scenario(
        "NATS 2.12 (Jepsen, 2025): a bit flips in the data file of a minority, followers or the leader, among kills. "
        "It must cost that copy alone.",
        nodes=3,
        cycle_s=7.0,
        script=(
            (0.0, 3.5, "rot", "follower", {"flips": 1}),
            (1.5, 1.0, "reset", "any", {"times": 1}),
            (5.0, 1.0, "kill", "leader", {}),
        ),
    ),
    "handover-under-fire": Scenario(
        "leadership is handed over and all nodes are restarted in turn, with partitions and kills in the middle.",
        nodes=3,
        cycle_s=14.0,
        script=(
            (0.0, 1.0, "transfer", "leader", {}),
            (0.1, 1.5, "partition", "leader", {"kind": "leader", "lost": True}),
            (3.5, 1.0, "transfer", "leader", {}),
            (3.6, 1.0, "kill", "leader", {}),
            (6.5, 1.0, "rolling", "all", {"pause_s": 0.0}),
            (8.0, 1.0, "lossy", "all", {"lose": 0.2, "double": 0.1}),
            (8.5, 0.5, "transfer", "leader", {}),
        ),
    ),
    "members-under-fire": Scenario(
        "members change while nodes are killed and cut off: one after the other is replaced, leaders too.",
        nodes=3,
        cycle_s=12.0,
        script=(
            (0.0, 1.0, "members", "follower", {}),
            (0.1, 1.0, "kill", "leader", {}),
            (2.0, 1.0, "partition", "leader", {"kind": "leader", "lost": True}),
            (5.5, 1.0, "members", "leader", {}),
            (5.6, 1.0, "partition", "leader", {"kind": "leader", "lost": False}),
            (8.0, 1.0, "kill", "follower", {}),
        ),
    ),
    "leader-alone-has-it": Scenario(
        "our own: followers that are slow to sync lose their power together, while the leader, which has it all, is "
        "stopped. What they had acknowledged must have been on their disks.",
        nodes=3,
        cycle_s=9.0,
        script=(
            (0.0, 0.7, "power", "followers", {"brownout_ms": 250}),
            (0.45, 4.5, "pause", "leader", {}),
        ),
    ),
    "coordinated-power-loss": Scenario(
        "NATS 2.12 (Jepsen, 2025): all nodes lose power at the same moment, again and again.",
        nodes=3,
        cycle_s=5.0,
        script=((0.0, 0.5, "power", "all", {"brownout_ms": 50}),),
    ),
}


def faults_of(name: str) -> set[str]:
    """What happens in the scenario."""
    return {fault for _, _, fault, _, _ in SCENARIOS[name].script}


def orders(name: str, seed: int, seconds: float) -> list[Order]:
    """The scenario's script, again and again for ``seconds``."""
    scenario = SCENARIOS[name]
    source = random.Random(f"scenario {seed}")
    found: list[Order] = []
    cycle = 2.0
    while cycle + scenario.cycle_s <= seconds:
        for at, lasts, fault, target, settings in scenario.script:
            start = cycle + at + source.uniform(0.0, 0.3)
            found.append(
                Order(len(found) + 1, start, lasts, fault, target, dict(settings), source.getrandbits(32), True)
            )
        cycle += scenario.cycle_s
    return found
