"""``python jepsen-style run``: options, rounds, the verdict."""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from suite import faults, report, sandbox, workloads
from suite.defects import DEFECTS
from suite.presets import OPERATIONS_S, PRESETS
from suite.progress import Progress
from suite.runner import Outcome, Run
from suite.sandbox import Sandbox
from suite.scenarios import SCENARIOS
from suite.settings import Settings

VALID, VIOLATION, UNKNOWN = 0, 1, 2
DEFECT_ROUNDS, DEFECT_S = 8, 20.0
"""A planted defect is looked for in so many rounds of so many seconds."""


def main(arguments: list[str]) -> int:
    """Does what ``arguments`` ask for; 0 if no promise was broken, 1 if one was, 2 if nothing can be said."""
    options = _parser().parse_args(arguments)
    for listing in (options.list_faults, options.list_workloads, options.list_defects, options.list_scenarios):
        if listing:
            print(listing)
            return VALID
    seed = options.seed if options.seed is not None else secrets.randbelow(1 << 31)
    directory = options.report or Path("jepsen-report") / time.strftime("%Y%m%d-%H%M%S")
    directory.mkdir(parents=True, exist_ok=True)
    if options.faults is None:
        options.faults = DEFECTS[options.defect].faults if options.defect else faults.NAMES
    rounds = 1 if options.seconds is not None else PRESETS[options.preset].rounds
    if options.defect:
        options.scenario = options.scenario or DEFECTS[options.defect].scenario
        rounds, options.seconds = DEFECT_ROUNDS, options.seconds or DEFECT_S
    settings = _settings(options, seed, directory.resolve())
    print(f"seed {seed}; replay: {settings.replay}", flush=True)

    def run(place: Sandbox) -> int:
        signal.signal(signal.SIGTERM, _interrupt)
        return _rounds(settings, rounds, place)

    code = sandbox.enter(run, isolate=not options.no_isolation)
    for work in directory.rglob("work"):
        work.rmdir()  # where the run's own memory was mounted: empty
    return code


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _rounds(settings: Settings, rounds: int, place: Sandbox) -> int:
    """All rounds, until one finds something."""
    print(place.words, flush=True)
    summary: dict[str, Any] = {"valid": "unknown", "seed": settings.seed}
    code = UNKNOWN
    began = time.monotonic()
    told: list[tuple[Path, dict[str, Any]]] = []
    try:
        for number in range(rounds):
            one = settings
            if rounds > 1:
                part = settings.report / f"round-{number + 1:03d}"
                part.mkdir(exist_ok=True)
                one = replace(settings, seed=settings.seed + number, report=part)
            outcome = _round(one, place)
            summary = report.summary(outcome)
            told.append((one.report, summary))
            if rounds > 1:
                report.write_rounds(settings.report, told)
            code = {True: VALID, False: VIOLATION, None: UNKNOWN}[outcome.valid]
            if code != VALID:
                break
        if settings.defect:
            summary |= {"found": code == VIOLATION, "after_s": round(time.monotonic() - began, 1), "rounds": number + 1}
            found = f"found as {', '.join(summary['anomalies'])}" if code == VIOLATION else "NOT FOUND"
            print(f"{settings.defect}: {found} after {summary['after_s']:g} s, {number + 1} rounds", flush=True)
    except KeyboardInterrupt:
        summary |= {"valid": "unknown", "why": "interrupted"}
        code = UNKNOWN
    print(json.dumps(summary), flush=True)
    return code


def _round(settings: Settings, place: Sandbox) -> Outcome:
    title = (
        f"{settings.scenario or 'random faults'}, {settings.seconds:g} s, {settings.nodes} nodes, seed {settings.seed}"
    )
    with Progress(title) as progress:
        outcome = Run(settings, place, progress).go()
    report.write(outcome)
    report.print_summary(outcome)
    return outcome


def _settings(options: argparse.Namespace, seed: int, directory: Path) -> Settings:
    seconds = options.seconds if options.seconds is not None else PRESETS[options.preset].seconds
    nodes = options.nodes or (SCENARIOS[options.scenario].nodes if options.scenario else 3)
    words = ["python", "jepsen-style", "run", "--seed", str(seed), "--seconds", f"{seconds:g}", "--nodes", str(nodes)]
    if options.faults != faults.NAMES:
        words += ["--faults", ",".join(options.faults)]
    if options.workload != workloads.NAMES:
        words += ["--workload", ",".join(options.workload)]
    for name in ("defect", "scenario"):
        if getattr(options, name):
            words += [f"--{name}", getattr(options, name)]
    if options.operations != OPERATIONS_S:
        words += ["--operations", f"{options.operations:g}"]
    return Settings(
        seed=seed,
        seconds=seconds,
        nodes=nodes,
        faults=options.faults,
        workloads=options.workload,
        report=directory,
        operations_s=options.operations,
        defect=options.defect,
        scenario=options.scenario,
        replay=shlex.join(words),
    )


def _parser() -> argparse.ArgumentParser:
    presets = "\n".join(f"  {name:10} {preset.words}" for name, preset in PRESETS.items())
    parser = argparse.ArgumentParser(
        prog="python jepsen-style run",
        description="Real node processes, real faults; a verdict and a report. Presets:\n\n" + presets,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--preset", choices=sorted(PRESETS), default="smoke", help="how much (smoke)")
    add("--seconds", type=float, metavar="S", help="instead of the preset's: how long faults go on")
    add("--seed", type=int, metavar="N", help="draws the schedule and all else that is random")
    add("--faults", type=_names(faults.NAMES), metavar="A,B", help="only these faults; or none")
    add("--workload", type=_names(workloads.NAMES), default=workloads.NAMES, metavar="A,B", help="only these workloads")
    add("--scenario", choices=sorted(SCENARIOS), metavar="NAME", help="a script instead of random faults")
    add("--nodes", type=int, metavar="N", help="nodes of the cluster (3)")
    add("--operations", type=float, default=float(OPERATIONS_S), metavar="N", help="operations a second to aim at")
    add("--report", type=Path, metavar="DIR", help="where the report goes (jepsen-report/TIME)")
    add("--defect", choices=sorted(DEFECTS), metavar="NAME", help="plant a defect: the run must find it")
    add("--no-isolation", action="store_true", help="loopback and relays alone, although more would be possible")
    lists = {
        "faults": _table((name, faults.purpose(name)) for name in faults.NAMES),
        "workloads": _table((name, workloads.purpose(name)) for name in workloads.NAMES),
        "defects": _table((name, one.words) for name, one in DEFECTS.items()),
        "scenarios": _table((name, one.words) for name, one in SCENARIOS.items()),
    }
    for name, text in lists.items():
        add(f"--list-{name}", action="store_const", const=text, help=f"show the {name} and end")
    return parser


def _table(rows: Any) -> str:
    return "\n".join(f"{name:28} {words}" for name, words in rows)


def _names(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        chosen = tuple(name for name in text.split(",") if name and name != "none")
        unknown = sorted(set(chosen) - set(known))
        if unknown:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(known)}")
        return chosen

    return parse
