"""Defects planted on purpose, in real nodes and clients: a suite that does not find them proves nothing.

Each takes one defence away, by replacing names of the product before it starts (`launcher`, `worker`); the product
knows nothing of it. ``faults`` or ``scenario`` is what brings it to light; a run with ``--defect`` uses that.
What the simulator plants into its own nodes is used here as it is (`_simulated`), the rest is our own.
"""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Change = tuple[object, str, object]
"""Where, which name, and what stands there instead."""


@dataclass(frozen=True, slots=True)
class Defect:
    """See the module. ``changes`` imports what it changes, and is called in the process that is to have the defect."""

    words: str
    faults: tuple[str, ...]
    changes: Callable[[], Sequence[Change]]
    scenario: str | None = None


def _simulated(name: str) -> Callable[[], Sequence[Change]]:
    """The changes of the simulator's defect ``name``."""

    def changes() -> Sequence[Change]:
        from simulator.defects import DEFECTS as simulated

        for module in ("simulator.defects_raft", "simulator.defects_log"):
            importlib.import_module(module)
        return simulated[name].changes()

    return changes


def plant(name: str) -> None:
    """The defect is there from now on, in this process."""
    for where, attribute, instead in DEFECTS[name].changes():
        setattr(where, attribute, instead)


# --------------------------------------------------------------------------------------------------------- the disk
def _never_syncs() -> Sequence[Change]:
    import lmdb

    opened = lmdb.open
    return [(lmdb, "open", lambda *arguments, **named: opened(*arguments, **{**named, "sync": False}))]


def _checksums_unchecked() -> Sequence[Change]:
    """Of entries and of runs: with one of both a reader is still safe, which is what two are for."""
    from simulator.defects_raft import Anything

    from lanyinglog import record

    return [*_simulated("stored_crc_ignored")(), (record, "crc32c", lambda data: Anything(0))]


def _goes_on_after_io_error() -> Sequence[Change]:
    from lanyinglog.errors import StorageFull
    from lanyinglog.store.environment import LmdbStore

    write = LmdbStore.write

    def swallow(self: Any, writes: Any) -> None:
        try:
            write(self, writes)
        except StorageFull:
            raise
        except OSError:
            self._failure = None

    return [(LmdbStore, "write", swallow)]


def _forgets_entries_of_a_full_disk() -> Sequence[Change]:
    from lanyinglog.errors import StorageFull
    from lanyinglog.store.environment import LmdbStore

    write = LmdbStore.write

    def swallow(self: Any, writes: Any) -> None:
        try:
            write(self, writes)
        except StorageFull:
            return

    return [(LmdbStore, "write", swallow)]


# ------------------------------------------------------------------------------------------------------ acknowledging
def _acks_before_commit() -> Sequence[Change]:
    from lanyinglog import record
    from lanyinglog.batcher import Batcher
    from lanyinglog.log_core import LogCore
    from lanyinglog.service import Ack

    propose, proposed = LogCore._propose, Batcher.proposed
    place = [0, 0]

    def note(self: Any, now: float, wall_ns: int) -> None:
        place[:] = self.machine.last_seq + 1, max(wall_ns, self._clock_ns + 1)
        propose(self, now, wall_ns)

    def settle(self: Any, index: int, term: int, proposal: Any) -> None:
        proposed(self, index, term, proposal)
        seq, timestamp = place
        for batch, ticket in zip(proposal.batches, proposal.tickets, strict=True):
            count = sum(count for _, count, *_ in record.skim_batch(batch, 0, len(batch))[2])
            ticket.settle(Ack(seq, count, timestamp))
            seq, timestamp = seq + count, timestamp + count

    return [(LogCore, "_propose", note), (Batcher, "proposed", settle)]


# --------------------------------------------------------------------------------------------------- the state machine
def _clock_in_apply() -> Sequence[Change]:
    from lanyinglog.machine import state_machine

    parse = state_machine.parse_entry

    def by_clock(command: bytes) -> Any:
        entry = parse(command)
        return dataclasses.replace(entry, timestamp=max(entry.timestamp, time.time_ns())) if entry.commands else entry

    return [(state_machine, "parse_entry", by_clock)]


