"""What was measured, for people and programs: JSON, a table on the terminal, Markdown with plots.

The JSON is the record: the other forms are made from it, so a report can be made again from what was measured once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.questions import ALL as QUESTIONS
from benchmarks.runner import Outcome, number
from benchmarks.system import System

RESULTS_BEGIN, RESULTS_END = "<!-- results -->", "<!-- end of results -->"
Results = dict[str, Any]
"""``machine``: fact by name; ``systems``: by name ``version``, ``client``, ``durability``; ``skipped``: why, by name;
``troubles``: sentences; ``answers``: each with ``question``, ``cell``, ``system`` and ``metrics``, by name ``median``,
``low``, ``high`` and ``runs``."""


def as_json(facts: dict[str, str], systems: Sequence[System], skipped: dict[str, str], outcome: Outcome) -> Results:
    """All of a run, ready for `json.dumps`."""
    return {
        "machine": facts,
        "systems": {
            one.name: {"version": one.version(), "client": one.client, "durability": one.durability} for one in systems
        },
        "skipped": skipped,
        "troubles": outcome.troubles,
        "answers": [
            {
                "question": answer.question,
                "cell": answer.cell,
                "system": answer.system,
                "metrics": {
                    name: {"median": one.median, "low": one.low, "high": one.high, "runs": list(one.runs)}
                    for name, one in answer.metrics.items()
                },
            }
            for answer in outcome.answers()
        ],
    }


def merged(parts: Sequence[Results]) -> Results:
    """Runs of one machine as one. `ValueError` where two asked the same: different runs are not to be compared."""
    whole: Results = {"machine": {}, "systems": {}, "skipped": {}, "troubles": [], "answers": []}
    asked: set[str] = set()
    facts: dict[str, list[str]] = {}
    for part in parts:
        questions = set(by_question(part))
        if twice := asked & questions:
            raise ValueError(f"asked in more than one of these runs: {', '.join(sorted(twice))}")
        asked |= questions
        for name, fact in part["machine"].items():
            facts.setdefault(name, []).append(fact)
        whole["systems"] |= part["systems"]
        whole["skipped"] |= part["skipped"]
        whole["troubles"] += part["troubles"]
        whole["answers"] += part["answers"]
    whole["machine"] = {name: "; ".join(dict.fromkeys(said)) for name, said in facts.items()}
    whole["skipped"] = {name: why for name, why in whole["skipped"].items() if name not in whole["systems"]}
    return whole


def text(results: Results) -> str:
    """For a terminal."""
    lines = ["", *(f"{name}: {fact}" for name, fact in results["machine"].items())]
    for question, answers in by_question(results).items():
        lines += ["", f"{question}: {QUESTIONS[question].asks}"]
        lines += aligned(table(answers))
    lines += ["", "durability"]
    lines += aligned([[name, f"{one['durability']} ({one['version']})"] for name, one in results["systems"].items()])
    lines += [f"skipped: {name}: needs {why}" for name, why in results["skipped"].items()]
    lines += [f"failed: {words}" for words in results["troubles"]]
    return "\n".join(lines) + "\n"


def by_question(results: Results) -> dict[str, list[dict[str, Any]]]:
    """The answers of each question that has any."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for answer in results["answers"]:
        grouped.setdefault(answer["question"], []).append(answer)
    return grouped


def table(answers: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of variant, system and metrics; the first row is the heading."""
    names = list(dict.fromkeys(name for answer in answers for name in answer["metrics"]))
    rows = [["", "", *names]]
    for answer in answers:
        metrics = answer["metrics"]
        rows.append([answer["cell"], answer["system"], *(_spread(metrics.get(name)) for name in names)])
    return rows


def _spread(metric: dict[str, Any] | None) -> str:
    """Median and, if there was more than one run, least and greatest."""
    if metric is None:
        return "-"
    median = number(metric["median"])
    return median if len(metric["runs"]) == 1 else f"{median} ({number(metric['low'])} - {number(metric['high'])})"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
    return ["  " + "  ".join(one.ljust(width) for one, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown(results: Results, *, plots: Path | None = None) -> str:
    """For documents. With ``plots`` a directory, an SVG a question is written there and referred to."""
    parts = ["| machine | |\n|---|---|\n" + "".join(f"| {k} | {v} |\n" for k, v in results["machine"].items())]
    parts.append(
        "| system | acknowledged means | client | version |\n|---|---|---|---|\n"
        + "".join(
            f"| {name} | {one['durability']} | {one['client']} | {one['version']} |\n"
            for name, one in results["systems"].items()
        )
    )
    for question, answers in by_question(results).items():
        parts.append(_section(question, answers, plots))
    return "\n".join(parts)


def replace_results(page: str, results: str) -> str:
    """``page`` with ``results`` between its marks; `ValueError` if it has none."""
    before, begins, rest = page.partition(RESULTS_BEGIN)
    _, ends, after = rest.partition(RESULTS_END)
    if not begins or not ends:
        raise ValueError(f"the page has no {RESULTS_BEGIN} ... {RESULTS_END}")
    return f"{before}{begins}\n\n{results}\n{ends}{after}"


def _section(question: str, answers: Sequence[dict[str, Any]], directory: Path | None) -> str:
    heading, *rows = table(answers)
    body = "".join(f"| {' | '.join(row)} |\n" for row in [heading, ["---"] * len(heading), *rows])
    picture = ""
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{question}.svg"
        file.write_text(plots.bars(QUESTIONS[question].asks, QUESTIONS[question].headline, answers))
        picture = f"![{QUESTIONS[question].asks}]({directory.name}/{file.name})\n\n"
    return f"## {question}: {QUESTIONS[question].asks}\n\n{picture}{body}"
