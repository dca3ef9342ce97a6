"""What the cluster committed, as the first node to apply each entry saw it: all others, and all clients, must agree.

Each message carries a token that only its own batch has, so that what is visible can be held against what was sent
without trusting a seq, a number or a table of the product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lanyinglog.errors import LanyingError, Outcome
from lanyinglog.machine.commands import NO_OP
from lanyinglog.machine.state_machine import Applied
from lanyinglog.record import BatchView, Message, decode_run
from lanyinglog.service import Ack
from lanyinglog.store.log_store import Entry, EntryRecord, entry_crc
from simulator.history import Violation

if TYPE_CHECKING:
    from simulator.node import Node
    from simulator.world import World


@dataclass(slots=True, eq=False)
class SentBatch:
    """A batch as its producer made it: a `producer.SealedBatch`."""

    client: str
    ordinal: int
    """Place among the batches of its producer."""
    runs: tuple[bytes, ...]
    tokens: tuple[tuple[str, bytes], ...]
    """Topic and payload of each message."""
    first_seq: int = 0
    """Where it became visible; 0 if it did not."""
    timestamp: int = 0
    result: Ack | LanyingError | None = None

    @property
    def count(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Committed:
    """An applied entry."""

    term: int
    crc: int
    applied: Applied
    command: bytes = NO_OP


class Ledger:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        first = Applied(EntryRecord(1, 1, 0, 0), (), ())  # the no-op that every node writes itself
        self.entries = [Committed(0, entry_crc(1, 0, NO_OP), first)]
        self.messages: list[Message] = []
        """All that were ever visible, those that retention took included."""
        self.first_seq = 1
        """Where the log begins by the newest trim that anybody applied."""
        self._index_of: list[int] = []  # seq - 1 -> entry index
        self._batch_of: dict[bytes, tuple[SentBatch, int]] = {}  # token -> batch, place in it
        self._newest: dict[str, int] = {}  # client -> ordinal of its newest visible batch
        self.acknowledged = 0

    def sent(self, batch: SentBatch) -> None:
        """A producer is about to send ``batch``, perhaps often."""
        for place, (_, payload) in enumerate(batch.tokens):
            self._batch_of[payload] = (batch, place)

    def batches(self) -> list[SentBatch]:
        """All batches that were made."""
        return [batch for batch, place in self._batch_of.values() if place == 0]

    # ------------------------------------------------------------------------------------------------------ apply
    def applied(self, node: Node, entry: Entry, applied: Applied) -> None:
        """``node`` applied ``entry``."""
        index = entry.index
        if index > len(self.entries) + 1:
            words = f"{node.name} applies entry {index}, and nobody has applied {len(self.entries) + 1}"
            raise Violation("state-machine safety", words, ("entry", index))
        if index == len(self.entries) + 1:
            self.entries.append(Committed(entry.term, entry.crc, applied, entry.command))
            self._extend(index, entry, applied)
            self._check_trim(node)
            return
        known = self.entries[index - 1]
        if (known.term, known.crc) != (entry.term, entry.crc):
            words = f"{node.name} applies entry {index} of term {entry.term}, others applied that of term {known.term}"
            raise Violation("state-machine safety", words, ("entry", index))
        if known.applied.record != applied.record or known.applied.runs != applied.runs:
            words = (
                f"entry {index} means {applied.record} on {node.name} and {known.applied.record} where it was applied"
                " first"
            )
            raise Violation("state-machine safety", words, ("entry", index))
        if [_gist(one) for one in known.applied.results] != [_gist(one) for one in applied.results]:
            raise Violation("state-machine safety", f"entry {index} has other results on {node.name}", ("entry", index))

    def _extend(self, index: int, entry: Entry, applied: Applied) -> None:
        """New messages are visible: hold them against what was sent."""
        begun: list[SentBatch] = []
        expected: list[tuple[SentBatch, int]] = []
        for _, first_seq, timestamp, _, start, stop in applied.runs:
            data = entry.command[start:stop]
            for message in decode_run(data, first_seq=first_seq, timestamp=timestamp):
                self._check_next(index, message)
                batch, place = self._batch_of[message.payload]
                if place == 0:
                    if expected:
                        self._torn(index, expected[0][0])
                    self._begin(index, batch, message)
                    begun.append(batch)
                    expected = [(batch, number) for number in range(1, batch.count)]
                elif expected and expected[0] == (batch, place):
                    expected.pop(0)
                else:
                    self._torn(index, batch)
                if message.topic != batch.tokens[place][0]:
                    raise Violation("P2 content", f"message {message.seq} is of another topic", ("entry", index))
                self.messages.append(message)
                self._index_of.append(index)
        if expected:
            self._torn(index, expected[0][0])

    def _check_trim(self, node: Node) -> None:
        """``node`` is the first to apply this entry: where does the log begin by it, and is enough left?"""
        machine, limit = node.core.machine, self._world.plan.keep_messages
        if machine.first_seq == self.first_seq:
            return
        if machine.first_seq < self.first_seq or machine.first_seq > len(self.messages) + 1:
            words = f"the log begins at seq {machine.first_seq}; it began at {self.first_seq}"
            raise Violation("retention", words, ("node", node.name))
        self.first_seq = machine.first_seq
        self._world.count("trim")
        kept = len(self.messages) + 1 - self.first_seq
        if limit is not None and self._world.plan.keep_age_s is None and kept < limit:
            raise Violation("retention", f"{kept} messages are kept, the limit is {limit}", ("node", node.name))

    def _check_next(self, index: int, message: Message) -> None:
        if message.seq != len(self.messages) + 1:
            words = f"entry {index} gives seq {message.seq}, {len(self.messages) + 1} comes next"
            raise Violation("P2 gapless", words, ("entry", index))
        if self.messages and message.timestamp <= self.messages[-1].timestamp:
            words = f"message {message.seq} at {message.timestamp} follows one at {self.messages[-1].timestamp}"
            raise Violation("P2 timestamps", words, ("entry", index))

    def _begin(self, index: int, batch: SentBatch, message: Message) -> None:
        about = (("entry", index), ("client", batch.client))
        if batch.first_seq:
            words = f"batch {batch.ordinal} of {batch.client} is stored at seq {batch.first_seq} and at {message.seq}"
            raise Violation("P4 once", words, *about)
        newest = self._newest.get(batch.client, -1)
        if batch.ordinal < newest:
            words = f"batch {batch.ordinal} of {batch.client} is stored behind its batch {newest}"
            raise Violation("P5 FIFO", words, *about)
        if isinstance(batch.result, LanyingError) and batch.result.outcome is Outcome.DEFINITE:
            words = f"batch {batch.ordinal} of {batch.client} is stored; it was told: {batch.result!r}"
            raise Violation("P7 honest", words, *about)
        batch.first_seq, batch.timestamp = message.seq, message.timestamp
        self._newest[batch.client] = batch.ordinal

    def _torn(self, index: int, batch: SentBatch) -> None:
        words = f"entry {index} shows a part of batch {batch.ordinal} of {batch.client}"
        raise Violation("P3 atomic", words, ("entry", index), ("client", batch.client))

    # ------------------------------------------------------------------------------------------------------- acks
    def check_acknowledged(self, node: Node, batch: BatchView, ack: Ack) -> None:
        """``node`` is about to acknowledge ``batch``: it is visible, and on a majority's disks (P1)."""
        if ack.first_seq == 0:
            return  # a duplicate whose numbers were forgotten; the client judges it
        last = ack.first_seq + ack.count - 1
        if last > len(self.messages):
            words = f"{node.name} acknowledges seq {ack.first_seq} to {last}, committed are {len(self.messages)}"
            raise Violation("P1 durable", words, ("node", node.name))
        index = self._index_of[ack.first_seq - 1]
        entry = self.entries[index - 1]
        self._world.invariants.check_durable(node, index, entry.term, entry.crc, f"acknowledges seq {last}")

    def settled(self, batch: SentBatch, result: Ack | LanyingError) -> None:
        """The producer learnt what became of ``batch``."""
        about = (("client", batch.client),)
        if batch.result is not None:
            raise Violation("P7 honest", f"batch {batch.ordinal} of {batch.client} is settled twice", *about)
        batch.result = result
        if isinstance(result, Ack):
            self.acknowledged += batch.count
            if batch.first_seq == 0:
                words = f"batch {batch.ordinal} of {batch.client} is acknowledged and not stored"
                raise Violation("P1 durable", words, *about)
            if (result.first_seq, result.timestamp, result.count) != (batch.first_seq, batch.timestamp, batch.count):
                words = (
                    f"batch {batch.ordinal} of {batch.client} is at seq {batch.first_seq}, time {batch.timestamp};"
                    f" its acknowledgement says {result}"
                )
                raise Violation("P2 ack", words, *about, ("entry", self._index_of[batch.first_seq - 1]))
        elif result.outcome is Outcome.DEFINITE and batch.first_seq:
            words = f"batch {batch.ordinal} of {batch.client} is stored; it was told: {result!r}"
            raise Violation("P7 honest", words, *about, ("entry", self._index_of[batch.first_seq - 1]))

    # ------------------------------------------------------------------------------------------------------ reads
    def check_read(self, reader: str, node: str, message: Message) -> None:
        """A subscriber got ``message`` from ``node``."""
        if message.seq > len(self.messages):
            words = f"{reader} got seq {message.seq} from {node}, committed are {len(self.messages)}"
            raise Violation("P2 one order", words, ("client", reader), ("node", node))
        known = self.messages[message.seq - 1]
        if known != message:
            words = f"{reader} got {message} from {node}; it is {known}"
            raise Violation("P2 one order", words, ("client", reader), ("entry", self._index_of[message.seq - 1]))

    def check_begins(self, reader: str, node: str, *, wanted: int, begins_at: int) -> None:
        """``node`` has ``reader`` begin at ``begins_at``, whose next seq is ``wanted``: is what is between gone?"""
        if begins_at > max(wanted, self.first_seq):
            words = f"{reader} needs seq {wanted}; at {node} it begins at {begins_at}, the log at {self.first_seq}"
            raise Violation("P2 continuity", words, ("client", reader), ("node", node))


def _gist(result: Ack | LanyingError) -> object:
    return result if isinstance(result, Ack) else (result.code, result.message)
