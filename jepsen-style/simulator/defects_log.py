"""Our own lines of defence taken away: state machine, checkpoints, disk, tickets, readers and clients."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from lanyinglog import log_core as log_core_module
from lanyinglog.batcher import Batcher, Proposal
from lanyinglog.client import producer as client_module
from lanyinglog.client.cursor import Cursor
from lanyinglog.client.producer import Flight, Producer
from lanyinglog.errors import LanyingError, NotLeader, StorageFull
from lanyinglog.log_core import LogCore
from lanyinglog.machine import state_machine as machine_module
from lanyinglog.machine.producers import Producers
from lanyinglog.machine.state_machine import StateMachine
from lanyinglog.service import Ack
from lanyinglog.store import layout
from lanyinglog.store.log_store import Checkpoint, Entry
from lanyinglog.tail import History, Tail
from lanyinglog.wire.messages import Origin, Start
from simulator.defects import Change, defect
from simulator.disk import Disk


# -------------------------------------------------------------------------------------------------- the state machine
@defect("a batch that cannot be honoured raises instead of giving a result", audit="12")
def apply_raises() -> Sequence[Change]:
    original = Producers.verdict

    def verdict(self: Producers, producer: bytes, number: int) -> Any:
        result = original(self, producer, number)
        if isinstance(result, LanyingError):
            raise ValueError(result.message)
        return result

    return [(Producers, "verdict", verdict)]


@defect("a repeated batch is stored again")
def no_deduplication() -> Sequence[Change]:
    original = Producers.verdict

    def verdict(self: Producers, producer: bytes, number: int) -> Any:
        result = original(self, producer, number)
        return None if isinstance(result, Ack) else result

    return [(Producers, "verdict", verdict)]


@defect("the table of producers is missing from the checkpoint")
def producers_not_in_checkpoint() -> Sequence[Change]:
    return [(Producers, "take_changes", lambda self: {})]


@defect("apply reads a clock")
def clock_in_apply() -> Sequence[Change]:
    init, apply, parse = StateMachine.__init__, StateMachine.apply, machine_module.parse_entry
    clocks = itertools.count()
    skew = [0]

    def with_clock(self: Any, **named: Any) -> None:
        init(self, **named)
        self.simulated_clock = next(clocks) % 7

    def apply_by_clock(self: Any, index: int, command: bytes) -> Any:
        skew[0] = self.simulated_clock
        return apply(self, index, command)

    def parse_by_clock(command: bytes) -> Any:
        entry = parse(command)
        return dataclasses.replace(entry, timestamp=entry.timestamp + skew[0])

    return [
        (StateMachine, "__init__", with_clock),
        (StateMachine, "apply", apply_by_clock),
        (machine_module, "parse_entry", parse_by_clock),
    ]


@defect("timestamps are the leader's wall clock, whatever was given before")
def wall_clock_alone() -> Sequence[Change]:
    first = lambda a, b: a  # noqa: E731  # stands for the builtin `max` in these two modules
    return [(machine_module, "max", first), (log_core_module, "max", first)]


@defect("a leader gives seqs when it proposes")
def seq_at_proposal() -> Sequence[Change]:
    propose, proposed, applied = LogCore._propose, Batcher.proposed, Batcher.applied
    next_seq = [0]

    def note_seq(self: LogCore, now: float, wall_ns: int) -> None:
        next_seq[0] = self.machine.last_seq + 1
        propose(self, now, wall_ns)

    def remember(self: Any, index: int, term: int, proposal: Proposal) -> None:
        self.simulated_seqs = {**getattr(self, "simulated_seqs", {}), index: next_seq[0]}
        proposed(self, index, term, proposal)

    def as_proposed(self: Any, index: int, term: int, results: Sequence[Any]) -> None:
        seq = getattr(self, "simulated_seqs", {}).get(index)
        given = []
        for result in results:
            if seq is not None and isinstance(result, Ack) and not result.duplicate:
                given.append(dataclasses.replace(result, first_seq=seq))
                seq += result.count
            else:
                given.append(result)
        applied(self, index, term, given)

    return [(LogCore, "_propose", note_seq), (Batcher, "proposed", remember), (Batcher, "applied", as_proposed)]


# ------------------------------------------------------------------------------------------------ checkpoint and disk
@defect("a checkpoint's index goes to disk with this transaction, its tables with the next")
def checkpoint_before_its_tables() -> Sequence[Change]:
    original = StateMachine.take_checkpoint

    def take(self: Any) -> Checkpoint:
        checkpoint = original(self)
        held, self.simulated_rows = getattr(self, "simulated_rows", {}), checkpoint.rows
        return dataclasses.replace(checkpoint, rows=held)

    return [(StateMachine, "take_checkpoint", take)]


@defect("the checkpoint of a clean stop is newer than what is committed: it has all that was appended")
def checkpoint_of_proposals() -> Sequence[Change]:
    original = LogCore.begin_write

    def begin_write(self: LogCore, *, checkpoint: bool = False) -> Any:
        journal = self.replica.journal
        for index in range(self.machine.applied + 1, journal.last_index + 1 if checkpoint else 0):
            StateMachine.apply(self.machine, index, journal.entry(index).command)
        return original(self, checkpoint=checkpoint)

    return [(LogCore, "begin_write", begin_write)]


@defect("checksums of stored entries are not looked at")
def stored_crc_ignored() -> Sequence[Change]:
    def decode_entry(index: int, value: bytes) -> Entry:
        term, _, crc = layout._ENTRY.unpack(bytes(value[: layout._ENTRY.size]))
        return Entry(index, term, bytes(value[layout.ENTRY_HEADER_BYTES :]), crc)

    def decode_term(index: int, value: bytes) -> int:
        return decode_entry(index, value).term

    return [(layout, "decode_entry", decode_entry), (layout, "decode_term", decode_term)]


@defect("a write returns before its sync, and a power cut takes it")
def no_sync() -> Sequence[Change]:
    return [(Disk, "skips_sync", True)]


@defect("a transaction that was cut off is on the disk in part")
def torn_write_accepted() -> Sequence[Change]:
    original = Disk.process_died

    def died(self: Disk, *, power: bool) -> None:
        writes = self._under_way
        if writes is not None and writes.checkpoint is not None:
            rows = list(writes.checkpoint.rows.items())
            torn = dataclasses.replace(writes.checkpoint, rows=dict(rows[: len(rows) // 2]))
            self._under_way = dataclasses.replace(writes, checkpoint=torn)
        original(self, power=power)

    return [(Disk, "process_died", died)]


@defect("a node goes on after an I/O error as if its write had succeeded")
def disk_error_ignored() -> Sequence[Change]:
    return _write_errors_ignored(OSError)


@defect("a node takes a write for done although the disk was full")
def full_disk_ignored() -> Sequence[Change]:
    return _write_errors_ignored(StorageFull)


def _write_errors_ignored(kind: type[Exception]) -> Sequence[Change]:
    original = Disk.finish

    def finish(self: Disk) -> None:
        try:
            original(self)
        except kind:
            self._under_way = None

    return [(Disk, "finish", finish)]


# ------------------------------------------------------------------------------------------------------------ tickets
@defect("a batch is acknowledged once it is appended")
def acknowledges_appended() -> Sequence[Change]:
    propose, proposed = LogCore._propose, Batcher.proposed
    place = [0, 0]

    def note_place(self: LogCore, now: float, wall_ns: int) -> None:
        place[:] = self.machine.last_seq + 1, max(wall_ns, self._clock_ns + 1)
        propose(self, now, wall_ns)

    def settle(self: Batcher, index: int, term: int, proposal: Proposal) -> None:
        proposed(self, index, term, proposal)
        for ticket in proposal.tickets:
            ticket.settle(Ack(place[0], 1, place[1]))

    return [(LogCore, "_propose", note_place), (Batcher, "proposed", settle)]


@defect("batches in flight get no answer when leadership is lost", audit="19")
def tickets_are_forgotten() -> Sequence[Change]:
    original = Batcher.lose_leadership

    def lose(self: Batcher, *, hint: str | None) -> None:
        self._in_flight.clear()
        original(self, hint=hint)

    return [(Batcher, "lose_leadership", lose)]


@defect("batches in flight are refused for certain when leadership is lost")
def certain_too_soon() -> Sequence[Change]:
    original = Batcher.lose_leadership

    def lose(self: Batcher, *, hint: str | None) -> None:
        for _, proposal in self._in_flight.values():
            for ticket in proposal.tickets:
                ticket.settle(NotLeader("leadership was lost", hint=hint))
        original(self, hint=hint)

    return [(Batcher, "lose_leadership", lose)]


@defect("a ticket is settled by whatever entry comes to stand at its index")
def settled_by_index_alone() -> Sequence[Change]:
    applied = Batcher.applied

    def settle(self: Any, index: int, term: int, results: Sequence[Any]) -> None:
        found = self._in_flight.get(index)
        if found is not None:
            self._in_flight[index] = (term, found[1])
        applied(self, index, term, list(results) + [NotLeader("")] * 99 if found is None else results)

    def keep(self: Batcher, *, hint: str | None) -> None:
        """Leadership is lost, the tickets wait on."""
        for _, ticket in self._waiting:
            ticket.settle(NotLeader("leadership was lost", hint=hint))
        self._waiting.clear()
        self._waiting_bytes = 0

    return [(Batcher, "applied", settle), (Batcher, "lose_leadership", keep)]


# ------------------------------------------------------------------------------------------------------------ readers
@defect("readers on a leader see what it has proposed; what it loses with its leadership they have seen")
def readers_see_proposals() -> Sequence[Change]:
    propose, apply = LogCore._propose, LogCore._apply

    def show_early(self: Any, now: float, wall_ns: int) -> None:
        journal = self.replica.journal
        last = journal.last_index
        propose(self, now, wall_ns)
        if journal.last_index == last + 1 and self.machine.applied == last:
            entry = journal.entry(last + 1)
            shadow = copy.deepcopy(self.machine.__dict__ | {"apply": None})
            machine = StateMachine()
            machine.__dict__.update({name: value for name, value in shadow.items() if name != "apply"})
            self.tail.append(machine.apply(entry.index, entry.command))
            self.simulated_shown = last + 1

    def apply_once(self: Any, entry: Entry) -> None:
        if entry.index != getattr(self, "simulated_shown", 0):
            apply(self, entry)
            return
        applied = self.machine.apply(entry.index, entry.command)
        self.batcher.applied(entry.index, entry.term, applied.results)

    return [(LogCore, "_propose", show_early), (LogCore, "_apply", apply_once)]


@defect("memory drops entries whose records are not on the disk yet")
def tail_drops_unstored() -> Sequence[Change]:
    original = Tail.append

    def append(self: Tail, applied: Any) -> None:
        original(self, applied)
        self.stored(applied.record.index)

    return [(Tail, "append", append)]


@defect("the index of topics skips one entry too many")
def index_skips_too_far() -> Sequence[Change]:
    original = History._skip

    def skip(self: History, index: int, stored: int, numbers: Any, builder: Any) -> int:
        found = original(self, index, stored, numbers, builder)
        return found if numbers is None else min(found + 1, stored + 1)

    return [(History, "_skip", skip)]


@defect("a subscriber resumes with the message that it had last")
def resumes_one_early() -> Sequence[Change]:
    def start(self: Cursor) -> Start:
        return self._start if not self.through else Start(Origin.SEQ, self.through)

    def subscribed(self: Any, reply: Any) -> None:
        self._pushes.clear()
        self._items.clear()
        self.through = self._told = reply.next_seq - 1

    return [(Cursor, "start", property(start)), (Cursor, "subscribed", subscribed)]


@defect("a subscriber resumes behind the next message")
def resumes_one_late() -> Sequence[Change]:
    def start(self: Cursor) -> Start:
        return self._start if not self.through else Start(Origin.SEQ, self.through + 2)

    def subscribed(self: Any, reply: Any) -> None:
        self._pushes.clear()
        self._items.clear()
        self.through = self._told = reply.next_seq - 1

    return [(Cursor, "start", property(start)), (Cursor, "subscribed", subscribed)]


# ------------------------------------------------------------------------------------------------------------ clients
@defect("a producer forgets that an earlier try got no answer")
def client_forgets_doubt() -> Sequence[Change]:
    original = Producer.link_lost

    def link_lost(self: Producer[Any]) -> None:
        doubts = [flight for flight in self._window if flight.tainted]
        original(self)
        for flight in self._window:
            flight.tainted = flight in doubts

    return [(Producer, "link_lost", link_lost)]


@defect("a producer uses the number of a refused batch again")
def client_reuses_numbers() -> Sequence[Change]:
    end_id, start_over = Producer._end_id, Producer._start_over
    number = [0]

    def note(self: Producer[Any], refused: Flight[Any]) -> None:
        number[0] = refused.number
        end_id(self, refused)
        number[0] = 0

    def keep_id(self: Producer[Any]) -> None:
        same = self._id
        start_over(self)
        if number[0]:
            self._id, self._last_number = same, number[0] - 1

    return [(Producer, "_end_id", note), (Producer, "_start_over", keep_id)]


@defect("a producer takes numbers back from batches that may be stored")
def client_renumbers_sent() -> Sequence[Change]:
    def renumber(self: Producer[Any]) -> None:
        while self._window and self._window[-1].state is client_module._State.READY:
            self._waiting.appendleft(self._window.pop().batch)
            self._last_number -= 1

    return [(Producer, "_renumber", renumber)]


@defect("a producer takes a new id when it connects again")
def client_changes_id() -> Sequence[Change]:
    original = Producer.link_lost

    def link_lost(self: Producer[Any]) -> None:
        original(self)
        for flight in self._window:
            if flight.state is not client_module._State.DONE:
                self._waiting.append(flight.batch)
        self._start_over()

    return [(Producer, "link_lost", link_lost)]


@defect("a producer has more batches under way than the log remembers acknowledgements")
def client_window_too_large() -> Sequence[Change]:
    original = Producer.__init__

    def init(self: Producer[Any], **named: Any) -> None:
        original(self, **{**named, "window": 64})

    return [(Producer, "__init__", init)]
