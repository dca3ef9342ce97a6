"""One log on one node, as a step function: requests in, entries to disk and peers, commits to readers.

This is where the floors below meet: `Batcher` (who waits), `Replica` (what is decided), `StateMachine` (what it means)
and `Tail` (who reads). No clock, disk or socket: `commit_loop` drives it on trio, a simulator drives it in virtual
time. See `raft.replica` for the calls and their order.

Retention: the leader proposes trims when a limit is exceeded, and every node removes what is trimmed beside its writes
(`trimmer`). When `installed` turns True the store holds another log; see `raft.replica`.

Timestamps: the leader gives an entry ``max(wall clock, last + 1)`` and counts its messages, where ``last`` covers every
entry in its log, committed or not, from the moment it leads. So they rise over leader changes and clock jumps (P2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lanyinglog.batcher import Batcher, BatcherLimits, Proposal, Ticket
from lanyinglog.errors import Busy, CorruptEntry, NotLeader, StorageFull
from lanyinglog.machine.commands import (
    KIND_BATCH,
    KIND_MEMBERS,
    KIND_PURGE,
    KIND_SETTINGS,
    KIND_TRIM,
    encode_command,
    encode_entry,
    parse_entry,
)
from lanyinglog.machine.members import Members, added, members_in, removed
from lanyinglog.machine.purge import Purge
from lanyinglog.machine.retention import encode_settings, encode_trim
from lanyinglog.machine.selections import Selections
from lanyinglog.machine.state_machine import StateMachine
from lanyinglog.raft.messages import PeerMessage
from lanyinglog.raft.outgoing import Outgoing
from lanyinglog.raft.replica import Replica
from lanyinglog.raft.timing import Timing
from lanyinglog.record import BatchView, skim_batch
from lanyinglog.store.log_store import Entry, LogStore, Writes
from lanyinglog.tail import Tail
from lanyinglog.trimmer import Trimmer

CHECKPOINT_ENTRIES = 64
"""Entries applied before derived state goes to disk with the next write: a restart applies about as many again."""
CHECKPOINT_BYTES = 8 << 20
"""The same in bytes of entries: what is not in a checkpoint can't be trimmed. With a limit in bytes, at most a
`LIMIT_SHARE`-th of that."""
LIMIT_SHARE = 32
"""A trim is proposed at once when it gains such a part of the limit, so that the file stays near it under load; else no
more often than every `RETENTION_CHECK_S`, for each costs an entry."""
CHECKPOINT_S = 5.0
"""The same in time, so that the last messages before a silence can be trimmed when they are old enough."""
INDEXED_TOPICS_MAX = 64
"""A filter that matches more topics than this reads every block: the index would hardly skip any."""
RETENTION_CHECK_S = 1.0
SETTINGS_WAITING_MAX = 8


@dataclass(frozen=True, slots=True)
class _Command:
    """Something to propose that is no batch."""

    kind: int
    body: bytes
    ticket: Ticket | None


class LogCore:
    """See the module. ``now`` is seconds on a monotonic clock, ``wall_ns`` nanoseconds since the epoch."""

    def __init__(
        self,
        *,
        node: str,
        members: Members,
        store: LogStore,
        timing: Timing,
        uniform: Callable[[float, float], float],
        now: float,
        limits: BatcherLimits | None = None,
        cache_bytes_max: int = 32 << 20,
        catch_up_bytes_s: float = 32 << 20,
        checkpoint_entries: int = CHECKPOINT_ENTRIES,
        newcomer: bool = False,
    ) -> None:
        assert not store.installing(), "the installation of a snapshot has to be finished first"
        self.machine = StateMachine()
        self.machine.load(store.applied(), store.rows())
        self.batcher = Batcher(limits if limits is not None else BatcherLimits())
        self.storage_full = False
        self.leader_hint: Callable[[], str | None] = lambda: None  # the leader's client address, as far as known
        self._checkpoint_entries = checkpoint_entries
        self._led_term = 0
        self._clock_ns = 0
        self._now = now
        self._checkpoint_at = now
        self._checkpoint_end_bytes = self.machine.end_bytes
        self._checkpoint_first_index = self.machine.first_index
        self._commands: deque[_Command] = deque()
        self._trim_proposed = self._retention_end_bytes = 0
        self._retention_at = now
        self.selections = Selections(self.machine.topics, topics_max=INDEXED_TOPICS_MAX)
        self.trimmer = Trimmer(store=store, machine=self.machine)
        self.replica = Replica(
            node=node,
            members=self.machine.members or members,
            members_in=members_in,
            store=store,
            applied=self.machine.applied,
            apply=self._apply,
            timing=timing,
            uniform=uniform,
            now=now,
            cache_bytes_max=cache_bytes_max,
            catch_up_bytes_s=catch_up_bytes_s,
            newcomer=newcomer,
        )
        self.tail = Tail(journal=self.replica.journal, last_seq=self.machine.last_seq)
        self.tail.stored(self.machine.applied)
        self.replica.start(self.machine.applied)

    # --------------------------------------------------------------------------------------------------- inputs
    def submit(self, batch: BatchView, now: float) -> Ticket:
        """Queue a batch. `NotLeader`, `StorageFull` and `Busy` are definite: it will not happen."""
        if not self.replica.engine.leads:
            raise NotLeader("this node does not lead the log", hint=self.leader_hint())
        if self.storage_full:
            raise StorageFull("the disk of the leader has no room; reads go on")
        return self.batcher.submit(batch, now)

    def configure(self, changes: Mapping[str, int | None], now: float) -> Ticket:
        """Have limits of retention changed (`machine.retention`). `BadRequest`, `NotLeader`, `Busy`: definite."""
        return self._command(KIND_SETTINGS, encode_settings(changes), now)

    def purge(self, purge: Purge, now: float) -> Ticket:
        """Have what was published so far to some topics not be read any more; errors as in `configure`."""
        return self._command(KIND_PURGE, purge.encode(), now)

    def add_member(self, name: str, peer: str, now: float) -> Ticket:
        """Have ``name`` at ``peer`` join as a learner, which votes once it has caught up; errors as in `configure`."""
        self._check_change(now)
        return self._command(KIND_MEMBERS, added(self.members, name, peer).encode(), now)

    def remove_member(self, name: str, now: float) -> Ticket:
        """Have ``name``, not this node itself, leave; errors as in `configure`."""
        return self._command(KIND_MEMBERS, self.members_without(name, now).encode(), now)

    def members_without(self, name: str, now: float) -> Members:
        """What the members would be if ``name`` left now; errors as in `configure`."""
        self._check_change(now)
        return removed(self.members, name, ready=self.keeping_up(now))

    def keeping_up(self, now: float) -> frozenset[str]:
        """The members that this node, the leader, could decide with, and itself (`Replica.keeps_up`)."""
        return frozenset(one for one in self.members.table if self.replica.keeps_up(one, now))

    @property
    def members(self) -> Members:
        """The newest configuration in this node's log, committed or not."""
        return self.replica.membership.current

    @property
    def departed(self) -> frozenset[str]:
        """Who has left, by what is committed: what is not may still come to nothing."""
        return self.replica.membership.settled.departed

    def _check_change(self, now: float) -> None:
        obstacle = self.replica.why_no_change(now) if self.replica.leads else None
        if obstacle is not None or any(command.kind == KIND_MEMBERS for command in self._commands):
            raise Busy(obstacle or "another change of members waits already")

    def _command(self, kind: int, body: bytes, now: float) -> Ticket:
        if not self.replica.leads:
            raise NotLeader("this node does not lead the log", hint=self.leader_hint())
        if len(self._commands) >= SETTINGS_WAITING_MAX:
            raise Busy(f"{SETTINGS_WAITING_MAX} changes of settings wait already")
        ticket = self.batcher.ticket(now)
        self._commands.append(_Command(kind, body, ticket))
        return ticket

    def transfer(self, to: str, now: float) -> None:
        """Begin to hand leadership to ``to``; batches wait meanwhile, and then get `NotLeader`, which is definite."""
        self.replica.transfer(to, now)

    def receive(self, sender: str, message: PeerMessage, now: float) -> None:
        """A peer's message."""
        self.replica.receive(sender, message, now)
        self._notice_leadership()

    def advance(self, now: float, wall_ns: int) -> None:
        """Let time pass: expire, propose what waits if the disk is free, one turn of the engine."""
        self._now = now
        self.batcher.expire(now)
        if self._commands:
            self._expire_commands(now)
        if self._led_term:
            self._check_retention(now, wall_ns)
            self._promote_learner(now)
        if self._commands and self._can_append:
            self._propose_command(now, wall_ns)
        elif self.may_propose:
            self._propose(now, wall_ns)
        else:
            self.replica.advance(now)
            self._notice_leadership()
            if not self.may_propose:
                return
            self._propose(now, wall_ns)  # what it waited for has been applied in this turn
        self._notice_leadership()

    @property
    def wants_turn(self) -> bool:
        """Whether `advance` would do anything now, timers aside. What may leave is in the outbox all the same."""
        proposes = bool(self._commands) or self.batcher.may_propose
        trims = self._led_term > 0 and self._retention_at <= self._now
        return self.replica.wants_turn or trims or (proposes and self._can_append)

    @property
    def may_propose(self) -> bool:
        """Whether the next `advance` would make an entry of what waits."""
        # In this order: it is asked for every publish, and with an entry in flight the batcher says no.
        return self.batcher.may_propose and self._can_append

    @property
    def _can_append(self) -> bool:
        return self.replica.may_append and not self.replica.journal.writing

    def _check_retention(self, now: float, wall_ns: int) -> None:
        """Propose a trim if it is time to look, a limit is exceeded, and none is under way."""
        if now < self._retention_at or self.machine.first_index < self._trim_proposed:
            return
        self._retention_at = now + RETENTION_CHECK_S
        self._retention_end_bytes = self._checkpoint_end_bytes
        point = self.trimmer.proposal(now, wall_ns)
        self._mend_to_trim()
        if point is not None:
            self._trim_proposed = point.first_index
            self._commands.append(_Command(KIND_TRIM, encode_trim(point), None))

    def _promote_learner(self, now: float) -> None:
        """Let a learner vote as soon as it has caught up."""
        if self.members.learners and not self._commands:
            name = self.replica.caught_up_learner(now)
            if name is not None and self.replica.why_no_change(now) is None:
                self._commands.append(_Command(KIND_MEMBERS, self.members.with_voter(name).encode(), None))

    def _propose_command(self, now: float, wall_ns: int) -> None:
        """One entry of the next command that is no batch; appended in this turn or not at all."""
        command = self._commands.popleft()
        proposal = Proposal((), 0, () if command.ticket is None else (command.ticket,))
        timestamp = max(wall_ns, self._clock_ns + 1)
        index = self._append(encode_command(timestamp, command.kind, command.body), now)
        if index is None:
            self._trim_proposed = 0
            self.batcher.refused(proposal, hint=self.leader_hint())
            return
        self._clock_ns = timestamp
        if proposal.tickets:
            self.batcher.proposed(index, self._led_term, proposal)

    def _append(self, command: bytes, now: float) -> int | None:
        """The index that ``command`` got in this turn; None if it did not become an entry, and never will."""
        journal = self.replica.journal
        before = journal.last_index
        self.replica.propose(command)
        self.replica.advance(now)
        appended = self.replica.leads and journal.last_index == before + 1 and journal.last_term == self._led_term
        return before + 1 if appended else None

    def _propose(self, now: float, wall_ns: int) -> None:
        """One entry of all that waits; appended in this turn or not at all."""
        proposal = self.batcher.take()
        timestamp = max(wall_ns, self._clock_ns + 1)
        index = self._append(encode_entry(timestamp, proposal.batches), now)
        if index is None:
            self.batcher.refused(proposal, hint=self.leader_hint())
        else:
            self._clock_ns = timestamp + proposal.messages - 1
            self.batcher.proposed(index, self._led_term, proposal)

    def _notice_leadership(self) -> None:
        term = self.replica.engine.term if self.replica.leads else 0
        if term == self._led_term:
            return
        if self._led_term:
            self.batcher.lose_leadership(hint=self.leader_hint())
            self._drop_commands()
        self._led_term = term
        self._trim_proposed = 0
        if term:
            self._clock_ns = max(self._clock_ns, self._newest_timestamp())

    def _expire_commands(self, now: float) -> None:
        """Settle what waited too long, as while the disk is full: who asked is not left without an answer (P7)."""
        for command in list(self._commands):
            if command.ticket is not None and command.ticket.expires_at <= now:
                self._commands.remove(command)
                command.ticket.settle(Busy("it waited too long for its turn and was not proposed"))

    def _drop_commands(self) -> None:
        for command in self._commands:
            if command.ticket is not None:
                command.ticket.settle(NotLeader("this node lost leadership first", hint=self.leader_hint()))
        self._commands.clear()

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
            batches = (skim_batch(command, start, stop) for kind, start, stop in entry.commands if kind == KIND_BATCH)
            messages = sum(count for _, _, runs in batches for _, count, *_ in runs)
            newest = max(newest, entry.timestamp + messages)
        return newest

    # ------------------------------------------------------------------------------------------------- the disk
    @property
    def wants_write(self) -> bool:
        """Whether `begin_write` is due."""
        if self.replica.journal.writing or self.installed:
            return False
        return self.replica.wants_write or self._checkpoint_is_due or self._trim_goal() > 0

    @property
    def _checkpoint_is_due(self) -> bool:
        waiting = self.machine.entries_since_checkpoint
        return (
            waiting >= self._checkpoint_entries
            or self.machine.end_bytes - self._checkpoint_end_bytes >= min(CHECKPOINT_BYTES, self._limit_share)
            or self.machine.first_index > self._checkpoint_first_index
            or (waiting > 0 and self._now - self._checkpoint_at >= CHECKPOINT_S)
        )

    @property
    def _limit_share(self) -> int:
        limit = self.machine.retention.bytes
        return 1 << 62 if limit is None else limit // LIMIT_SHARE

    def _trim_goal(self) -> int:
        """Up to which entry this node may remove entries now, 0 if it has nothing to remove."""
        replica = self.replica
        if not self.trimmer.wants_step:
            return 0
        held: int | None = None
        if replica.leads:
            held = replica.held_index(self._now)
        goal = self.trimmer.goal(last_index=replica.journal.last_index, held=held)
        self._mend_to_trim()
        return goal

    def _mend_to_trim(self) -> None:
        """What trimming came upon and can't read is asked for from the others, as for a reader."""
        for damage in self.trimmer.damages:
            self.want_repair(damage)

    def begin_write(self, *, checkpoint: bool = False) -> Writes:
        """All changes as one transaction, with derived state if that is due or asked for."""
        trim = self.trimmer.step(self._trim_goal(), bytes_added=self.replica.journal.unsaved_bytes)
        self._mend_to_trim()
        taken = None
        if checkpoint or self._checkpoint_is_due:
            taken = self.machine.take_checkpoint()
            self._checkpoint_first_index = self.machine.first_index
            self._checkpoint_end_bytes = self.machine.end_bytes
            self._checkpoint_at = self._now
        writes = self.replica.begin_write(taken, trim)
        if trim is not None:
            self.tail.trimmed()
        return writes

    def end_write(self, writes: Writes, now: float) -> None:
        """``writes`` is on disk."""
        self._now = now
        if writes.checkpoint is not None:
            self.tail.stored(writes.checkpoint.applied)
            self.trimmer.checkpointed(writes.checkpoint.applied, self._checkpoint_first_index)
            if self._checkpoint_end_bytes - self._retention_end_bytes >= self._limit_share:
                self._retention_at = now
        self.trimmer.mended(mend.entry.index for mend in writes.mends)
        self.replica.end_write(now)
        self._notice_leadership()

    @property
    def installed(self) -> bool:
        """Whether the log on disk has become another one: time to finish that and to start anew (`raft.replica`)."""
        return self.replica.installed

    @property
    def first_seq(self) -> int:
        """The oldest message that can be read."""
        return self.trimmer.first_seq

    def want_repair(self, damage: CorruptEntry) -> bool:
        """Have what ``damage`` names fetched again from the other nodes; whether that is possible."""
        return damage.hint is not None and self.replica.repair.want(int(damage.hint))

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
