"""One log on one node, as a step function: requests in, entries to disk and peers, commits to readers.

This is where the floors below meet: `Batcher` (who waits), `Replica` (what is decided), `StateMachine` (what it means)
and `Tail` (who reads). No clock, disk or socket: `commit_loop` drives it on trio, a simulator drives it in virtual
time. See `raft.replica` for the calls and their order.

Timestamps: the leader gives an entry ``max(wall clock, last + 1)`` and counts its messages, where ``last`` covers every
entry in its log, committed or not, from the moment it leads. So they rise over leader changes and clock jumps (P2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lanyinglog.batcher import Batcher, BatcherLimits, Ticket
from lanyinglog.errors import NotLeader, StorageFull
from lanyinglog.machine.commands import encode_entry, parse_entry
from lanyinglog.machine.state_machine import StateMachine
from lanyinglog.raft.guard import Outgoing
from lanyinglog.raft.messages import PeerMessage
from lanyinglog.raft.replica import Replica, Timing
from lanyinglog.record import BatchView, skim_batch
from lanyinglog.store.log_store import Entry, LogStore, Writes
from lanyinglog.tail import Tail

CHECKPOINT_ENTRIES = 64
"""Entries applied before derived state goes to disk with the next write: a restart applies about as many again."""


class LogCore:
    """See the module. ``now`` is seconds on a monotonic clock, ``wall_ns`` nanoseconds since the epoch."""

    def __init__(
        self,
        *,
        node: str,
        members: Iterable[str],
        store: LogStore,
        timing: Timing,
        uniform: Callable[[float, float], float],
        now: float,
        limits: BatcherLimits | None = None,
        cache_bytes_max: int = 32 << 20,
        checkpoint_entries: int = CHECKPOINT_ENTRIES,
    ) -> None:
        self.machine = StateMachine()
        self.machine.load(store.applied(), store.rows())
        self.batcher = Batcher(limits if limits is not None else BatcherLimits())
        self.storage_full = False
        self.leader_hint: Callable[[], str | None] = lambda: None  # the leader's client address, as far as known
        self._checkpoint_entries = checkpoint_entries
        self._led_term = 0
        self._clock_ns = 0
        self.replica = Replica(
            node=node,
            members=members,
            store=store,
            applied=self.machine.applied,
            apply=self._apply,
            timing=timing,
            uniform=uniform,
            now=now,
            cache_bytes_max=cache_bytes_max,
        )
        self.tail = Tail(journal=self.replica.journal, last_seq=self.machine.last_seq)
        self.tail.stored(self.machine.applied)
        self.replica.start(self.machine.applied)

    # --------------------------------------------------------------------------------------------------- inputs
    def submit(self, batch: BatchView, now: float) -> Ticket:
        """Queue a batch. `NotLeader`, `StorageFull` and `Busy` are definite: it will not happen."""
        if not self.replica.leads:
            raise NotLeader("this node does not lead the log", hint=self.leader_hint())
        if self.storage_full:
            raise StorageFull("the disk of the leader has no room; reads go on")
        return self.batcher.submit(batch, now)

    def transfer(self, to: str, now: float) -> None:
        """Begin to hand leadership to ``to``; batches wait meanwhile, and then get `NotLeader`, which is definite."""
        self.replica.transfer(to, now)

    def receive(self, sender: str, message: PeerMessage, now: float) -> None:
        """A peer's message."""
        self.replica.receive(sender, message, now)
        self._notice_leadership()

    def advance(self, now: float, wall_ns: int) -> None:
        """Let time pass: expire, propose what waits if the disk is free, one turn of the engine."""
        self.batcher.expire(now)
        self._notice_leadership()
        if self.batcher.may_propose and self.replica.may_append and not self.replica.journal.writing:
            self._propose(now, wall_ns)
        else:
            self.replica.advance(now)
        self._notice_leadership()

    def _propose(self, now: float, wall_ns: int) -> None:
        """One entry of all that waits; appended in this turn or not at all."""
        journal = self.replica.journal
        proposal = self.batcher.take()
        timestamp = max(wall_ns, self._clock_ns + 1)
        before = journal.last_index
        self.replica.propose(encode_entry(timestamp, proposal.batches))
        self.replica.advance(now)
        if self.replica.leads and journal.last_index == before + 1 and journal.last_term == self._led_term:
            self._clock_ns = timestamp + proposal.messages - 1
            self.batcher.proposed(before + 1, self._led_term, proposal)
        else:
            self.batcher.refused(proposal, hint=self.leader_hint())

    def _notice_leadership(self) -> None:
        term = self.replica.engine.term if self.replica.leads else 0
        if term == self._led_term:
            return
        if self._led_term:
            self.batcher.lose_leadership(hint=self.leader_hint())
        self._led_term = term
        if term:
            self._clock_ns = max(self._clock_ns, self._newest_timestamp())

    def _newest_timestamp(self) -> int:
        """The last timestamp given in any entry of the log, also in those that are not committed yet."""
        journal = self.replica.journal
        newest = self.machine.last_timestamp
        for index in range(self.machine.applied + 1, journal.last_index + 1):
            command = journal.entry(index).command
            try:
                entry = parse_entry(command)
            except ValueError:
                continue  # unreadable to every node alike: it has no messages
            messages = sum(skim_batch(command, part.start, part.stop).count for part in entry.commands)
            newest = max(newest, entry.timestamp + messages)
        return newest

    # ------------------------------------------------------------------------------------------------- the disk
    @property
    def wants_write(self) -> bool:
        """Whether `begin_write` is due."""
        return self.replica.wants_write or (self._checkpoint_is_due and not self.replica.journal.writing)

    @property
    def _checkpoint_is_due(self) -> bool:
        return self.machine.entries_since_checkpoint >= self._checkpoint_entries

    def begin_write(self, *, checkpoint: bool = False) -> Writes:
        """All changes as one transaction, with derived state if that is due or asked for."""
        due = checkpoint or self._checkpoint_is_due
        return self.replica.begin_write(self.machine.take_checkpoint() if due else None)

    def end_write(self, writes: Writes, now: float) -> None:
        """``writes`` is on disk."""
        if writes.checkpoint is not None:
            self.tail.stored(writes.checkpoint.applied)
        self.replica.end_write(now)
        self._notice_leadership()

    # -------------------------------------------------------------------------------------------------- outputs
    def take_outbox(self) -> list[Outgoing]:
        """Messages for peers that may leave now."""
        return self.replica.take_outbox()

    def next_deadline(self) -> float:
        """When `advance` is due even if nothing happens."""
        return self.replica.next_deadline()

    def _apply(self, entry: Entry) -> None:
        applied = self.machine.apply(entry.index, entry.command)
        self.tail.append(applied)
        self.batcher.applied(entry.index, entry.term, applied.results)
