"""From requests to entries and back: what waits for the next group commit, and who is told how it ended.

Batches that arrive while the disk is busy, or while a small entry is under way, wait here and leave together as one
entry: group commit without a timer.
Each has a `Ticket`, which is settled exactly once:

| ticket ends as | when | promise |
|---|---|---|
| `Ack` or the machine's error | its entry was applied at the index and term at which it was proposed | P1-P5 |
| `NotLeader` (definite) | leadership was lost while it still waited, never proposed | P7 |
| `OutcomeUnknown` | leadership was lost, or time ran out, after it was proposed (audit 19) | P7 |
| `Busy` (definite) | time ran out while it still waited | P7 |

Bounds (P8): `waiting_bytes_max` and `waiting_batches_max` of batches wait, `entry_bytes_max` go into an entry,
`entries_in_flight_max` entries are proposed and not committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from lanyinglog.errors import Busy, LanyingError, NotLeader, OutcomeUnknown
from lanyinglog.record import BatchView
from lanyinglog.service import Ack, Owner

Result = Ack | LanyingError


@dataclass(frozen=True, slots=True)
class BatcherLimits:
    waiting_bytes_max: int = 32 << 20
    """Bytes of waiting batches; one more is `Busy`."""
    waiting_batches_max: int = 32_768
    """The same in batches, for small ones cost more than their bytes."""
    room_bytes_max: int = 8 << 20
    """From here on connections stop reading: their TCP windows push back on the producers."""
    room_batches_max: int = 16_384
    entry_bytes_max: int = 1 << 20
    """An entry takes batches until it reaches this (and so may exceed it by one batch)."""
    entry_batches_max: int = 4_096
    entries_in_flight_max: int = 8
    pipelined_bytes_min: int = 64 << 10
    """With an entry in flight, less than this waits for it: company does a small entry more good than a head start."""
    deadline_s: float = 10.0
    """How long a batch may take before its producer is told that its outcome is unknown; one that shares its entry with
    later ones is told with the last of them, in less than twice this."""


class Ticket:
    """The future of one batch; `result` is None until it is settled. ``to_tell`` collects who wants to know."""

    __slots__ = ("_event", "_owner", "_to_tell", "expires_at", "result")

    def __init__(self, expires_at: float, to_tell: dict[Owner, None]) -> None:
        self.expires_at = expires_at
        self.result: Result | None = None
        self._event: trio.Event | None = None
        self._owner: Owner | None = None
        self._to_tell = to_tell

    def settle(self, result: Result) -> None:
        """Tell how it ended; the first word counts."""
        if self.result is None:
            self.result = result
            if self._owner is not None:
                self._to_tell[self._owner] = None
            if self._event is not None:
                self._event.set()

    def tell(self, owner: Owner) -> None:
        """See `service.Ticket.tell`."""
        self._owner = owner
        if self.result is not None:
            self._to_tell[owner] = None

    async def wait(self) -> Ack:
        """The acknowledgement, or the error raised."""
        if self.result is None:
            if self._event is None:
                self._event = trio.Event()
            await self._event.wait()
        if isinstance(self.result, LanyingError):
            raise self.result
        assert self.result is not None
        return self.result


@dataclass(frozen=True, slots=True)
class Proposal:
    """The batches of one entry."""

    batches: tuple[bytes, ...]
    messages: int
    tickets: tuple[Ticket, ...]


class Batcher:
    """See the module. ``now`` is seconds on the caller's monotonic clock."""

    def __init__(self, limits: BatcherLimits) -> None:
        self._limits = limits
        self._waiting: deque[tuple[BatchView, Ticket]] = deque()
        self._waiting_bytes = 0
        self._in_flight: dict[int, tuple[int, Proposal]] = {}  # index -> term, proposal; in order
        self._to_tell: dict[Owner, None] = {}

    def submit(self, batch: BatchView, now: float) -> Ticket:
        """Queue ``batch`` behind those before it. `Busy` when full."""
        limits = self._limits
        size = len(batch.encoded)
        if self._waiting_bytes + size > limits.waiting_bytes_max:
            raise Busy(f"{self._waiting_bytes} bytes of batches wait already")
        if len(self._waiting) >= limits.waiting_batches_max:
            raise Busy(f"{len(self._waiting)} batches wait already")
        ticket = Ticket(now + limits.deadline_s, self._to_tell)
        self._waiting.append((batch, ticket))
        self._waiting_bytes += size
        return ticket

    def ticket(self, now: float) -> Ticket:
        """A ticket for something else that is to become an entry, with a batch's deadline."""
        return Ticket(now + self._limits.deadline_s, self._to_tell)

    def tell_settled(self) -> None:
        """Call each owner of tickets that were settled since the last time, once, and then what they gave back."""
        if self._to_tell:
            owners = list(self._to_tell)
            self._to_tell.clear()
            for send in [owner() for owner in owners]:
                if send is not None:
                    send()

    @property
    def has_room(self) -> bool:
        """Whether connections may go on reading publishes."""
        limits = self._limits
        return self._waiting_bytes <= limits.room_bytes_max and len(self._waiting) <= limits.room_batches_max

    @property
    def waiting(self) -> tuple[int, int]:
        """Batches that wait for an entry, and their bytes."""
        return len(self._waiting), self._waiting_bytes

    @property
    def in_flight(self) -> int:
        """Entries that were proposed here and are not applied."""
        return len(self._in_flight)

    @property
    def may_propose(self) -> bool:
        """Whether something waits, and nothing is in flight or enough waits to be worth an entry beside those."""
        if not self._in_flight:
            return bool(self._waiting)
        limits = self._limits
        return self._waiting_bytes >= limits.pipelined_bytes_min and len(self._in_flight) < limits.entries_in_flight_max

    def take(self) -> Proposal:
        """The next entry's batches, in order of arrival."""
        batches: list[bytes] = []
        tickets: list[Ticket] = []
        messages = size = 0
        while self._waiting and size < self._limits.entry_bytes_max and len(batches) < self._limits.entry_batches_max:
            batch, ticket = self._waiting.popleft()
            batches.append(batch.encoded)
            tickets.append(ticket)
            messages += batch.count
            size += len(batch.encoded)
        self._waiting_bytes -= size
        return Proposal(tuple(batches), messages, tuple(tickets))

    def proposed(self, index: int, term: int, proposal: Proposal) -> None:
        """The proposal became entry ``index`` of ``term``."""
        self._in_flight[index] = (term, proposal)

    def refused(self, proposal: Proposal, *, hint: str | None) -> None:
        """The proposal never became an entry."""
        for ticket in proposal.tickets:
            ticket.settle(NotLeader("this node lost leadership before the batch was proposed", hint=hint))

    def applied(self, index: int, term: int, results: Sequence[Result]) -> None:
        """Entry ``index`` was applied: settle its tickets, if it is the entry that was proposed."""
        found = self._in_flight.pop(index, None)
        if found is None:
            return
        proposed_term, proposal = found
        if proposed_term != term:
            self._unknown(proposal)
            return
        for ticket, result in zip(proposal.tickets, results, strict=True):
            ticket.settle(result)

    def lose_leadership(self, *, hint: str | None) -> None:
        """This node leads no more: what is in flight may still commit, what waits never will."""
        for _, proposal in self._in_flight.values():
            self._unknown(proposal)
        self._in_flight.clear()
        for _, ticket in self._waiting:
            ticket.settle(NotLeader("this node lost leadership before the batch was proposed", hint=hint))
        self._waiting.clear()
        self._waiting_bytes = 0

    def expire(self, now: float) -> None:
        """Settle what took too long. Waiting batches leave the queue; entries in flight keep their place in the log."""
        while self._waiting and self._waiting[0][1].expires_at <= now:
            batch, ticket = self._waiting.popleft()
            self._waiting_bytes -= len(batch.encoded)
            ticket.settle(Busy("the batch waited too long for its turn and was not proposed"))
        for _, proposal in self._in_flight.values():
            if proposal.tickets[-1].expires_at > now:
                break
            self._unknown(proposal)

    def _unknown(self, proposal: Proposal) -> None:
        for ticket in proposal.tickets:
            ticket.settle(OutcomeUnknown("leadership or time was lost before the batch was known to be committed"))
