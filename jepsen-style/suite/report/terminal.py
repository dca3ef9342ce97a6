"""The few lines that end a run in a terminal."""

from __future__ import annotations

from suite.checkers import ANOMALIES
from suite.report.figures import summary
from suite.runner import Outcome


def print_summary(outcome: Outcome) -> None:
    """The verdict, what supports it, and where to read more."""
    told = summary(outcome)
    print(f"\n{verdict(outcome)}")
    operations = told["operations"]
    print(
        f"  {operations['ok']:,} operations acknowledged ({told['acknowledged_s']:,}/s),"
        f" {operations['fail']:,} refused, {operations['info']:,} of unknown outcome;"
        f" {told['messages']:,} messages in the log, {operations['reads']:,} reads"
    )
    kinds = ", ".join(f"{name} {count}" for name, count in told["faults"].items())
    print(f"  {len(outcome.book)} faults ({kinds or 'none'}), {outcome.skipped} more found nobody free")
    takeover = told["takeover_s"]
    print(f"  take-over after {takeover['count']} hits on the leader: p50 {takeover['p50']} s, p99 {takeover['p99']} s")
    print(
        f"  with one majority alive and connected throughout: p50 {takeover['p50_whole']} s,"
        f" p99 {takeover['p99_whole']} s; no write for {takeover['longest_whole']} s at most in all the run"
    )
    print(f"  checked in {told['checked_in_s']} s")
    for name, why in outcome.left_out.items():
        print(f"  left out: {name}, which {why}")
    for problem in outcome.problems:
        print(f"  problem: {problem}")
    for anomaly, count in outcome.counts.items():
        first = next(one for one in outcome.findings if one.anomaly == anomaly)
        print(f"  {anomaly} x {count}: {ANOMALIES[anomaly]}\n    e.g. {first.words}")
    print(f"  report: {outcome.settings.report / 'index.html'}")


def verdict(outcome: Outcome) -> str:
    """In words."""
    if outcome.valid is None:
        return "UNKNOWN: nothing can be said."
    if outcome.valid:
        return "VALID: no promise was broken."
    return f"VIOLATION: {', '.join(outcome.counts)}."
