"""``python jepsen-style check [NAME ...]``: which checks to run, how large, and what came of them."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acceptance.cluster import Skipped, TooSlow, Violated

CHECKS = (
    "roundtrip",
    "failover",
    "blackout",
    "paused_follower",
    "restart",
    "throughput",
    "hostile_input",
    "rot",
    "handover",
    "retention",
    "wipe",
    "full_disk",
    "members",
    "upgrade",
)
"""Modules of `acceptance.checks`, in the order in which they run. Each has a docstring, whose first line is the claim,
and ``run(scale) -> figures``, which raises `Violated`."""

VALID, VIOLATION, UNKNOWN = 0, 1, 2
_CODES = {"ok": VALID, "skipped": VALID, "violated": VIOLATION, "unknown": UNKNOWN}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work the checks do: all of it, or enough to see each mechanism at work (``quick``)."""

    quick: bool
    lines_file: Path | None = None

    def pick(self, full: int, quick: int) -> int:
        """``full`` or ``quick``."""
        return quick if self.quick else full


def main(arguments: list[str]) -> int:
    """Runs the checks that ``arguments`` name, all if none; the exit code."""
    options = _parse(arguments)
    scale = Scale(quick=options.quick, lines_file=options.lines)
    results: list[dict[str, Any]] = []
    code = VALID
    for name in options.names or CHECKS:
        result = _run(name, scale)
        results.append(result)
        code = max(code, _CODES[result["verdict"]])
    if any(result["verdict"] == "violated" for result in results):
        code = VIOLATION
    for result in results:
        if result["verdict"] in ("violated", "unknown"):
            print(f"{result['verdict']}: {result['name']}: {result['why'].splitlines()[-1]}", flush=True)
    print(json.dumps({"valid": {VALID: True, VIOLATION: False, UNKNOWN: "unknown"}[code], "checks": results}))
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    claims = "\n".join(f"  {name:16} {_claim(name)}" for name in CHECKS)
    parser = argparse.ArgumentParser(
        prog="python jepsen-style check",
        description=(
            "The promises of the main job on real clusters of three processes. A check whose only fault is that\n"
            f"something took too long is made once more; no other is.\n\n{claims}"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="checks to run; all if none")
    parser.add_argument("--quick", action="store_true", help="less work: five minutes in all")
    parser.add_argument("--lines", type=Path, metavar="FILE", help="publish lines of this file instead of made-up ones")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(CHECKS))
    if unknown:
        parser.error(f"there is no check {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    return options


def _claim(name: str) -> str:
    module = importlib.import_module(f"acceptance.checks.{name}")
    return (module.__doc__ or "").splitlines()[0]


def _run(name: str, scale: Scale) -> dict[str, Any]:
    """What one check came to. One that was `TooSlow` runs once more: a busy machine may be slow once, a slow product
    is always."""
    print(f"{name}: {_claim(name)}", flush=True)
    result = _measure(name, scale)
    if result.pop("slow"):
        print(f"  measured once more: {result['why']}", flush=True)
        first, result = result, _measure(name, scale)
        result["first"] = first["why"]
        del result["slow"]
    return result


def _measure(name: str, scale: Scale) -> dict[str, Any]:
    module = importlib.import_module(f"acceptance.checks.{name}")
    began = time.monotonic()
    figures: dict[str, Any] = {}
    violation: Violated | None = None
    try:
        figures = module.run(scale)
        verdict, words = "ok", ""
    except Skipped as reason:
        verdict, words = "skipped", str(reason)
    except Exception as error:
        # The boundary of a check: what went wrong with it is told, and the others still run.
        violation = _violation_in(error)
        verdict, words = ("violated", str(violation)) if violation else ("unknown", traceback.format_exc())
    seconds = round(time.monotonic() - began, 1)
    shown = ", ".join(f"{key} {value}" for key, value in figures.items())
    print(f"  {verdict} in {seconds} s{': ' + shown if shown else ''}", flush=True)
    if words:
        print(f"  {words}", file=sys.stderr, flush=True)
    return {
        "name": name,
        "verdict": verdict,
        "seconds": seconds,
        "figures": figures,
        "slow": isinstance(violation, TooSlow),
        **({"why": words} if words else {}),
    }


def _violation_in(error: BaseException) -> Violated | None:
    """The violation among what ended the tasks of a check; of several, one that is not of time."""
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, Violated) else None
    found = [violation for inner in error.exceptions if (violation := _violation_in(inner))]
    return min(found, key=lambda violation: isinstance(violation, TooSlow), default=None)
