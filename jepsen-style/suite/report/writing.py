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
    """A page that leads to the pages of several rounds."""
    rows = "".join(
        f'<tr><td><a href="{html.escape(part.name)}/index.html">{html.escape(part.name)}</a></td>'
        f"<td>{told['valid']}</td>"
        f"<td>{told['seed']}</td><td>{told['operations']['ok']:,}</td><td>{sum(told['faults'].values())}</td>"
        f"<td>{html.escape(', '.join(told['anomalies']))}</td></tr>"
        for part, told in rounds
    )
    style = (Path(__file__).parent / "page.css").read_text()
    (directory / "index.html").write_text(
        f'<!doctype html><meta charset="utf-8"><title>lanyinglog: {len(rounds)} rounds</title><style>{style}</style>'
        "<main><section><h1>Rounds</h1><table><tr><th>round</th><th>valid</th><th>seed</th><th>acknowledged</th>"
        f"<th>faults</th><th>anomalies</th></tr>{rows}</table></section></main>"
    )
