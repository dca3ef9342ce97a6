"""The verb ``doctor``: what is wrong, or soon will be, with a cluster and its machines, and what to do about it.

Each node is asked for its status, and each *check* turns the answers into findings: pure functions, so that a test can
show each of them a sick cluster. A finding that is not ok says what to do; one such makes the exit code 4.

With ``--dir`` the nodes that do not answer are looked at where their data is: why the process ended, by the last
words in its log, and whether its data can be opened at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

import lanyinglog
from lanyinglog.cli import output, rollcall
from lanyinglog.cli.directory import ClusterDirectory, open_cluster
from lanyinglog.cli.options import Verb, cluster_options, format_option, timeout_option
from lanyinglog.cli.processes import is_claimed
from lanyinglog.cli.quorum import UNREACHABLE, remarks, voting
from lanyinglog.config import Address
from lanyinglog.errors import LanyingError, StoreError
from lanyinglog.store.backup import peek
from lanyinglog.store.layout import DATA_FILE

SKEW_MS_MAX = 250.0
"""Between the clocks of two nodes. Order never depends on it, but timestamps and retention by age are a leader's."""
WRITE_MS_MAX = 50.0
"""The median of a node's writes: with more, an acknowledgement takes longer than a network round trip by far, and
one that takes a heartbeat's worth of time endangers leadership."""
STALL_MS_MAX = 500.0
"""The slowest of a node's last writes: half an election timeout."""
FREE_SHARE_MIN = 0.05
FREE_BYTES_MIN = 64 << 20
CERTIFICATE_DAYS_MIN = 14.0
"""Of what the node shows; by then whoever renews certificates should have done it."""
LOG_TAIL_BYTES = 16 << 10

Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``node`` is None if it is about the cluster; ``advice`` only if it is not ok."""

    check: str
    node: str | None
    ok: bool
    found: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A node's status, and how far its clock is ahead of this one's, give or take ``error_ms``."""

    status: Status
    clock_ms: float | None
    error_ms: float
    certificate_days: float | None = None
    """How long the certificate that it shows is good still; None without TLS."""

    @property
    def node(self) -> str:
        return str(self.status["node"])

    @property
    def health(self) -> Status:
        found: Status = self.status.get("health") or {}
        return found


