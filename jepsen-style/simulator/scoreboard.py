"""Does the simulator find what it is for? Each defect is run until it is caught; and a seed means one run, anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from simulator.campaign import campaign, seeds_of
from simulator.defects import DEFECTS
from simulator.world import simulate

DOOR = Path(__file__).resolve().parent.parent / "__main__.py"


def score_all(first: int, seeds_max: int, jobs: int) -> int:
    """A table of all defects; 0 if each was caught within ``seeds_max`` seeds from ``first`` on, else 1."""
    rows = []
    print("| defect | audit | seeds | seconds | found by |\n|---|---|---|---|---|", flush=True)
    for defect in DEFECTS.values():
        began = time.monotonic()
        seeds, rule = 0, None
        for outcome in campaign(seeds_of(first, seeds_max), None, jobs, defect.name):
            seeds += 1
            if outcome.violation is not None:
                rule = outcome.violation.rule
                break
        seconds = round(time.monotonic() - began, 1)
        rows.append({"defect": defect.name, "seeds": seeds, "seconds": seconds, "found_by": rule})
        print(f"| {defect.name} | {defect.audit} | {seeds} | {seconds} | {rule or 'NOT FOUND'} |", flush=True)
    missed = [row["defect"] for row in rows if row["found_by"] is None]
    print(json.dumps({"first_seed": first, "defects": len(rows), "missed": missed, "rows": rows}))
    return 1 if missed else 0


def check_determinism(first: int, count: int) -> int:
    """Run ``count`` seeds in two processes with different hash seeds; 0 if all traces are equal to the bit."""
    began = time.monotonic()
    runs = [_hashes_elsewhere(first, count, hash_seed) for hash_seed in ("1", "2")]
    differing = [first + n for n, (one, other) in enumerate(zip(*runs, strict=True)) if one != other]
    for seed in differing[:20]:
        print(f"seed {seed} does not repeat itself")
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"first_seed": first, "seeds": count, "differing": differing, "seconds": seconds}))
    return 1 if differing else 0


def _hashes_elsewhere(first: int, count: int, hash_seed: str) -> list[str]:
    program = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from simulator.scoreboard import hashes\n"
        "print(*hashes(int(sys.argv[3]), int(sys.argv[4])), sep='\\n')"
    )
    arguments = [str(DOOR.parent), str(DOOR.parent.parent), str(first), str(count)]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()


def hashes(first: int, count: int) -> list[str]:
    """The hash of the trace of each seed."""
    return [simulate(seed, digest=True).digest for seed in range(first, first + count)]
