"""The report's directory: results, faults, history, logs, and the page that shows them."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from suite.report.figures import summary
from suite.report.page import page
from suite.runner import Outcome


def write(outcome: Outcome) -> None:
    """All files that were not written while the run went on."""
    directory = outcome.settings.report
    told = summary(outcome)
    told["findings"] = [asdict(one) for one in outcome.findings]
    (directory / "results.json").write_text(json.dumps(told, indent=2) + "\n")
    with (directory / "faults.jsonl").open("w") as file:
        for happened in outcome.book:
            file.write(json.dumps(asdict(happened)) + "\n")
    (directory / "index.html").write_text(page(outcome))


def write_rounds(directory: Path, rounds: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """A page that says what all rounds came to and leads to the page of each."""
    style = (Path(__file__).parent / "page.css").read_text()
    words = {True: "valid", False: "violation", "unknown": "unknown"}
    worst = max((words[told["valid"]] for _, told in rounds), key=("valid", "unknown", "violation").index)
    rows = "".join(
        f'<tr><td><a href="{html.escape(part.name)}/index.html">{html.escape(part.name)}</a></td>'
        f"<td>{words[told['valid']].upper()}</td>"
        f"<td>{told['seed']}</td><td>{told['operations']['ok']:,}</td><td>{sum(told['faults'].values())}</td>"
        f"<td>{html.escape(', '.join(told['anomalies']) or 'none')}</td></tr>"
        for part, told in rounds
    )
    (directory / "index.html").write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{worst.upper()} lanyinglog, {len(rounds)} rounds</title><style>{style}</style></head><body><main>"
        f'<header class="{worst}"><p class="what">lanyinglog under fire</p><h1>{_sentence(rounds, worst)}</h1>'
        "<p>Each round had a fresh cluster, its own schedule of faults, and its own checks; its page has the proof.</p>"
        "</header><section><table><tr><th>round</th><th>verdict</th><th>seed</th><th>acknowledged</th>"
        f"<th>faults</th><th>anomalies</th></tr>{rows}</table></section></main></body></html>"
    )


def _sentence(rounds: Sequence[tuple[Path, dict[str, Any]]], worst: str) -> str:
    """The verdict over all rounds."""
    found = sorted({name for _, told in rounds for name in told["anomalies"]})
    count = f"{len(rounds)} round{'s' if len(rounds) > 1 else ''}"
    if worst == "violation":
        return f"VIOLATION in {count}: {html.escape(', '.join(found))}."
    if worst == "unknown":
        return f"UNKNOWN: of {count}, at least one could say nothing."
    return f"VALID: no promise was broken in {count}."
