"""The heart of a log on trio: turns the core, carries its messages, and keeps one write under way.

One task turns `LogCore` whenever something arrived or a timer is due; another writes. While a transaction syncs in its
thread the core goes on turning: it sends appends, takes answers, and holds back what the sync must precede.

A full disk (ENOSPC) is waited out: while the store lacks its reserve (`store.room`) the log declines publishes, serves
reads, and goes on with all else; without any room the same transaction is tried again and again. Any other failure of
a write ends the process: after a failed sync the next one can succeed with the data gone, so the truth is then on the
peers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import structlog
import trio

from lanyinglog.errors import StorageFull
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.raft.messages import PeerMessage
from lanyinglog.raft.repair import News
from lanyinglog.store.log_store import LogStore, Writes

STORAGE_RETRY_S = 0.5
UNWRITTEN_BYTES_MAX = 32 << 20
"""Entries received and not yet on disk, from which on no more is read from peers. A leader has one window in flight
(8 MiB and an append of at most 9 MiB): it takes a leader after another during one stall of the disk to get here."""
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
        self._woken = trio.Event()
        self._write_due = trio.Event()
        self._moved = trio.lowlevel.ParkingLot()
        self._writer_limiter = trio.CapacityLimiter(1)
        self._turned = trio.lowlevel.ParkingLot()
        self._seen = (0, True)
        self._leader: tuple[int, str | None] = (0, None)
        self._under_way: Writes | None = None

    # -------------------------------------------------------------------------------------- called by other tasks
    def receive(self, sender: str, message: PeerMessage) -> None:
        """A peer's message, taken at once."""
        if self.installing:
            return  # lost, as on a link that breaks
        self.core.receive(sender, message, trio.current_time())
        self.wake()

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
        """Something arrived: turn soon."""
        self._woken.set()

    async def wait_moved(self) -> None:
        """Returns after a turn in which the tail moved or the queue of waiting batches got room."""
        await self._moved.park()

    async def wait_unwritten(self) -> None:
        """Returns when the disk is not too far behind what peers sent: call before reading more from them (P8)."""
        while self.core.replica.journal.unwritten_bytes > UNWRITTEN_BYTES_MAX:
            await self._turned.park()

    async def wait_turn(self) -> None:
        """Returns after the next turn, whatever it brought."""
        await self._turned.park()

    # --------------------------------------------------------------------------------------------------- tasks
    async def run(self) -> None:
        """Turn until cancelled. Raises what makes going on unsafe: `OSError`, `CorruptEntry`, `Diverged`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_forever)
            while True:
                self._woken = trio.Event()
                if self.installing:
                    await self._woken.wait()
                    continue
                self._turn()
                with trio.move_on_at(self.core.next_deadline() + _LATENESS_S_MAX):
                    await self._woken.wait()

    def _turn(self) -> None:
        core = self.core
        core.advance(trio.current_time(), self._wall_ns())
        for outgoing in core.take_outbox():
            self._send(outgoing.to, outgoing.message)
        if core.wants_write:
            self._write_due.set()
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
        core.batcher.tell_settled()  # behind the messages: a follower's disk has more to do than a producer
        self._turned.unpark_all()
        leader = (core.replica.engine.term, core.replica.engine.leader)
        if leader != self._leader and leader[1] != self._leader[1]:
            log.info("leader", term=leader[0], leader=leader[1])
        self._leader = leader
        seen = (core.tail.last_seq, core.batcher.has_room)
        if seen != self._seen:
            self._seen = seen
            self._moved.unpark_all()

    async def _write_forever(self) -> None:
        while True:
            with trio.move_on_after(STORAGE_RETRY_S if self.core.storage_full else math.inf):
                await self._write_due.wait()
            self._write_due = trio.Event()
            if self.core.wants_write or self.core.storage_full:  # only a write tells when there is room again
                await self._write()

    async def finish(self) -> None:
        """The last act of a clean shutdown, when `run` has ended: everything on disk, and derived state with it.
        Not in the middle of an installation: the next start goes on with that."""
        if self._under_way is not None:
            await self._write()
        if not self.installing:
            await self._write(checkpoint=True)

    async def _write(self, *, checkpoint: bool = False) -> None:
        """One transaction: a new one, or the one that a cancelled call left."""
        self._under_way = self._under_way or self.core.begin_write(checkpoint=checkpoint)
        while not await self._written(self._under_way):  # noqa: ASYNC110  # nobody tells when a disk has room again
            await trio.sleep(STORAGE_RETRY_S)
        self.core.end_write(self._under_way, trio.current_time())
        self._under_way = None
        if self.core.installed:
            await self._install()
        self.wake()

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
                return await trio.to_thread.run_sync(self._store.install_step, limiter=self._writer_limiter)
            except StorageFull as error:
                log.error("disk_full", why=error.message)
                await trio.sleep(STORAGE_RETRY_S)

    async def _written(self, writes: Writes) -> bool:
        """Whether the disk had room for it."""
        began = trio.current_time()
        try:
            with trio.CancelScope(shield=True):  # what was begun is finished, and known to be
                await trio.to_thread.run_sync(self._store.write, writes, limiter=self._writer_limiter)
        except StorageFull as error:
            self._note_room(False, error.message)
            return False
        self._note_room(self._store.has_room(), "the disk has no room to spare")
        self._wrote(trio.current_time() - began)
        return True

    def _note_room(self, room: bool, why: str) -> None:
        if self.core.storage_full and room:
            log.info("disk_room")
        elif not room and not self.core.storage_full:
            log.error("disk_full", why=why)
        self.core.storage_full = not room
