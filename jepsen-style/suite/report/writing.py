"""The report's directory: results, faults, history, logs, and the page that shows them."""

from __future__ import annotations

import json
from dataclasses import asdict

from suite.report.figures import summary
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