# ------------------------------------------------------------------------------------------------------------- checks
def check_quorum(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Who answers, who leads, who is connected to whom."""
    # A full disk is told by its own check, and to be behind is not to be away.
    said = remarks([{**row, "storage_full": None, "catch_up": None} for row in rows])
    for words in said:
        yield Finding("quorum", None, False, words, "start what is stopped; see the logs of what does not answer")
    apart = [f"{row['node']} from {', '.join(row['unconnected'])}" for row in rows if row.get("unconnected")]
    answering = [row for row in rows if row["role"] != UNREACHABLE]
    if apart and len(answering) == len(rows):
        yield Finding("links", None, False, f"cut off: {'; '.join(apart)}", "check network, peer addresses and secret")
    if not said:
        who = f"{len(rows)} nodes" if len(answering) == len(rows) else f"{len(voting(rows))} that vote"
        yield Finding("quorum", None, True, f"all {who} answer, one leads")
    for row in rows:
        if row.get("catch_up"):
            advice = "wait for it before another node is stopped: it does not hold all that is acknowledged"
            yield Finding("catch-up", str(row["node"]), False, str(row["catch_up"]), advice)


def check_unseen(rows: Sequence[Mapping[str, Any]], answers: Sequence[Answer]) -> Iterator[Finding]:
    """Nodes that no check can have looked at, unless `check_quorum` tells of them: a silent one that votes."""
    seen = {one.node for one in answers}
    counted = {row["node"] for row in voting(rows)}
    for row in rows:
        silent = row["role"] == UNREACHABLE
        if row["node"] in seen or (silent and row["node"] in counted):
            continue
        words = f"no answer ({row['client'] or 'address unknown'}); it does not vote" if silent else "it fell silent"
        found = f"{words}: its clock, disk, limits and version were not looked at"
        yield Finding("unseen", str(row["node"]), False, found, _NAME_IT)


_NAME_IT = "start it, see its log, or name an address with --server under which it is reached from here"


def check_clocks(answers: Sequence[Answer]) -> Iterator[Finding]:
    """How far the nodes' clocks are apart, for certain: less the time that asking took."""
    known = [(one.clock_ms, one) for one in answers if one.clock_ms is not None]
    if len(known) < 2:
        return
    (low, slow), (high, fast) = min(known, key=lambda pair: pair[0]), max(known, key=lambda pair: pair[0])
    error_ms = slow.error_ms + fast.error_ms
    found = f"{high - low:.0f} ms apart at most, give or take {error_ms:.0f} ms"
    if high - low - error_ms <= SKEW_MS_MAX:
        yield Finding("clocks", None, True, found)
        return
    words = f"{fast.node} is {high - low:.0f} ms ahead of {slow.node}, give or take {error_ms:.0f} ms"
    advice = "have every machine keep time with NTP: timestamps and retention by age are the leader's"
    yield Finding("clocks", None, False, words, advice)


def check_disk(answer: Answer) -> Iterator[Finding]:
    """Room, and how long the disk takes to make a write durable."""
    health = answer.health
    if answer.status.get("storage_full"):
        yield Finding("disk room", answer.node, False, "the disk is full: writes are declined", _MAKE_ROOM)
    elif health:
        free, size = health["disk_free_bytes"], health["disk_bytes"]
        found = f"{_mib(free)} MiB free of {_mib(size)}"
        low = free < FREE_BYTES_MIN or free < FREE_SHARE_MIN * size
        yield Finding("disk room", answer.node, not low, found, _MAKE_ROOM if low else None)
    if health.get("writes"):
        median, slowest = health["write_ms_median"], health["write_ms_max"]
        found = f"a write takes {median:g} ms, the slowest of the last {health['writes']} took {slowest:g}"
        slow = median > WRITE_MS_MAX or slowest > STALL_MS_MAX
        advice = "give the data a local SSD of its own; network and shared disks, and other programs' syncs, stall it"
        yield Finding("disk speed", answer.node, not slow, found, advice if slow else None)


_MAKE_ROOM = "make room on that disk, or give it a larger one; a full disk declines writes and reads go on"


def check_certificate(answer: Answer) -> Iterator[Finding]:
    """How long the node's certificate is good still."""
    days = answer.certificate_days
    if days is None:
        return
    late = days < CERTIFICATE_DAYS_MIN
    advice = "renew it, and put the new files in place of the old ones: no restart is needed" if late else None
    yield Finding("certificate", answer.node, not late, f"good for {days:,.0f} days", advice)


def check_files(answer: Answer) -> Iterator[Finding]:
    """Whether the process may open a file for each client that it would accept."""
    health = answer.health
    if not health or health.get("files_max") is None:
        return
    limit, needed = health["files_max"], health["files_needed"]
    ok = limit < 0 or limit >= needed
    advice = f"raise it (ulimit -n, LimitNOFILE) to {needed} or more, or lower connections_max"
    yield Finding("open files", answer.node, ok, f"{limit} may be open, {needed} may be needed", None if ok else advice)


def check_versions(answers: Sequence[Answer]) -> Iterator[Finding]:
    """Whether all nodes, and this program, are the same version."""
    if not answers:
        return
    for key, words in (("version", "lanyinglog"), ("engine", "pysyncobj"), ("python", "Python")):
        found: dict[str, list[str]] = {}
        for one in answers:
            found.setdefault(str(one.health.get(key, "unknown")), []).append(one.node)
        if key == "version":
            found.setdefault(lanyinglog.__version__, []).append("this program")
        told = "; ".join(f"{value}: {', '.join(nodes)}" for value, nodes in sorted(found.items()))
        advice = "finish the upgrade: one node after another, each started and caught up before the next"
        if len(found) > 1:
            yield Finding("versions", None, False, f"{words} differs: {told}", advice)
        elif key == "version":
            yield Finding("versions", None, True, f"{words} {told.partition(':')[0]} everywhere")


def check_silent(cluster: ClusterDirectory, answering: Iterable[str]) -> Iterator[Finding]:
    """Nodes of this machine that do not answer: why they ended, and whether their data can be opened."""
    known = set(answering)
    for member in cluster.members:
        if member.node in known:
            continue
        running = is_claimed(member.data)
        words = "runs and does not answer" if running else "does not run"
        last = last_words(member.log_file)
        advice = f"see {member.log_file}" if running else f"lanyinglog cluster start --dir {cluster.directory}"
        yield Finding("process", member.node, False, f"{words}; its last words: {last or 'none'}", advice)
        damage = _damage(member.data / "main")
        if damage is not None:
            advice = f"lanyinglog verify {member.data} says more; the peers have what it has lost"
            yield Finding("data", member.node, False, damage, advice)


def _damage(log: Path) -> str | None:
    if not (log / DATA_FILE).is_file():
        return None
    try:
        peek(log)
    except StoreError as error:
        return error.message
    return None


def last_words(log_file: Path) -> str | None:
    """Why a node ended, by the last event of its log that says so; None if it did not say."""
    try:
        with log_file.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and told.get("level") in ("error", "critical"):
            return f"{told.get('event')}: {told.get('why', '')}".rstrip(": ")
        if isinstance(told, dict) and told.get("event") in ("ready", "stopping"):
            return None if told["event"] == "ready" else "it was told to stop"
    return None


def findings(rows: Sequence[Mapping[str, Any]], answers: Sequence[Answer]) -> list[Finding]:
    """All that can be said from the answers."""
    each: tuple[Callable[[Answer], Iterator[Finding]], ...] = (check_disk, check_files, check_certificate)
    found = [*check_quorum(rows), *check_unseen(rows, answers), *check_clocks(answers), *check_versions(answers)]
    return found + [one for answer in answers for check in each for one in check(answer)]


# --------------------------------------------------------------------------------------------------------- the asking
def ask_all(addresses: Iterable[Address], *, timeout_s: float) -> list[Answer]:
    """The answers of those that answer."""

    def one(address: Address) -> Answer | None:
        try:
            rollcall.ask(address, timeout_s=timeout_s)  # the first connection may find a node cold
            before = time.time_ns()
            status = rollcall.ask(address, timeout_s=timeout_s)
            after = time.time_ns()
        except LanyingError:
            return None  # `check_unseen` tells
        clock_ns = (status.get("health") or {}).get("clock_ns")
        clock_ms = None if clock_ns is None else (clock_ns - (before + after) / 2) / 1e6
        ends = status[rollcall.CERTIFICATE_ENDS]
        days = None if ends is None else (ends - after / 1e9) / 86_400
        return Answer(status, clock_ms, (after - before) / 2e6, days)

    known = list(addresses)
    with ThreadPoolExecutor(max_workers=max(1, len(known))) as pool:
        return [answer for answer in pool.map(one, known) if answer is not None]


@click.command(cls=Verb)
@cluster_options("The cluster's directory, in place of --server: also looks at stopped nodes.")
@timeout_option(rollcall.ANSWER_S, "How long a node may take to answer.")
@format_option()
def doctor(directory: Path | None, servers: tuple[Address, ...], timeout_s: float, form: str) -> int:
    """Look for what is wrong or soon will be: quorum, clocks, disks, limits, versions, damage; and what to do.

    Exit 4 if there is something.
    """
    if directory is None:
        nodes = rollcall.nodes_of(servers, timeout_s=timeout_s)
    else:
        cluster = open_cluster(directory)
        nodes = {member.node: member.client for member in cluster.members}
    rows = rollcall.roll(nodes, timeout_s=timeout_s)
    # Where they answered, not where they say that they are: that need not be reached from here.
    answering = {row["node"]: nodes[row["node"]] for row in rows if row["role"] != UNREACHABLE}
    found = findings(rows, ask_all(filter(None, answering.values()), timeout_s=timeout_s))
    if directory is not None:
        found += check_silent(cluster, answering)
    _print(found, form)
    return output.OK if all(one.ok for one in found) else output.PROBLEM_FOUND


def _print(found: Sequence[Finding], form: str) -> None:
    if not output.is_table(form):
        for one in found:
            output.print_json(asdict(one))
        return
    for one in sorted(found, key=lambda one: one.ok):
        word = click.style("ok     ", fg="green") if one.ok else click.style("PROBLEM", fg="red")
        click.echo(f"{word} {one.node + ' ' if one.node else ''}{one.check}: {one.found}")
        if one.advice:
            click.echo(f"        do: {one.advice}")
    problems = sum(not one.ok for one in found)
    click.echo(f"{problems} {'problem' if problems == 1 else 'problems'} in {len(found)} checks")


def _mib(count: int) -> str:
    return f"{count >> 20:,}"