def _applies_batches_in_another_order() -> Sequence[Change]:
    """On a node that has just started, an entry's batches are applied last to first."""
    from lanyinglog.machine import state_machine

    parse = state_machine.parse_entry
    left = [2_000]

    def reversed_at_first(command: bytes) -> Any:
        entry = parse(command)
        left[0] -= 1
        return dataclasses.replace(entry, commands=tuple(reversed(entry.commands))) if left[0] > 0 else entry

    return [(state_machine, "parse_entry", reversed_at_first)]


# ------------------------------------------------------------------------------------------------------------- readers
def _pages_skip_a_run() -> Sequence[Change]:
    """A subscription that resumes in the middle of an entry loses the first run behind its place."""
    from lanyinglog.hosted_log import HostedLog

    read = HostedLog.read
    fresh: set[int] = set()

    async def skipping(self: Any, *, after: int, **named: Any) -> Any:
        page = await read(self, after=after, **named)
        if after and after not in fresh and len(page.items) > 1 and after % 50 == 0:
            fresh.add(after)
            return page._replace(items=page.items[1:], messages=page.messages - page.items[0].count)
        return page

    return [(HostedLog, "read", skipping)]


def _resumes_one_late() -> Sequence[Change]:
    from lanyinglog.client.cursor import Cursor

    init = Cursor.__init__

    def skip(self: Any, filters: Any, start: Any, **named: Any) -> None:
        later = dataclasses.replace(start, value=start.value + 1) if start.value > 1 else start
        init(self, filters, later, **named)

    return [(Cursor, "__init__", skip)]


PROCESS = ("kill", "pause", "partition", "lossy")
DEFECTS: dict[str, Defect] = {
    "never-syncs": Defect("nothing is ever synced; the disk may write when it likes", ("power",), _never_syncs),
    "answers-before-sync": Defect(
        "a follower answers before its own sync",
        ("power", "pause"),
        _simulated("answers_before_sync"),
        scenario="leader-alone-has-it",
    ),
    "ignores-io-errors": Defect(
        "a node goes on after a failed sync as if it had succeeded", ("broken-disk",), _goes_on_after_io_error
    ),
    "ignores-full-disk": Defect(
        "a node takes a write for done although the disk was full", ("disk-full",), _forgets_entries_of_a_full_disk
    ),
    "checksums-unchecked": Defect("checksums of entries and runs are not looked at", ("rot",), _checksums_unchecked),
    "truncates-always": Defect(
        "a follower cuts its log at every append, conflict or not", PROCESS, _simulated("truncates_always")
    ),
    "votes-for-anyone": Defect(
        "a vote is given to who lacks entries (Raft 5.4.1)", PROCESS, _simulated("votes_for_anyone")
    ),
    "term-not-persisted": Defect("the term is not written to disk", PROCESS, _simulated("term_not_persisted")),
    "commits-unproven": Defect(
        "a follower commits what its leader says, proved equal to the leader's log or not",
        PROCESS,
        _simulated("commits_unproven"),
    ),
    "acks-before-commit": Defect("a batch is acknowledged once it is appended", PROCESS, _acks_before_commit),
    "certain-too-soon": Defect(
        "batches in flight are refused for certain when leadership is lost", PROCESS, _simulated("certain_too_soon")
    ),
    "no-deduplication": Defect("a repeated batch is stored again", (), _simulated("no_deduplication")),
    "producers-forgotten": Defect(
        "the table of producers is missing from the checkpoint",
        ("kill", "rolling"),
        _simulated("producers_not_in_checkpoint"),
    ),
    "wall-clock-alone": Defect(
        "timestamps are the leader's wall clock, whatever was given before",
        ("clock", "transfer"),
        _simulated("wall_clock_alone"),
    ),
    "clock-in-apply": Defect("applying an entry looks at the wall clock", ("clock",), _clock_in_apply),
    "apply-order": Defect(
        "a node that has just started applies an entry's batches last to first",
        ("kill",),
        _applies_batches_in_another_order,
    ),
    "shows-proposals": Defect(
        "readers on a leader see what is proposed and not committed", PROCESS, _simulated("readers_see_proposals")
    ),
    "index-skips": Defect("the index of topics skips one entry too many", ("kill",), _simulated("index_skips_too_far")),
    "page-skips": Defect("some pages of a subscription lack their first run", (), _pages_skip_a_run),
    "resumes-late": Defect("a subscriber begins one message too late", (), _resumes_one_late),
}
