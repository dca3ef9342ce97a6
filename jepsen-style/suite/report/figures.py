"""The numbers of a run: rates, latencies, take-over gaps, faults by kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from suite.arena import Happened
from suite.history import OK
from suite.runner import Outcome

SECOND = 1_000_000_000
GAP_FROM_NS, GAP_UNTIL_NS = -SECOND // 20, SECOND // 2
"""A take-over gap begins about when its fault does."""
PROMISED_S = 2.0
"""With a majority alive and connected, writes resume within two election timeouts (P9)."""
RECOVERY_NS = SECOND
"""Until a node is back that the fault before took away: so long, a majority may still be missing."""
_PROCESS_FAULTS = frozenset(
    {"kill", "pause", "power", "broken-disk", "packets", "partition", "disk-full", "rot", "rolling"}
)


@dataclass(frozen=True, slots=True)
class Gap:
    """After a fault that hit the leader: how long no write was acknowledged. ``alone`` if no other fault was about
    until writes went on, or should have."""

    fault: Happened
    seconds: float
    alone: bool


def ack_times(outcome: Outcome) -> list[int]:
    """When publishes were acknowledged, in ns, in order."""
    return sorted(row[1] for row in outcome.history.iter_publishes() if row[3] == OK and not row[8])


def latencies_ms(outcome: Outcome) -> list[float]:
    """Of all acknowledged publishes, sorted."""
    return sorted((row[1] - row[0]) / 1e6 for row in outcome.history.iter_publishes() if row[3] == OK and not row[8])


def quantile(values: list[float], share: float) -> float:
    """Of sorted ``values``; 0 if there are none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def gaps(outcome: Outcome, times: list[int]) -> list[Gap]:
    """One for each fault that hit the leader and left a majority alone."""
    found = []
    minority = (len(outcome.cluster_names) - 1) // 2
    for one in outcome.book:
        if one.hit_leader and one.fault in _PROCESS_FAULTS and 1 <= len(one.nodes) <= minority:
            seconds = _silence_s(times, one.t0)
            until = one.t0 + int(min(seconds, PROMISED_S) * SECOND)
            near = any(
                other is not one and other.t0 < until and (other.t1 or 1 << 62) > one.t0 - RECOVERY_NS
                for other in outcome.book
            )
            found.append(Gap(one, seconds, not near))
    return found


def _silence_s(times: list[int], t0: int) -> float:
    """The longest pause between two acknowledgements that begins about ``t0``."""
    from bisect import bisect_left

    first = max(0, bisect_left(times, t0 + GAP_FROM_NS) - 1)
    longest = 0
    for i in range(first, len(times) - 1):
        if times[i] > t0 + GAP_UNTIL_NS:
            break
        longest = max(longest, times[i + 1] - max(times[i], t0))
    return longest / SECOND


def summary(outcome: Outcome) -> dict[str, Any]:
    """The last line of the program's output, and ``results.json``."""
    times, settings = ack_times(outcome), outcome.settings
    silences = gaps(outcome, times)
    alone = sorted(gap.seconds for gap in silences if gap.alone)
    every = sorted(gap.seconds for gap in silences)
    waits = latencies_ms(outcome)
    results = Counter(row[3] for row in outcome.history.iter_publishes())
    verdict: bool | str = "unknown" if outcome.valid is None else outcome.valid
    return {
        "valid": verdict,
        "seed": settings.seed,
        "seconds": settings.seconds,
        "anomalies": outcome.counts,
        "problems": outcome.problems,
        "operations": {"ok": results[0], "fail": results[1], "info": results[2], "reads": outcome.history.polls},
        "acknowledged_s": round(len(times) / max(1.0, outcome.used_s), 1),
        "messages": outcome.image.last_seq,
        "faults": dict(sorted(Counter(one.fault for one in outcome.book).items())),
        "fault_every_s": round(outcome.used_s / len(outcome.book), 2) if outcome.book else None,
        "left_out": sorted(outcome.left_out),
        "takeover_s": {
            "count": len(every),
            "p50": round(quantile(every, 0.5), 2),
            "p99": round(quantile(every, 0.99), 2),
            "alone": len(alone),
            "p99_alone": round(quantile(alone, 0.99), 2),
        },
        "latency_ms": {"p50": round(quantile(waits, 0.5), 1), "p99": round(quantile(waits, 0.99), 1)},
        "checked_in_s": round(outcome.checked_s, 1),
        "report": str(settings.report),
        **({"defect": settings.defect} if settings.defect else {}),
    }
