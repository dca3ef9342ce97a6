"""One log as sessions see it: `LogService` over the loop, the hot tail and the history on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import trio

from lanyinglog.batcher import Ticket
from lanyinglog.commit_loop import CommitLoop
from lanyinglog.errors import BadRequest, Busy, CorruptEntry, HandoverFailed, NotLeader, Trimmed
from lanyinglog.log_core import LogCore
from lanyinglog.machine import retention
from lanyinglog.machine.purge import Purge
from lanyinglog.raft.read_index import ReadIndex
from lanyinglog.record import BatchView
from lanyinglog.scrub import Scrub
from lanyinglog.service import Page, TopicPage
from lanyinglog.store.log_store import LogStore
from lanyinglog.tail import History
from lanyinglog.topics import matcher

HISTORY_READERS_MAX = 4
"""Threads that read history at once; more would only make the disk seek."""
MEND_S_MAX = 2.0
"""How long a reader waits for a damaged entry to be fetched again."""
MENDED_PER_READ_MAX = 64
DAMAGED_TOLD = 16
"""Entries that a status names as damaged."""
SCRUB_PAUSE_S = 5.0
"""Between two passes over the log."""
SILENT_TIMEOUTS = 2
"""Election timeouts without a leader after which this node sends subscribers away: one passes before the others elect
another, and then they do in less than one."""
LAG_ENTRIES_TOLD = 100
"""Entries by which a node must be behind to say so; what is on its way is less."""

T = TypeVar("T")


class HostedLog:
    """See `service.LogService` for what the methods promise."""

    def __init__(
        self,
        name: str,
        *,
        loop: CommitLoop,
        store: LogStore,
        client_of: Callable[[str], str | None],
        connected: Callable[[str], bool],
        own_addresses: tuple[str, str],
        health: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.name = name
        self._loop = loop
        self._store = store
        self._history = History(store)
        self._client_of = client_of
        self._connected = connected
        self._own_client, self._own_peer = own_addresses
        self._health = health
        self._readers = trio.CapacityLimiter(HISTORY_READERS_MAX)
        self._core.leader_hint = self._leader_client

    @property
    def _core(self) -> LogCore:
        return self._loop.core  # another one when a snapshot has replaced the log

    @property
    def first_seq(self) -> int:
        return self._core.first_seq

    @property
    def last_seq(self) -> int:
        return self._core.tail.last_seq

    @property
    def cut_off(self) -> bool:
        replica = self._core.replica
        return trio.current_time() - replica.election.contact_at >= SILENT_TIMEOUTS * replica.election_timeout_s

    def submit(self, batch: BatchView, *, received: float) -> Ticket:
        core = self._loop.core
        ticket = core.submit(batch, received)
        if core.may_propose:  # else the turn that makes it possible will find it
            self._loop.turn()
        return ticket

    @property
    def has_room(self) -> bool:
        return self._loop.core.batcher.has_room

    async def wait_room(self) -> None:
        while not self.has_room:
            await self._loop.wait_moved()

    async def transfer(self, to: str | None) -> str:
        replica = self._core.replica
        if not replica.leads:
            raise NotLeader("this node does not lead the log", hint=self._leader_client())
        if replica.handing_over is not None:
            raise Busy(f"leadership is being handed to {replica.handing_over}")
        successor = self.best_successor() if to is None else to
        if successor == replica.node:
            return successor
        if successor is None or successor not in replica.guard.voters:
            raise BadRequest(f"no node {to!r} to hand over to" if to else "no other node is connected")
        if not self._connected(successor):
            raise HandoverFailed(f"{successor} is not connected")
        await self._until_ready(successor)
        self._core.transfer(successor, trio.current_time())
        self._loop.wake()
        while replica.handing_over == successor:
            await self._loop.wait_turn()
        with trio.move_on_after(replica.election_timeout_s):
            while not replica.leads and replica.engine.leader is None:
                await self._loop.wait_turn()
        if replica.engine.leader != successor:
            raise HandoverFailed(f"{successor} did not take over; {replica.engine.leader or 'nobody'} leads")
        return successor

    async def _until_ready(self, successor: str) -> None:
        """Returns when ``successor`` is known to hear this leader and to lack little of the log, within an election
        timeout: publishes wait for a hand-over, and one to a node that can't follow would hold them up for nothing
        (P9). `HandoverFailed`; `NotLeader` or `Busy` if something else came first."""
        core = self._core
        with trio.move_on_after(core.replica.election_timeout_s):
            while core is self._core and core.replica.leads:
                if core.replica.handing_over is not None:
                    raise Busy(f"leadership is being handed to {core.replica.handing_over}")
                if core.replica.keeps_up(successor, trio.current_time()):
                    return
                await self._loop.wait_turn()
            raise NotLeader("this node does not lead the log any more", hint=self._leader_client())
        raise HandoverFailed(f"{successor} does not answer, or lacks too much of the log")

    def best_successor(self) -> str | None:
        """The connected node with the most of the log on its disk, while this node leads."""
        replica = self._core.replica
        candidates = [name for name in replica.guard.peers if name in replica.guard.voters and self._connected(name)]
        return max(candidates, key=replica.engine.match_index, default=None) if replica.leads else None

    async def wait_beyond(self, seq: int) -> None:
        while self.last_seq <= seq:
            await self._loop.wait_moved()

    def read_now(self, *, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> Page | None:
        core = self._core
        if self._loop.installing or after + 1 < self.first_seq or not core.tail.holds(after + 1):
            return None
        try:
            return core.tail.read(
                after=after,
                matches=matcher(filters),
                purged=core.machine.topics.purged,
                messages_max=messages_max,
                bytes_max=bytes_max,
            )
        except CorruptEntry:
            return None  # its bytes had left memory: the way by the disk mends it

    async def read(self, *, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> Page:
        self._check_readable(after)
        if after >= self.last_seq:
            return Page((), after, 0, 0)
        page = self.read_now(after=after, filters=filters, messages_max=messages_max, bytes_max=bytes_max)
        if page is not None:
            return page
        numbers = await self._topic_numbers(filters)
        read = partial(
            self._history.read,
            after=after,
            matches=matcher(filters),
            purged=self._core.machine.topics.purged,
            topic_numbers=numbers,
            last_index=self._core.machine.applied,
            messages_max=messages_max,
            bytes_max=bytes_max,
        )
        return await self._read_history(read, after)

    async def _read_history(self, read: Callable[[], T], after: int) -> T:
        """Reads in a thread. While it reads, the front of the log may go, or all of it for a snapshot's sake: what it
        then missed is no damage, and what it then skipped must not pass for nothing."""
        for _ in range(MENDED_PER_READ_MAX):
            try:
                found = await trio.to_thread.run_sync(read, limiter=self._readers)
            except KeyError:
                self._check_readable(after)
                continue  # what went is not what was asked for
            except CorruptEntry as error:
                self._check_readable(after)
                if await self.mend(error):
                    continue
                raise
            self._check_readable(after)
            return found
        raise Busy("this node is mending its log; another one has it")

    async def mend(self, damage: CorruptEntry) -> bool:
        """Have a damaged entry fetched from another node; whether it can be read again, within `MEND_S_MAX`."""
        core = self._core
        if not core.want_repair(damage):
            return False
        index = int(damage.hint or 0)
        self._loop.wake()
        with trio.move_on_after(MEND_S_MAX):
            while core.replica.repair.is_wanted(index):
                await self._loop.wait_turn()
            return True
        return False

    async def scrub(self, bytes_s: float) -> None:
        """Read the log for ever, ``bytes_s`` bytes a second, and have what is damaged mended."""
        scrub = Scrub(self._store)
        limiter = trio.CapacityLimiter(1)
        while True:
            size = 0
            if not self._loop.installing:
                damage, size = await trio.to_thread.run_sync(scrub.step, limiter=limiter)
                if damage is not None and self._core.want_repair(damage):
                    self._loop.wake()
            await trio.sleep(size / bytes_s if size else SCRUB_PAUSE_S)

    def _check_readable(self, after: int) -> None:
        if self._loop.installing:
            raise Busy("this node is installing a snapshot of the log")
        first_seq = self.first_seq
        if after + 1 < first_seq:
            words = f"message {after + 1} is not kept any more: the log begins at {first_seq}"
            raise Trimmed(words, hint=str(first_seq))

    async def _topic_numbers(self, filters: Sequence[str]) -> list[int] | None:
        """The numbers of the topics that match by now, or None where looking at every block is no worse."""
        if ">" in filters:
            return None
        core = self._core
        selection = core.selections.of(filters)
        while not selection.step():
            await trio.lowlevel.checkpoint()  # others have their turn between two stretches of many names
            if core is not self._core:
                return await self._topic_numbers(filters)
        return selection.numbers

    async def seq_at_time(self, timestamp: int) -> int:
        seq = self._core.tail.seq_at_time(timestamp)
        if seq is None and self.last_seq:
            seq = await self._read_history(partial(self._history.seq_at_time, timestamp), self.last_seq)
        if seq is None:
            seq = self._core.tail.first_seq
        # What is trimmed can still be in the store: each node removes it in its own time.
        return self.last_seq + 1 if seq is None else max(seq, self.first_seq)

    async def newest_seq(self) -> int:
        core = self._core
        question = ReadIndex(core.replica)
        self._loop.wake()
        while core is self._core and question.may_come:
            if question.is_known and core.machine.applied >= core.replica.engine.commit:
                return core.tail.last_seq
            await self._loop.wait_turn()
        raise NotLeader("this node does not lead the log", hint=self._leader_client())

    async def set_retention(self, changes: Mapping[str, int | None]) -> None:
        ticket = self._core.configure(changes, trio.current_time())
        self._loop.wake()
        await ticket.wait()

    async def purge(self, filter: str, number: int) -> None:
        ticket = self._core.purge(Purge(filter, number), trio.current_time())
        self._loop.wake()
        await ticket.wait()

    async def add_member(self, name: str, peer: str) -> None:
        ticket = self._core.add_member(name, peer, trio.current_time())
        self._loop.wake()
        await ticket.wait()

    async def remove_member(self, name: str) -> None:
        replica = self._core.replica
        if replica.leads and name == replica.node:
            self._core.members_without(name, trio.current_time())
            await self.transfer(None)
            raise NotLeader(f"{name} handed over, to be removed", hint=self._leader_client())
        ticket = self._core.remove_member(name, trio.current_time())
        self._loop.wake()
        await ticket.wait()

    def members(self) -> dict[str, Any]:
        members = self._core.members
        table = {name: {"peer": member.peer, "votes": member.votes} for name, member in sorted(members.table.items())}
        return {"members": table, "departed": sorted(members.departed)}

    def log_info(self) -> dict[str, Any]:
        core = self._core
        limits = retention.as_dict(core.machine.retention)
        return {
            "log": self.name,
            **{f"max_{name}": limit for name, limit in limits.items()},
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "messages": min(self.last_seq - self.first_seq + 1, core.trimmer.messages_left),
            "bytes": core.trimmer.bytes_kept,
            "file_bytes": self._store.bytes_used(),
            "first_index": core.replica.journal.first_index,
            "last_index": core.replica.journal.last_index,
            "topics": core.trimmer.topics_left,
            "node": core.replica.node,
            "problem": core.trimmer.stuck,
        }

    def topics(self, *, after: str, topics_max: int) -> TopicPage:
        return self._core.trimmer.topics(after=after, topics_max=topics_max)

    def status(self) -> dict[str, Any]:
        engine = self._core.replica.engine
        journal = self._core.replica.journal
        return {
            "node": self._core.replica.node,
            "pid": os.getpid(),
            "client": self._own_client,
            "peer": self._own_peer,
            "role": self._role(),
            "term": engine.term,
            "commit": engine.commit,
            "applied": self._core.machine.applied,
            "last_seq": self.last_seq,
            "first_seq": self.first_seq,
            "log": self.name,
            "leader": engine.leader,
            "leader_client": self._leader_client(),
            "durable": journal.durable_index,
            "storage_full": self._core.storage_full,
            "file_bytes": self._store.bytes_used(),
            "damaged": self._core.replica.repair.damaged[:DAMAGED_TOLD],
            "catch_up": self._catch_up(),
            "peers": self._peer_status(),
            "health": self._health(),
            "members": {name: "voter" if one.votes else "learner" for name, one in self._core.members.table.items()},
        }

    def _role(self) -> str:
        replica = self._core.replica
        if replica.leads or replica.node in replica.guard.voters:
            return str(replica.engine.role)
        return "learner" if replica.node in self._core.members.table else "stranger"

    def _peer_status(self) -> dict[str, Any]:
        """What this node knows of the others; ``match`` and ``lag`` (entries) only while it leads."""
        replica = self._core.replica
        status: dict[str, Any] = {}
        for name in replica.guard.peers:
            match = replica.engine.match_index(name) if replica.leads else None
            lag = None if match is None else replica.journal.last_index - match
            status[name] = {
                "match": match,
                "lag": lag,
                "connected": self._connected(name),
                "client": self._client_of(name),
                "snapshot": replica.source.percent(name) if replica.guard.is_behind(name) else None,
            }
        return status

    def _catch_up(self) -> str | None:
        """What this node does that is not up to date, in words for people."""
        replica = self._core.replica
        if self._loop.installing:
            return "it installs a snapshot"
        if replica.sink.percent is not None:
            return f"it has {replica.sink.percent} % of a snapshot"
        if replica.joining is not None:
            missing = ", ".join(replica.joining.missing)
            if missing:
                return f"its directory is new, and it takes no part until {missing} told it what it may have promised"
            return "its directory is new, and it does not vote until it has caught up"
        applied, told = self._core.machine.applied, replica.guard.leader_commit
        if not replica.leads and told - applied > LAG_ENTRIES_TOLD:
            return f"it is at entry {applied} of {told}"
        return None

    def _leader_client(self) -> str | None:
        leader = self._core.replica.engine.leader
        if leader is None:
            return None
        return self._own_client if leader == self._core.replica.node else self._client_of(leader)
