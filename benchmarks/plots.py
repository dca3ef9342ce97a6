"""Bar charts as SVG: one bar a system and variant, the median's length, a whisker from the least run to the greatest.

A small writer rather than a plotting library: a chart is rectangles and words, and the file stays readable in a diff.
Bars are drawn on a logarithmic scale when the figures span more than a factor of 30, and the axis says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.runner import number

WIDTH = 860
LABELS = 250
"""Room for the names on the left; figures need `FIGURES` on the right."""
FIGURES = 90
BAR = 18
GAP = 5
LOG_FROM = 30.0
COLOURS = ("#1f6feb", "#c9510c", "#2da44e", "#8250df", "#bf8700", "#cf222e", "#57606a", "#0a7ea4", "#a475f9")


def bars(title: str, metric: str, answers: Sequence[dict[str, Any]]) -> str:
    """An SVG of ``metric`` over ``answers`` (see `report.Results`), grouped by variant."""
    shown = [answer for answer in answers if metric in answer["metrics"]]
    systems = list(dict.fromkeys(answer["system"] for answer in shown))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(systems)}
    length = _Axis([answer["metrics"][metric] for answer in shown])
    body, y, cell = [], 58, None
    for answer in shown:
        if answer["cell"] != cell:
            cell = answer["cell"]
            y += 22
            body.append(f'<text x="8" y="{y - 6}" class="cell">{escape(cell)}</text>')
        body += _bar(answer, metric, y, length, colours[answer["system"]])
        y += BAR + GAP
    axis = "logarithmic" if length.logarithmic else "from 0"
    head = [
        f'<text x="8" y="24" class="title">{escape(title)}</text>',
        f'<text x="8" y="44" class="axis">{escape(metric)}, median of runs; the line spans all runs; {axis}</text>',
    ]
    return "\n".join([_OPEN.format(width=WIDTH, height=y + 8), *head, *body, "</svg>"]) + "\n"


class _Axis:
    """From a figure to a length in pixels."""

    def __init__(self, metrics: Sequence[dict[str, Any]]) -> None:
        values = [value for metric in metrics for value in metric["runs"] if value > 0] or [1.0]
        self.logarithmic = max(values) > LOG_FROM * min(values)
        self._low, self._high = float(min(values)) / 2, float(max(values))

    def __call__(self, value: float) -> float:
        room = WIDTH - LABELS - FIGURES
        if value <= 0:
            return 0.0
        if self.logarithmic:
            return room * math.log(value / self._low) / math.log(self._high / self._low)
        return room * value / self._high


def _bar(answer: dict[str, Any], metric: str, y: int, length: _Axis, colour: str) -> list[str]:
    values = answer["metrics"][metric]
    middle = y + BAR / 2
    low, high = LABELS + length(values["low"]), LABELS + length(values["high"])
    return [
        f'<text x="{LABELS - 8}" y="{middle + 4:g}" class="name">{escape(answer["system"])}</text>',
        f'<rect x="{LABELS}" y="{y}" width="{length(values["median"]):.1f}" height="{BAR}" fill="{colour}"/>',
        f'<path d="M{low:.1f} {middle:g}H{high:.1f}" class="spread"/>',
        f'<text x="{high + 6:.1f}" y="{middle + 4:g}">{number(values["median"])}</text>',
    ]


_OPEN = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<style>
text {{ font: 12px sans-serif; fill: #24292f }}
.title {{ font-size: 15px; font-weight: bold }}
.axis {{ fill: #57606a }}
.cell {{ font-weight: bold }}
.name {{ text-anchor: end }}
.spread {{ stroke: #24292f; stroke-width: 1.5; fill: none }}
</style>
<rect width="100%" height="100%" fill="white"/>"""
