"""Does the simulator find what it is for? Each defect is run until it is caught; and a seed means one run, anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from simulator.campaign import campaign, seeds_of
from simulator.defects import DEFECTS
from simulator.world import simulate

DOOR = Path(__file__).resolve().parent.parent / "__main__.py"


def score_all(first: int, seeds_max: int, jobs: int) -> int:
    """A table of all defects, ``jobs`` of them at a time; 0 if each was caught within ``seeds_max`` seeds from
    ``first`` on, else 1."""
    work = [(name, first, seeds_max) for name in DEFECTS]
    rows = []
    print("| defect | audit | seeds | seconds | found by |\n|---|---|---|---|---|", flush=True)
    with get_context("spawn").Pool(jobs) as pool:
        for row in pool.imap(_score, work):
            rows.append(row)
            audit = DEFECTS[row["defect"]].audit
            found = row["found_by"] or "NOT FOUND"
            print(f"| {row['defect']} | {audit} | {row['seeds']} | {row['seconds']} | {found} |", flush=True)
    missed = [row["defect"] for row in rows if row["found_by"] is None]
    print(json.dumps({"first_seed": first, "defects": len(rows), "missed": missed, "rows": rows}))
    return 1 if missed else 0


def _score(work: tuple[str, int, int]) -> dict[str, Any]:
    """One line of the table. Seconds are of this process' own time on a processor."""
    name, first, seeds_max = work
    began = time.process_time()
    seeds, rule = 0, None
    for outcome in campaign(seeds_of(first, seeds_max), None, 1, name):
        seeds += 1
        if outcome.violation is not None:
            rule = outcome.violation.rule
            break
    return {"defect": name, "seeds": seeds, "seconds": round(time.process_time() - began, 1), "found_by": rule}


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
