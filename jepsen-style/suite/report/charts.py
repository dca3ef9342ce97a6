"""The drawings of the report, as SVG that needs nothing else: one time axis for all of them."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from suite.arena import Happened
from suite.history import FAIL, INFO, OK
from suite.report.figures import SECOND, Gap
from suite.runner import Outcome

WIDTH, LEFT, RIGHT = 1120, 130, 14
BIN_S = 0.5
BINS_MAX = 600
LANE_PX = 16
POINTS_MAX = 6_000
_NAMES = {OK: "ok", FAIL: "fail", INFO: "info"}


class Axis:
    """Time to the right: seconds since the run began."""

    def __init__(self, seconds: float) -> None:
        self.seconds = max(1.0, seconds)

    def x(self, t_ns: float) -> float:
        share = min(1.0, max(0.0, t_ns / SECOND / self.seconds))
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def ticks(self, height: float) -> str:
        """Vertical lines with their seconds below."""
        step = next(one for one in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800) if self.seconds / one <= 14)
        parts = []
        for second in range(0, int(self.seconds) + 1, step):
            x = self.x(second * SECOND)
            label = f"{second} s" if step < 60 else f"{second // 60} min"
            parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height}"/>')
            parts.append(f'<text class="tick" x="{x}" y="{height + 13}" text-anchor="middle">{label}</text>')
        return "".join(parts)


def _svg(name: str, height: float, body: str, label: str) -> str:
    return (
        f'<svg id="{name}" class="chart" viewBox="0 0 {WIDTH} {height + 18}" role="img"'
        f' aria-label="{html.escape(label)}">'
        f'{body}<line class="cursor" x1="0" x2="0" y1="0" y2="{height}"/></svg>'
    )


def bands(axis: Axis, faults: Sequence[Happened], height: float) -> str:
    """The faults as faint stripes behind a chart."""
    return "".join(
        f'<rect class="band {"hit" if one.hit_leader else ""}" x="{axis.x(one.t0)}" y="0"'
        f' width="{_span(axis, one)}" height="{height}"/>'
        for one in faults
    )


def _span(axis: Axis, one: Happened) -> float:
    return round(max(2.0, axis.x(one.t1 or axis.seconds * SECOND) - axis.x(one.t0)), 1)


def faults_chart(axis: Axis, faults: Sequence[Happened]) -> str:
    """A lane for each kind of fault, a bar for each occurrence."""
    kinds = sorted({one.fault for one in faults})
    height = max(1, len(kinds)) * LANE_PX + 4
    parts = [axis.ticks(height)]
    for lane, kind in enumerate(kinds):
        y = lane * LANE_PX + 2
        parts.append(f'<text class="lane" x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{kind}</text>')
        for one in (one for one in faults if one.fault == kind):
            seconds = (one.t1 - one.t0) / SECOND
            title = html.escape(f"{one.t0 / SECOND:.1f} s, for {seconds:.1f} s: {one.words}")
            parts.append(
                f'<rect class="fault {"hit" if one.hit_leader else ""}" x="{axis.x(one.t0)}" y="{y}"'
                f' width="{_span(axis, one)}" height="{LANE_PX - 4}" rx="2"><title>{title}</title></rect>'
            )
    return _svg("faults", height, "".join(parts), "faults by kind over time")


def rates(outcome: Outcome, axis: Axis) -> tuple[float, list[list[int]]]:
    """Seconds a bin spans, and for each result how many operations ended in each bin."""
    bin_s = max(BIN_S, math.ceil(axis.seconds / BINS_MAX * 2) / 2)
    count = int(axis.seconds / bin_s) + 1
    bins = [[0] * count for _ in range(3)]
    for row in outcome.history.iter_publishes():
        if not row[8]:
            bins[row[3]][min(count - 1, int(row[1] / SECOND / bin_s))] += 1
    return bin_s, bins


def rate_chart(outcome: Outcome, axis: Axis, height: float = 170) -> str:
    """Operations that ended, a second, stacked by result."""
    bin_s, bins = rates(outcome, axis)
    top = max([sum(column) for column in zip(*bins, strict=True)] + [1]) / bin_s
    top = _nice(top)
    parts = [bands(axis, outcome.book, height), axis.ticks(height), _levels(height, top, "/s")]
    for place, column in enumerate(zip(*bins, strict=True)):
        y = height
        x, width = axis.x(place * bin_s * SECOND), axis.x((place + 1) * bin_s * SECOND) - axis.x(place * bin_s * SECOND)
        for result, number in enumerate(column):
            if number:
                tall = number / bin_s / top * height
                y -= tall
                parts.append(
                    f'<rect class="{_NAMES[result]}" x="{x}" y="{y:.1f}" width="{max(0.8, width - 0.4):.1f}"'
                    f' height="{tall:.1f}"/>'
                )
    return _svg("rates", height, "".join(parts), "operations that ended, a second, by result")


def _nice(value: float) -> float:
    scale = 10 ** math.floor(math.log10(value))
    return float(next(one * scale for one in (1, 2, 3, 4, 5, 6, 8, 10) if one * scale >= value))


def _levels(height: float, top: float, unit: str) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height * (1 - share)}" y2="{height * (1 - share)}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{height * (1 - share) + 4}" text-anchor="end">'
        f"{top * share:,.0f}{unit}</text>"
        for share in (0.5, 1.0)
    )


def latency_chart(outcome: Outcome, axis: Axis, height: float = 190) -> str:
    """A dot for each of a sample of operations: when it ended, how long it took."""
    count = outcome.history.publishes
    every = max(1, count // POINTS_MAX)
    low, high = 1.0, 10_000.0
    parts = [bands(axis, outcome.book, height), axis.ticks(height)]
    for ms in (1, 10, 100, 1_000, 10_000):
        y = _log_y(ms, low, high, height)
        label = f"{ms} ms" if ms < 1_000 else f"{ms // 1_000} s"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
    for place, row in enumerate(outcome.history.iter_publishes()):
        if row[3] == OK and place % every:
            continue
        y = _log_y((row[1] - row[0]) / 1e6, low, high, height)
        parts.append(f'<circle class="{_NAMES[row[3]]}" cx="{axis.x(row[1])}" cy="{y}" r="1.4"/>')
    return _svg("latencies", height, "".join(parts), "how long operations took, on a logarithmic scale")


def _log_y(ms: float, low: float, high: float, height: float) -> float:
    share = math.log10(min(high, max(low, ms)) / low) / math.log10(high / low)
    return round(height - share * (height - 6) - 2, 1)


def gap_chart(found: Sequence[Gap], axis: Axis, limit_s: float, height: float = 90) -> str:
    """A needle for each fault that hit the leader: how long no write was acknowledged."""
    top = _nice(max([gap.seconds for gap in found] + [limit_s]))
    y_limit = height * (1 - limit_s / top)
    parts = [axis.ticks(height), _levels(height, top, " s")]
    parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_limit:.1f}" y2="{y_limit:.1f}"/>')
    for gap in found:
        x = axis.x(gap.fault.t0)
        y, y_whole = (height * (1 - min(1.0, seconds / top)) for seconds in (gap.seconds, gap.whole_s))
        title = html.escape(f"{gap.whole_s:.2f} s, {gap.seconds:.2f} s with second faults, after: {gap.fault.words}")
        parts.append(f'<line class="needle mixed" x1="{x}" x2="{x}" y1="{y_whole:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<line class="needle" x1="{x}" x2="{x}" y1="{height}" y2="{y_whole:.1f}"/>')
        parts.append(f'<circle class="needle" cx="{x}" cy="{y_whole:.1f}" r="3.5"><title>{title}</title></circle>')
    return _svg("gaps", height, "".join(parts), "take-over gaps")
