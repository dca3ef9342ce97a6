"""``python jepsen-style simulate``: runs seeds until there are enough, or one fails, and says what happened.

Exit code 0: every property held in every run. 1: a property was broken (or a planted defect was caught). 2: nothing
can be said. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from contextlib import nullcontext

from simulator import scoreboard
from simulator.campaign import Tally, campaign, seeds_of
from simulator.defects import DEFECTS
from simulator.world import Outcome, simulate

SEEDS = 200
DEFECT_SEEDS_MAX = 2_000


def main(arguments: list[str]) -> int:
    """Runs the command; its exit code."""
    options = _parser().parse_args(arguments)
    if options.list_defects:
        return _list_defects()
    if options.defect is not None and options.defect not in DEFECTS:
        print(f"there is no defect {options.defect!r}: see --list-defects", file=sys.stderr)
        return 2
    first = random.SystemRandom().randrange(1 << 32) if options.from_seed is None else options.from_seed
    print(f"seed {first}", flush=True)
    if options.trace:
        return _trace(first, options.defect)
    if options.check_determinism:
        return scoreboard.check_determinism(first, options.check_determinism)
    if options.all_defects:
        return scoreboard.score_all(first, options.seeds or DEFECT_SEEDS_MAX, options.jobs)
    return _simulate(first, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jepsen-style simulate", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, metavar="N", help=f"how many seeds to run (default {SEEDS})")
    parser.add_argument("--from-seed", type=int, metavar="S", help="the first seed (default: by chance; printed)")
    parser.add_argument("--seconds", type=float, metavar="T", help="start no new seed after so many seconds")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="processes side by side")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    parser.add_argument("--defect", metavar="NAME", help="plant a defect: then finding a violation is what is expected")
    parser.add_argument("--list-defects", action="store_true", help="name the defects that can be planted")
    parser.add_argument("--all-defects", action="store_true", help="run each defect until it is caught; print a table")
    parser.add_argument("--check-determinism", type=int, metavar="N", help="run N seeds twice, in two processes each")
    parser.add_argument("--trace", action="store_true", help="print every event of one seed")
    return parser


def _list_defects() -> int:
    for defect in DEFECTS.values():
        print(f"{defect.name:32} {('audit ' + defect.audit) if defect.audit else '':10} {defect.what}")
    return 0


def _trace(seed: int, defect: str | None) -> int:
    with DEFECTS[defect].plant() if defect else nullcontext():
        outcome = simulate(seed, trace=True, digest=True)
    print(outcome.plan)
    for line in outcome.events:
        print(line)
    _report(outcome, defect)
    print(json.dumps({"seed": seed, "hash": outcome.digest, "violation": _rule(outcome)}))
    return 1 if outcome.violation else 0


def _rule(outcome: Outcome) -> str | None:
    return None if outcome.violation is None else outcome.violation.rule


def _simulate(first: int, options: argparse.Namespace) -> int:
    """Seeds from ``first`` on."""
    count = options.seeds
    if count is None:
        count = None if options.seconds is not None else DEFECT_SEEDS_MAX if options.defect else SEEDS
    tally = Tally(first)
    began = time.monotonic()
    stops_early = options.defect is not None or not options.keep_going
    for outcome in campaign(seeds_of(first, count), options.seconds, options.jobs, options.defect):
        tally.add(outcome)
        if outcome.violation is not None:
            _report(outcome, options.defect)
            if stops_early:
                break
        elif tally.seeds % 500 == 0:
            print(f"{tally.seeds} seeds, {time.monotonic() - began:.0f} s", flush=True)
    if options.defect:
        verdict = f"caught after {tally.seeds} seeds" if tally.failing else f"not caught in {tally.seeds} seeds"
        print(f"{options.defect}: {verdict}")
    print(json.dumps(tally.summary(time.monotonic() - began, options.jobs)))
    if not tally.seeds:
        return 2
    return 1 if tally.failing else 0


def _report(outcome: Outcome, defect: str | None) -> None:
    """What a person needs to understand a failure."""
    if outcome.violation is None:
        return
    print(f"\nseed {outcome.seed}: {outcome.violation.rule}: {outcome.violation.words}")
    print(f"  {outcome.plan}")
    for line in outcome.explanation:
        print(f"  {line}")
    planted = f" --defect {defect}" if defect else ""
    print(f"replay: python jepsen-style simulate --from-seed {outcome.seed} --seeds 1{planted}\n", flush=True)
