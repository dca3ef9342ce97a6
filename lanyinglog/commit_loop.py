"""The heart of a log on trio: turns the core, carries its messages, and keeps one write under way.

Whoever brings something turns the core at once, in the task that brought it: a link when it has handed over all that
one read gave (`heard`), a session that submitted a batch, the disk when a write has ended. The loop's own task does it
when a timer is due or someone called `wake`. For each hand-over to another task costs a pass of the scheduler, and a
lone publish is made of hand-overs. So a write that is likely to be quick is made then and there (`writer`). Any other
runs in a thread; meanwhile the core goes on turning: it sends appends, takes answers, and holds back what the sync must
precede.

What makes going on unsafe is raised by `run`, wherever it came up: after that nothing is turned any more.

A full disk (ENOSPC) is waited out: while the store lacks its reserve (`store.room`) the log declines publishes, serves
reads, and goes on with all else; without any room the same transaction is tried again and again. Any other failure of
a write ends the process: after a failed sync the next one can succeed with the data gone, so the truth is then on the
peers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import structlog
import trio

from lanyinglog.errors import StorageFull
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.raft.messages import Append, PeerMessage
from lanyinglog.raft.repair import News
from lanyinglog.store.log_store import LogStore, Writes
from lanyinglog.writer import DiskWriter, Writer

STORAGE_RETRY_S = 0.5
UNWRITTEN_BYTES_MAX = 32 << 20
"""Entries received and not yet on disk, from which on no more is read from peers. A leader has one window in flight
(8 MiB and an append of at most 9 MiB): it takes a leader after another during one stall of the disk to get here."""
WRITTEN_FIRST_BYTES_MAX = 64 << 10
"""So little that came from a leader goes to the disk before the turn that might commit something, for its answer is
waited for; more waits for the turn, so that a checkpoint that falls due in it needs no sync of its own."""
WRITES_A_TURN_MAX = 8
"""Made in the event loop one after another, each because of the one before, until other tasks have their turn."""
_LATENESS_S_MAX = 0.001  # never sleep a whole second for a deadline that float arithmetic puts a hair ahead

log = structlog.get_logger()


class CommitLoop:
    """See the module. ``send(to, message)`` never blocks; ``renew()`` makes a core from what is in the store;
    ``members_changed(members, departed)`` hears of each change of members, committed or not, and of who left."""

    def __init__(
        self,
        *,
        core: LogCore,
        store: LogStore,
        send: Callable[[str, PeerMessage], None],
        wall_ns: Callable[[], int] = time.time_ns,
        renew: Callable[[], LogCore] | None = None,
        wrote: Callable[[float], None] = lambda seconds: None,
        members_changed: Callable[[Members, frozenset[str]], None] = lambda members, departed: None,
        writer: Writer | None = None,
    ) -> None:
        self.core = core
        self._members_changed = members_changed
        self._members = (core.members, core.departed)
        self.installing = False
        """Whether a snapshot is replacing the log: the store can't be read and the core is dead."""
        self._renew = renew
        self._wrote = wrote
        self._store = store
        self._send = send
        self._wall_ns = wall_ns
        self._running = False
        self._failure: BaseException | None = None
        self._woken = trio.Event()
        self._patience = trio.CancelScope()  # of the task's wait; ends when a timer is due
        self._moved = trio.lowlevel.ParkingLot()
        self._turned = trio.lowlevel.ParkingLot()
        self._seen = (0, True)
        self._leader: tuple[int, str | None] = (0, None)
        self._writer: Writer = DiskWriter(store.write) if writer is None else writer
        self._under_way: Writes | None = None  # taken and not known to be on disk
        self._writing = False
        self._write_began = 0.0
        self._write_ended = trio.Event()
        self._thread_limiter = trio.CapacityLimiter(1)
        self._retry_at = math.inf  # when the disk is asked again whether it has room

    # -------------------------------------------------------------------------------------- called by other tasks
    def receive(self, sender: str, message: PeerMessage) -> None:
        """A peer's message, taken at once; when there are no more at hand, call `heard`."""
        if self.installing or self._failure is not None:
            return  # it is lost, as on a link that breaks
        try:
            self.core.receive(sender, message, trio.current_time())
        except Exception as error:
            self._fail(error)  # not the link's: what is wrong with its form was found before

    def heard(self) -> None:
        """All messages that came together have been taken: write what they brought, and turn."""
        if 0 < self.core.replica.journal.unwritten_bytes <= WRITTEN_FIRST_BYTES_MAX:
            self._write()
        self.turn()

    def peer_link_changed(self, peer: str, up: bool) -> None:
        """There is a new link to ``peer``, or none any more."""
        if self.installing:
            return
        if up:
            self.core.replica.peer_connected(peer, trio.current_time())
        else:
            self.core.replica.peer_disconnected(peer)
        self.wake()

    def wake(self) -> None:
        """Something changed: turn soon."""
        self._woken.set()

    def turn(self, *, due: bool = False) -> None:
        """Something arrived: turn now, as far as there is anything to do, or in full if that is ``due``. Raises
        nothing; what goes wrong ends `run`."""
        if not self._may_go_on:
            return
        try:
            self._turn(due)
            for _ in range(WRITES_A_TURN_MAX):
                if not self._write():
                    break
                self._turn(False)
            else:
                self.wake()  # there may be more to do, but others have to do something, too
        except Exception as error:
            self._fail(error)
            return
        deadline = self._next_deadline()
        if deadline < self._patience.deadline:
            self._patience.deadline = deadline

    async def wait_moved(self) -> None:
        """Returns after a turn in which the tail moved or the queue of waiting batches got room."""
        self._seen = (self._seen[0], self.core.batcher.has_room)  # no turn need have seen it full
        await self._moved.park()

    async def wait_unwritten(self) -> None:
        """Returns when the disk is not too far behind what peers sent: call before reading more from them (P8)."""
        while self.core.replica.journal.unwritten_bytes > UNWRITTEN_BYTES_MAX:
            await self._turned.park()

    async def wait_turn(self) -> None:
        """Returns after the next turn, whatever it brought."""
        await self._turned.park()

    # ---------------------------------------------------------------------------------------------------- task
    async def run(self) -> None:
        """Turn until cancelled. Raises what makes going on unsafe: `OSError`, `CorruptEntry`, `Diverged`."""
        self._running = True
        try:
            while True:
                self._woken = trio.Event()
                self.turn(due=True)
                if self._failure is not None:
                    raise self._failure
                if self.installing:
                    await self._install()
                    continue
                with trio.CancelScope(deadline=self._next_deadline()) as self._patience:
                    await self._woken.wait()
        finally:
            self._running = False
            with trio.CancelScope(shield=True):  # what was begun is finished, and known to be
                while self._writing:
                    await self._write_ended.wait()

    @property
    def _may_go_on(self) -> bool:
        return self._running and self._failure is None and not self.installing

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self.wake()

    def _next_deadline(self) -> float:
        due = self.core.next_deadline() + _LATENESS_S_MAX
        waits_for_room = self.core.storage_full or self._under_way is not None
        return min(due, self._retry_at) if waits_for_room and not self._writing else due

    def _turn(self, due: bool) -> None:
        core = self.core
        if due or core.wants_turn:
            core.advance(trio.current_time(), self._wall_ns())
        outbox = core.take_outbox()
        # A follower's disk has more to do than a producer, and a producer waits while a notice of commit does not.
        appends = any(isinstance(outgoing.message, Append) for outgoing in outbox)
        if not appends:
            core.batcher.tell_settled()
        for outgoing in outbox:
            self._send(outgoing.to, outgoing.message)
        if appends:
            core.batcher.tell_settled()
        members = (core.members, core.departed)
        if members != self._members:
            self._members = members
            self._members_changed(*members)
        for news, index, peer in core.replica.repair.take_news():
            if news is News.MENDED:
                log.info("entry_mended", index=index, by=peer)
            elif news is News.LOST:
                log.error("entry_lost", index=index)
            else:
                log.error("entry_damaged", index=index)
        if self._turned:
            self._turned.unpark_all()
        leader = (core.replica.engine.term, core.replica.engine.leader)
        if leader != self._leader and leader[1] != self._leader[1]:
            log.info("leader", term=leader[0], leader=leader[1])
        self._leader = leader
        seen = (core.tail.last_seq, core.batcher.has_room)
        if seen != self._seen:
            self._seen = seen
            self._moved.unpark_all()

    # -------------------------------------------------------------------------------------------------- writing
    def _write(self) -> bool:
        """Begin a write if none is under way: of what waits to be written, of what found no room before, or, while the
        disk is full, of nothing at all, for only a write tells when there is room again. Whether it has ended already,
        so that there may be something to do for a turn."""
        if self._writing or not self._may_go_on:
            return False
        try:
            if self._under_way is None:
                if not self.core.wants_write and not (self.core.storage_full and self._may_retry):
                    return False
                self._under_way = self.core.begin_write()
            elif not self._may_retry:
                return False
        except Exception as error:
            self._fail(error)
            return False
        self._write_began = trio.current_time()
        try:
            if self._writer.write_at_once(self._under_way):
                return self._end_write(None)
        except Exception as error:
            return self._end_write(error)
        self._write_ended = trio.Event()
        try:
            self._writer.begin(self._under_way, self._write_has_ended)
        except Exception as error:  # no thread to be had
            self._fail(error)
        else:
            self._writing = True
        return False

    @property
    def _may_retry(self) -> bool:
        return trio.current_time() >= self._retry_at

    def _write_has_ended(self, error: BaseException | None) -> None:
        """The write that was begun has ended; now may be any time."""
        self._writing = False
        self._write_ended.set()
        if self._end_write(error):
            self.turn()

    def _end_write(self, error: BaseException | None) -> bool:
        """A write has ended: count it. Whether there may be something to do for a turn."""
        if isinstance(error, StorageFull):
            self._note_room(False, error.message)
            self.wake()
            return False
        if error is not None:
            self._fail(error)
            return False
        try:
            self._written()
        except Exception as failure:
            self._fail(failure)
            return False
        self._wrote(trio.current_time() - self._write_began)
        if self.core.installed:
            self.installing = True
            self.wake()
        return not self.installing

    def _written(self) -> None:
        """What is under way is on disk."""
        assert self._under_way is not None
        writes, self._under_way = self._under_way, None
        self._note_room(self._store.has_room(), "the disk has no room to spare")
        self.core.end_write(writes, trio.current_time())

    def _note_room(self, room: bool, why: str) -> None:
        if self.core.storage_full and room:
            log.info("disk_room")
        elif not room and not self.core.storage_full:
            log.error("disk_full", why=why)
        self.core.storage_full = not room
        self._retry_at = math.inf if room else trio.current_time() + STORAGE_RETRY_S

    async def finish(self) -> None:
        """The last act of a clean shutdown, when `run` has ended: everything on disk, and derived state with it.
        Not in the middle of an installation: the next start goes on with that. Raises what came too late for `run`."""
        if self._failure is not None:
            raise self._failure
        if self._under_way is not None:
            await self._write_at_last(self._under_way)
        if not self.installing:
            self._under_way = self.core.begin_write(checkpoint=True)
            await self._write_at_last(self._under_way)

    async def _write_at_last(self, writes: Writes) -> None:
        """Write ``writes``, which is under way, and go on to a snapshot if that makes it whole."""
        while True:
            try:
                await self._in_thread(self._store.write, writes)
                break
            except StorageFull as error:
                self._note_room(False, error.message)
                await trio.sleep(STORAGE_RETRY_S)
        self._written()
        if self.core.installed:
            await self._install()

    # ------------------------------------------------------------------------------------------------- snapshots
    async def _install(self) -> None:
        """The log has become another one: finish that on disk, and start from it."""
        assert self._renew is not None, "who takes part in a cluster can be sent a snapshot"
        self.installing = True
        log.info("snapshot_begins")
        before = self.core
        before.batcher.tell_settled()
        while await self._step_installed():
            await trio.lowlevel.checkpoint()
        self.core = self._renew()
        self.core.leader_hint = before.leader_hint
        self.core.advance(
            trio.current_time(), self._wall_ns()
        )  # applies its two entries: no reader sees less than before
        self.installing = False
        log.info("snapshot_installed", first_seq=self.core.first_seq, last_seq=self.core.tail.last_seq)
        self._moved.unpark_all()
        self._turned.unpark_all()

    async def _step_installed(self) -> bool:
        """One step of the installation; whether there are more. A full disk is waited out."""
        while True:
            try:
                return bool(await self._in_thread(self._store.install_step))
            except StorageFull as error:
                log.error("disk_full", why=error.message)
                await trio.sleep(STORAGE_RETRY_S)

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What ``call`` gives; once begun it is finished, and known to be."""
        with trio.CancelScope(shield=True):
            return await trio.to_thread.run_sync(call, *arguments, limiter=self._thread_limiter)
