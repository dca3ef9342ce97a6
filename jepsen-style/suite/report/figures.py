"""The numbers of a run: rates, latencies, take-over gaps, faults by kind."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from suite.arena import Happened
from suite.history import OK
from suite.runner import Outcome

SECOND = 1_000_000_000
GAP_FROM_NS, GAP_UNTIL_NS = -SECOND // 20, SECOND // 2
"""A take-over gap begins about when its fault does."""
PROMISED_S = 2.0
"""With a majority alive and connected, writes resume within two election timeouts (P9)."""
SILENCE_NS = SECOND // 2
"""Shorter pauses between acknowledgements are not looked at."""
_PROCESS_FAULTS = frozenset(
    {"kill", "pause", "power", "broken-disk", "packets", "partition", "disk-full", "rot", "rolling"}
)


@dataclass(frozen=True, slots=True)
class Gap:
    """After a fault that hit the leader: how long no write was acknowledged, and for how much of that, in one piece,
    one majority was whole (`availability`): this is what P9 is about."""

    fault: Happened
    seconds: float
    whole_s: float


@dataclass(frozen=True, slots=True)
class Silence:
    """From ``t0`` to ``t1`` (ns) no write was acknowledged; ``whole_s`` as in `Gap`."""

    t0: int
    t1: int
    whole_s: float

    def meanwhile(self, outcome: Outcome) -> str:
        """The faults that were about, in words."""
        return "; ".join(one.words for one in outcome.book if one.t0 < self.t1 and (one.t1 or one.t0) > self.t0)


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
            start, end = _silence(times, one.t0)
            found.append(Gap(one, (end - start) / SECOND, _whole_s(outcome, start, end)))
    return found


def silences(outcome: Outcome, times: list[int]) -> list[Silence]:
    """The times of the whole run without an acknowledgement; first the one that P9 has most to say about."""
    edges = [0, *times, int(outcome.used_s * SECOND)]
    pairs = [pair for pair in pairwise(edges) if pair[1] - pair[0] > SILENCE_NS]
    found = [Silence(start, end, _whole_s(outcome, start, end)) for start, end in pairs]
    return sorted(found, key=lambda one: (-one.whole_s, one.t0))


def _whole_s(outcome: Outcome, start: int, end: int) -> float:
    if outcome.availability is None:
        return (end - start) / SECOND
    return outcome.availability.whole_ns(start, end) / SECOND


def _silence(times: list[int], t0: int) -> tuple[int, int]:
    """From when to when the longest pause between two acknowledgements lasted that begins about ``t0``."""
    first = max(0, bisect_left(times, t0 + GAP_FROM_NS) - 1)
    longest = t0, t0
    for i in range(first, len(times) - 1):
        if times[i] > t0 + GAP_UNTIL_NS:
            break
        start = max(times[i], t0)
        if times[i + 1] - start > longest[1] - longest[0]:
            longest = start, times[i + 1]
    return longest


def summary(outcome: Outcome) -> dict[str, Any]:
    """The last line of the program's output, and ``results.json``."""
    times, settings = ack_times(outcome), outcome.settings
    found = gaps(outcome, times)
    every = sorted(gap.seconds for gap in found)
    whole = sorted(gap.whole_s for gap in found)
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
            "p50_whole": round(quantile(whole, 0.5), 2),
            "p99_whole": round(quantile(whole, 0.99), 2),
            "longest_whole": round(max((one.whole_s for one in silences(outcome, times)), default=0.0), 2),
        },
        "latency_ms": {"p50": round(quantile(waits, 0.5), 1), "p99": round(quantile(waits, 0.99), 1)},
        "checked_in_s": round(outcome.checked_s, 1),
        "report": str(settings.report),
        **({"defect": settings.defect} if settings.defect else {}),
    }
