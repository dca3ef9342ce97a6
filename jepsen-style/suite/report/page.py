"""The report as one page that needs no network: what happened, what was found, and how one reads it."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from suite import faults, scenarios, workloads
from suite.checkers import ANOMALIES, Finding
from suite.report import charts
from suite.report.figures import PROMISED_S, SECOND, ack_times, gaps, silences, summary
from suite.report.terminal import verdict
from suite.runner import Outcome

HERE = Path(__file__).parent
LOG_BYTES_MAX = 48 << 10
SILENCES_MAX = 20
_e = html.escape


def page(outcome: Outcome) -> str:
    """The whole page."""
    told = summary(outcome)
    axis = charts.Axis(max([outcome.used_s, *(one.t1 / SECOND for one in outcome.book)]))
    sections = [
        _head(outcome, told),
        _cards(outcome, told),
        _found(outcome),
        _timeline(outcome, axis),
        _checked(outcome),
        _faults(outcome),
        _workloads(outcome),
        _logs(outcome),
        (HERE / "how.html").read_text(),
    ]
    style, script = (HERE / "page.css").read_text(), (HERE / "page.js").read_text()
    data = json.dumps(
        {
            "seconds": axis.seconds,
            "left": charts.LEFT,
            "right": charts.RIGHT,
            "width": charts.WIDTH,
            "rates": charts.rates(outcome, axis),
            "faults": [[one.t0 / SECOND, (one.t1 or one.t0) / SECOND, one.words] for one in outcome.book],
        }
    ).replace("</", "<\\/")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_e(verdict(outcome))} lanyinglog, seed {outcome.settings.seed}</title><style>{style}</style></head>"
        f'<body><main>{"".join(sections)}</main><div id="tip"></div>'
        f'<script type="application/json" id="data">{data}</script><script>{script}</script></body></html>'
    )


# --------------------------------------------------------------------------------------------------------- the verdict
def _head(outcome: Outcome, told: dict[str, Any]) -> str:
    settings = outcome.settings
    kind = {True: "valid", False: "violation", None: "unknown"}[outcome.valid]
    return (
        f'<header class="{kind}"><p class="what">lanyinglog under fire</p><h1>{_e(verdict(outcome))}</h1>'
        f"<p>{_e(_sentence(outcome, told))}</p>"
        f'<p class="replay">Do it again: <code>{_e(settings.replay)}</code></p>'
        f'<p class="place">It ran {_e(outcome.place)}.</p></header>'
    )


def _sentence(outcome: Outcome, told: dict[str, Any]) -> str:
    settings, operations = outcome.settings, told["operations"]
    what = "a planted defect" if settings.defect else "faults"
    if settings.scenario:
        what = f"the scenario {settings.scenario} ({scenarios.SCENARIOS[settings.scenario].words})"
    text = (
        f"For {outcome.used_s:.0f} seconds, clients wrote to and read from a cluster of {settings.nodes} real processes"
        f" while it met {what}: {len(outcome.book)} in all, one every {told['fault_every_s'] or '-'} s. It acknowledged"
        f" {operations['ok']:,} operations ({told['acknowledged_s']:,} a second), refused {operations['fail']:,} for"
        f" certain and left {operations['info']:,} in doubt. Afterwards every acknowledgement and read was compared"
        f" with the {told['messages']:,} messages in the data files of all nodes."
    )
    if settings.defect:
        text += f" The nodes were started with the defect {settings.defect}: here a violation is the success."
    if outcome.valid is None:
        text += " Nothing can be said, because " + ("; ".join(outcome.problems) or "too little was acknowledged") + "."
    return text


def _cards(outcome: Outcome, told: dict[str, Any]) -> str:
    takeover, latency, operations = told["takeover_s"], told["latency_ms"], told["operations"]
    cards = (
        ("acknowledged", f"{operations['ok']:,}", f"{told['acknowledged_s']:,}/s on average"),
        ("in doubt", f"{operations['info']:,}", "outcome unknown: may or may not be stored"),
        ("refused", f"{operations['fail']:,}", "for certain: must not be stored"),
        ("reads", f"{operations['reads']:,}", "each compared with the log"),
        ("faults", f"{len(outcome.book):,}", f"of {len(told['faults'])} kinds"),
        (
            "take-over",
            f"{takeover['p50_whole']} s",
            f"p50 of {takeover['count']}, with a majority alive and connected; p99 {takeover['p99_whole']} s"
            f" (and {takeover['p99']} s with second faults counted in)",
        ),
        ("latency", f"{latency['p50']} ms", f"p50, faults included; p99 {latency['p99']} ms"),
        ("converged in", f"{outcome.converged_s:.1f} s", "after healing, all nodes equal"),
    )
    return (
        '<section class="cards">'
        + "".join(
            f'<div class="card"><h3>{_e(name)}</h3><p class="number">{_e(number)}</p><p>{_e(words)}</p></div>'
            for name, number, words in cards
        )
        + "</section>"
    )


def _found(outcome: Outcome) -> str:
    if not outcome.counts:
        return ""
    parts = ["<section><h2>What was found</h2>"]
    for anomaly, count in outcome.counts.items():
        parts.append(f'<article class="anomaly"><h3>{_e(anomaly)} <span class="count">{count:,}</span></h3>')
        parts.append(f"<p>{_e(ANOMALIES[anomaly])}</p>")
        parts += [_proof(one, outcome) for one in outcome.findings if one.anomaly == anomaly]
        parts.append("</article>")
    return "".join(parts) + "</section>"


def _proof(finding: Finding, outcome: Outcome) -> str:
    when = f"at {finding.t_ns / SECOND:.2f} s: " if finding.t_ns else ""
    near = [one.words for one in outcome.book if finding.t_ns and one.t0 <= finding.t_ns <= (one.t1 or one.t0)]
    meanwhile = f'<p class="meanwhile">meanwhile: {_e("; ".join(near))}</p>' if near else ""
    lines = "".join(f"<li><code>{_e(json.dumps(line)[:900])}</code></li>" for line in finding.proof)
    proof = f"<ol>{lines}</ol>" if lines else ""
    return f'<div class="proof"><p>{_e(when + finding.words)}.</p>{meanwhile}{proof}</div>'


# -------------------------------------------------------------------------------------------------------- the timeline
def _timeline(outcome: Outcome, axis: charts.Axis) -> str:
    times = ack_times(outcome)
    found = gaps(outcome, times)
    gap_part = (
        f"<h3>Take-over gaps</h3><p>After each fault that hit the leader and left a majority alone: for how long no"
        f" write was acknowledged. The dot is how long that was so with one majority alive and connected, and the"
        f" line is the promise for it, {PROMISED_S:g} s; what is above a dot, a second fault took from the majority"
        f" that was to take over.</p>{charts.gap_chart(found, axis, PROMISED_S)}"
        if found
        else ""
    ) + _silences(outcome, times)
    return (
        '<section id="timeline"><h2>What happened when</h2>'
        '<p class="legend"><span class="key ok"></span>acknowledged <span class="key info"></span>in doubt'
        ' <span class="key fail"></span>refused <span class="key fault"></span>fault'
        ' <span class="key fault hit"></span>fault that hit the leader</p>'
        "<h3>Faults</h3>"
        f"{charts.faults_chart(axis, outcome.book)}"
        "<h3>Operations that ended, a second</h3>"
        f"{charts.rate_chart(outcome, axis)}"
        "<h3>How long they took</h3>"
        f"{charts.latency_chart(outcome, axis)}{gap_part}</section>"
    )


def _silences(outcome: Outcome, times: list[int]) -> str:
    found = silences(outcome, times)[:SILENCES_MAX]
    rows = [
        (
            f"{one.t0 / SECOND:.2f}",
            f"{(one.t1 - one.t0) / SECOND:.2f}",
            f"{one.whole_s:.2f}",
            _e(one.meanwhile(outcome)),
        )
        for one in found
    ]
    if not rows:
        return ""
    heads = ("at s", "for s", "of these with one majority alive and connected", "meanwhile")
    return f"<details><summary>when no write was acknowledged</summary>{_table(heads, rows)}</details>"


# ----------------------------------------------------------------------------------------------------------- the lists
def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_e(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _checked(outcome: Outcome) -> str:
    rows = [
        (
            _mark(outcome.counts.get(name, 0)),
            f"<code>{_e(name)}</code>",
            _e(words),
        )
        for name, words in ANOMALIES.items()
    ]
    return f"<section><h2>What was looked for</h2>{_table(('found', 'anomaly', 'what it would be'), rows)}</section>"


def _mark(count: int) -> str:
    return f'<span class="mark bad">{count:,}</span>' if count else '<span class="mark good">none</span>'


def _faults(outcome: Outcome) -> str:
    counts = Counter(one.fault for one in outcome.book)
    rows = [(str(count), f"<code>{name}</code>", _e(faults.purpose(name))) for name, count in counts.most_common()]
    rows += [("left out", f"<code>{_e(name)}</code>", _e(why)) for name, why in outcome.left_out.items()]
    every = [
        (f"{one.t0 / SECOND:.2f}", f"{(one.t1 - one.t0) / SECOND:.2f}", f"<code>{one.fault}</code>", _e(one.words))
        for one in sorted(outcome.book, key=lambda one: one.t0)
    ]
    skipped = f"<p>{outcome.skipped} more were due and found nobody free.</p>" if outcome.skipped else ""
    return (
        f"<section><h2>Faults</h2>{_table(('times', 'fault', 'what it does'), rows)}{skipped}"
        f"<details><summary>all {len(every)}, in order</summary>"
        f"{_table(('at s', 'for s', 'fault', 'what was done'), every)}</details></section>"
    )


def _workloads(outcome: Outcome) -> str:
    rows = [(f"<code>{name}</code>", _e(workloads.purpose(name))) for name in outcome.settings.workloads]
    errors = [(f"{count:,}", f"<code>{_e(code)}</code>") for code, count in sorted(outcome.history.errors.items())]
    table = f"<h3>Errors that clients met</h3>{_table(('times', 'code'), errors)}" if errors else ""
    return f"<section><h2>Workloads</h2>{_table(('workload', 'what it does'), rows)}{table}</section>"


def _logs(outcome: Outcome) -> str:
    parts = [
        "<section><h2>Logs and files</h2><p>Beside this page: <code>results.json</code>, <code>faults.jsonl</code>,"
    ]
    parts.append(" the history as <code>history-*.jsonl</code>")
    parts.append(", the data files in <code>data/</code>" if outcome.counts else "")
    parts.append(", and the nodes' logs, of which the ends are here.</p>")
    for file in sorted((outcome.settings.report / "nodes").glob("*.log")):
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, 2) - LOG_BYTES_MAX))
            text = opened.read().decode(errors="replace")
        parts.append(f"<details><summary>{_e(file.stem)}</summary><pre>{_e(text)}</pre></details>")
    return "".join(parts) + "</section>"
