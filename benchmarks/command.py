"""The command line: ``list``, ``run``, ``compare`` and ``report``."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import machine, report
from benchmarks.memory import page_cache
from benchmarks.payloads import made_up, read_lines
from benchmarks.processes import raise_file_limit
from benchmarks.question import Question, Scale
from benchmarks.questions import ALL as QUESTIONS
from benchmarks.runner import Outcome, compare
from benchmarks.system import System
from benchmarks.systems import ALL as SYSTEMS

OURS = "lanyinglog"
ROUNDS = 5


def main(arguments: Sequence[str]) -> int:
    """Does what ``arguments`` say; 0 if all that was to be measured was, 1 if something failed, 2 for usage."""
    options = _parser().parse_args(arguments)
    if options.verb == "list":
        _list()
        return 0
    if options.verb == "report":
        return _report(options)
    return _measure(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="the questions, the systems, and what is missing to measure those")
    run = verbs.add_parser("run", help="one question, put to lanyinglog (or --systems)")
    run.add_argument("questions", metavar="NAME", type=_names(QUESTIONS), help=f"one of {', '.join(QUESTIONS)}")
    run.set_defaults(systems=[OURS])
    versus = verbs.add_parser("compare", help="all questions (or --questions), put to all systems that are there")
    versus.add_argument("--questions", metavar="A,B", type=_names(QUESTIONS), default=list(QUESTIONS))
    versus.set_defaults(systems=list(SYSTEMS))
    for one in (run, versus):
        one.add_argument("--systems", metavar="A,B", type=_names(SYSTEMS), help=f"of {', '.join(SYSTEMS)}")
        one.add_argument("--rounds", metavar="N", type=int, help=f"runs whose median counts [{ROUNDS}; --quick: 1]")
        one.add_argument("--quick", action="store_true", help="seconds, for the order of magnitude")
        one.add_argument("--lines", metavar="PATH", type=Path, action="append", help="log lines: files or directories")
        one.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    shown = verbs.add_parser("report", help="what --json wrote, as Markdown with plots")
    shown.add_argument("files", metavar="FILE", type=Path, nargs="+", help="of runs that asked different questions")
    shown.add_argument("--plots", metavar="DIR", type=Path, help="write SVG plots there, and refer to them")
    shown.add_argument("--into", metavar="PAGE", type=Path, help="in place of the results in a document, not printed")
    return parser


def _names(known: dict[str, Question] | dict[str, System]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"no {name!r}; there are {', '.join(known)}")
        return names

    return parse


def _list() -> None:
    print("questions")
    for question in QUESTIONS.values():
        print(f"  {question.name:12} {question.asks}")
    print("\nsystems")
    for system in SYSTEMS.values():
        missing = system.missing()
        print(f"  {system.name:18} {system.durability}; {system.client}")
        print(f"  {'':18} {'missing: ' + '; '.join(missing) if missing else system.version()}")
    print(f"\npip is the one of this interpreter: {sys.executable} -m pip")


def _report(options: argparse.Namespace) -> int:
    try:
        results = report.merged([json.loads(file.read_text()) for file in options.files])
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    page = report.markdown(results, plots=options.plots)
    if options.into:
        options.into.write_text(report.replace_results(options.into.read_text(), page))
    else:
        print(page, end="")
    return 0


def _measure(options: argparse.Namespace) -> int:
    raise_file_limit()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: clusters go, figures so far are shown
    systems, skipped = _installed(options.systems)
    if not systems:
        print(f"nothing to measure: {skipped}", file=sys.stderr)
        return 1
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    try:
        lines = read_lines(options.lines) if options.lines else made_up()
    except (OSError, ValueError) as error:
        print(f"--lines: {error}", file=sys.stderr)
        return 2
    facts = {
        **machine.facts(),
        "log lines": f"{len(lines)} of {'--lines' if options.lines else 'an imagined web server'},"
        f" {sum(map(len, lines)) / len(lines):.0f} bytes each",
        "rounds": f"{rounds}{', quick' if options.quick else ''}",
    }
    outcome = Outcome()
    settling = contextlib.nullcontext(lambda: 0) if options.quick else page_cache()
    try:
        with settling as settle:
            compare(
                [QUESTIONS[name] for name in options.questions],
                systems,
                outcome,
                rounds=rounds,
                scale=Scale(options.quick, lines),
                report=lambda words: print(words, file=sys.stderr, flush=True),
                settle=settle,
            )
    except (KeyboardInterrupt, BaseExceptionGroup):  # trio wraps an interrupt into a group
        outcome.troubles.append("the run was interrupted")
    results = report.as_json(facts, systems, skipped, outcome)
    print(report.text(results), end="")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if outcome.troubles else 0


def _installed(names: Sequence[str]) -> tuple[list[System], dict[str, str]]:
    """The systems that can be measured, and what is missing for the others, by name."""
    missing = {name: "; ".join(SYSTEMS[name].missing()) for name in names}
    return [SYSTEMS[name] for name in names if not missing[name]], {n: why for n, why in missing.items() if why}
