"""Whole nodes on trio: in a share of the runs everything from the session down to the store is the product's own.

There `commit_loop`, `hosted_log` and `session` run as they are, on a trio whose clock is the schedule's: it stands
still until no task can run, and then jumps to the next event or deadline, whichever is first. What is replaced: the
socket (`ByteStream`), the thread that a disk call takes (`_run_sync`), and chance in trio's scheduler. Nodes have one
clock and can't be stopped by SIGSTOP here; all other faults are the same.

The world's own code stays synchronous: it runs in a thread beside, and hands each event to trio's thread and waits
until that has settled. Only one of the two ever moves, so a seed is one run here too.
"""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog
import trio
import trio.testing
from trio._core import _run as trio_run  # its switch for deterministic scheduling, made for hypothesis

from lanyinglog import node as node_module
from lanyinglog.commit_loop import CommitLoop
from lanyinglog.config import Limits
from lanyinglog.errors import BadBatch, CorruptEntry, StoreError
from lanyinglog.hosted_log import HostedLog
from lanyinglog.log_core import LogCore
from lanyinglog.raft.messages import PeerMessage
from lanyinglog.record import BatchView, parse_batch
from lanyinglog.service import Ack
from lanyinglog.session import NodeIdentity, serve_session
from lanyinglog.session import connection as session_module
from lanyinglog.session.hub import Hub
from lanyinglog.store.log_store import Writes
from lanyinglog.wire.frames import FrameDecoder
from lanyinglog.wire.messages import FRAME_BYTES_MAX, Acked, Publish, from_frame, to_frame
from lanyinglog.writer import is_small
from simulator.history import Violation
from simulator.node import Node, ProcessDied
from simulator.schedule import Schedule

if TYPE_CHECKING:
    from simulator.network import Connection
    from simulator.world import World

_in_thread = trio.to_thread.run_sync


class StackSchedule(Schedule):
    """Events and trio's deadlines in one line of time. Called from the world's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: Violation | None = None
        """What broke inside a task: a task's exception would be taken for a defect of its connection."""
        self._deadline = math.inf

    def run_until(self, until: float, done: Callable[[], bool] | None = None) -> None:
        while (when := min(self._deadline, self._heap[0][0] if self._heap else math.inf)) <= until:
            self.now = max(self.now, when)
            self.steps += 1
            self._deadline = trio.from_thread.run(self._settle)
            if self.failed is not None:
                raise self.failed
            if done is not None and done():
                return
        self.now = until

    async def _settle(self) -> float:
        """Run the event that is due, if there is one, then all that can run; when trio has to do something next."""
        if self._heap and self._heap[0][0] <= self.now:
            _, _, action, arguments = self.pop()
            action(*arguments)
        await trio.testing.wait_all_tasks_blocked()
        return self.now + trio.lowlevel.current_statistics().seconds_to_next_deadline


class VirtualClock(trio.abc.Clock):
    """Shows the schedule's time; trio itself never waits for it."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self.over = False
        """The run has ended: whatever a task waits for has been long enough."""

    def start_clock(self) -> None: ...

    def current_time(self) -> float:
        return self._schedule.now + (1e9 if self.over else 0.0)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return 0.0 if deadline <= self.current_time() else 3600.0


def run_on_trio(world: World) -> None:
    """`World.run` with trio beside it; raises its `Violation`."""
    schedule = world.schedule
    assert isinstance(schedule, StackSchedule)

    clock = VirtualClock(schedule)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for node in world.nodes.values():
                assert isinstance(node, StackNode)
                node.nursery = nursery
            try:
                await _in_thread(world.run)
            except Violation as violation:
                schedule.failed = violation
            finally:
                for node in world.nodes.values():
                    node.life += 1  # what ends from here on says nothing any more
                clock.over = True
                nursery.cancel_scope.cancel()

    with _twins(world):
        trio.run(main, clock=clock)
    if schedule.failed is not None:
        raise schedule.failed


@contextmanager
def _twins(world: World) -> Iterator[None]:
    """trio without threads and without chance of its own, and a product that is silent about what we do to it."""

    async def run_sync(call: Callable[..., Any], *arguments: Any, limiter: trio.CapacityLimiter, **_: Any) -> Any:
        async with limiter:
            owner = getattr(call, "__self__", None)
            if isinstance(owner, StoreDoor):
                return await (owner.write_slowly(*arguments) if arguments else owner.install_slowly())
            await trio.sleep(world.source.uniform(*world.plan.disk_s))
            return call(*arguments)

    chance, deterministic = trio_run._r, trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    trio_run._r, trio_run._ALLOW_DETERMINISTIC_SCHEDULING = random.Random(world.plan.seed), True
    trio.to_thread.run_sync = run_sync  # type: ignore[assignment]
    listener = SessionDefects(world.schedule)
    sessions = logging.getLogger(session_module.__name__)
    sessions.addHandler(listener)
    sessions.propagate = False
    structlog_before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        trio.to_thread.run_sync = _in_thread
        trio_run._r, trio_run._ALLOW_DETERMINISTIC_SCHEDULING = chance, deterministic
        structlog.configure(**structlog_before)
        sessions.removeHandler(listener)
        sessions.propagate = True


class SessionDefects(logging.Handler):
    """A session that breaks says so in its log and takes nobody along: here that is a violation."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule

    def emit(self, record: logging.LogRecord) -> None:
        assert isinstance(self._schedule, StackSchedule)
        error = record.exc_info[1] if record.exc_info else None
        words = f"{record.getMessage()}: {type(error).__name__}: {error}"
        self._schedule.failed = self._schedule.failed or Violation("total", words)


class StoreDoor:
    """The store as the commit loop knows it: a write takes its time on the node's disk."""

    def __init__(self, node: StackNode) -> None:
        self._node = node
        self._life = node.life

    def write(self, writes: Writes) -> None:
        raise AssertionError("writes run in a thread, or what stands for one")

    def has_room(self) -> bool:
        """The disk of a simulation is full or is not: there is no reserve."""
        return True

    def install_step(self) -> bool:
        raise AssertionError("steps run in a thread, or what stands for one")

    async def install_slowly(self) -> bool:
        """A step of an installation."""
        node = self._node
        await trio.sleep(node.world.source.uniform(*node.world.plan.disk_s) * node.disk.slow)
        if node.life != self._life:
            raise StoreError("the process is gone")
        if node.world.source.random() < node.world.plan.install_kills:
            raise ProcessDied
        return node.disk.install_step()

    async def write_slowly(self, writes: Writes) -> None:
        """As `Node` has it: the transaction is under way for a while, and then done."""
        node = self._node
        if node.life != self._life:
            raise StoreError("the process is gone")
        node.world.note("write", ("node", node.name), *node.parts(writes))
        node.disk.begin(writes)
        await trio.sleep(node.world.source.uniform(*node.world.plan.disk_s) * node.disk.slow)
        if node.life != self._life:
            raise StoreError("the process is gone")
        node.disk.finish()
        node.world.note("written", ("node", node.name), *node.parts(writes))

    def write_now(self, writes: Writes) -> None:
        """The same in no time."""
        node = self._node
        if node.life != self._life:
            raise StoreError("the process is gone")
        node.disk.begin(writes)
        node.disk.finish()
        node.world.note("written", ("node", node.name), *node.parts(writes))


class SlowWriter:
    """The thread that writes, as a task. In some lives of a node its disk is quick, and most small writes are made in
    its loop: no life is like another, and what decides draws from a source of its own."""

    def __init__(self, nursery: trio.Nursery, door: StoreDoor, source: random.Random) -> None:
        self._nursery = nursery
        self._door = door
        self._source = source
        self._at_once = source.choice([0.0, 0.5, 0.95])

    def write_at_once(self, writes: Writes) -> bool:
        if self._source.random() >= self._at_once or not is_small(writes):
            return False
        self._door.write_now(writes)
        return True

    def begin(self, writes: Writes, ended: Callable[[BaseException | None], None]) -> None:
        self._nursery.start_soon(self._write, writes, ended)

    async def _write(self, writes: Writes, ended: Callable[[BaseException | None], None]) -> None:
        error: Exception | None = None
        with trio.CancelScope(shield=True):  # a thread can't be cancelled
            try:
                await self._door.write_slowly(writes)
            except Exception as failure:
                error = failure
        ended(error)


class StackNode(Node):
    """A node whose loop and sessions are tasks of the product."""

    nursery: trio.Nursery
    loop: CommitLoop
    hosted: HostedLog
    scope: trio.CancelScope
    """Around all that ends when the process is told to stop."""

    def begin(self) -> None:
        self.doors: StreamDoors = StreamDoors(self)  # type: ignore[assignment]
        door = StoreDoor(self)
        self.loop = CommitLoop(
            core=self.core,
            store=door,  # type: ignore[arg-type]
            writer=SlowWriter(self.nursery, door, random.Random(f"{self.world.plan.seed} {self.name} {self.life}")),
            send=self._send,
            wall_ns=lambda: self.clock.wall_ns(self.world.schedule.now),
            renew=self._renew,
        )
        turn = self.loop._turn

        def watched_turn(due: bool) -> None:
            turn(due)
            self.world.invariants.check(self)

        self.loop._turn = watched_turn  # type: ignore[method-assign]
        self.hosted = HostedLog(
            "main",
            loop=self.loop,
            store=self.store,
            client_of=lambda name: name,
            connected=lambda name: self.world.network.links[self.name, name].up,
            own_addresses=(self.name, self.name),
        )
        self.scope = trio.CancelScope()
        self.nursery.start_soon(self._live, self.life)
        self.begin_scrub()

    def _renew(self) -> LogCore:
        self.world.count("installation")
        self.renewed(self.make_core())
        return self.core

    async def _live(self, life: int) -> None:
        """The loop and all sessions, until the node dies or is to stop."""
        try:
            with self.scope:
                async with trio.open_nursery() as self.tasks:
                    hub = Hub(self.hosted)
                    self.hubs = {"main": hub}
                    self.tasks.start_soon(hub.run)
                    await self.loop.run()
            if life == self.life:
                await self.loop.finish()
                self.die("stopped cleanly")
        except* Exception as group:
            if life == self.life:
                self._ended(group)

    def _ended(self, group: BaseExceptionGroup[BaseException]) -> None:
        """The process ends by an exception: which ones may do that?"""
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        schedule = self.world.schedule
        assert isinstance(schedule, StackSchedule)
        if isinstance(error, Violation):
            schedule.failed = schedule.failed or error
        elif isinstance(error, OSError):
            self.world.count("disk_error")
            self.die(f"the disk failed: {error}")
        elif isinstance(error, ProcessDied) or (isinstance(error, CorruptEntry) and self.disk.damaged):
            self.die(f"{type(error).__name__}: {error}")
        else:
            words = f"{self.name} breaks: {type(error).__name__}: {error}"
            schedule.failed = schedule.failed or Violation("total", words, ("node", self.name))

    def die(self, why: str, *, power: bool = False) -> None:
        if self.alive:
            super().die(why, power=power)
            self.scope.cancel()

    def pause(self) -> None:
        """Not here: all nodes share one event loop."""

    def stop_cleanly(self) -> None:
        if self.alive and not self.stopping:
            self.stopping = True
            self.tasks.start_soon(self._hand_over_and_stop)

    async def _hand_over_and_stop(self) -> None:
        """As `node` ends a process."""
        await node_module._hand_over(self.hosted)
        self.scope.cancel()

    # ----------------------------------------------------------------------------------------------------- events
    def wake(self) -> None:
        self.loop.wake()

    def take(self, sender: str, message: PeerMessage) -> None:
        self.loop.receive(sender, message)

    def heard(self) -> None:
        self.loop.heard()

    def take_link_change(self, peer: str, up: bool) -> None:
        self.loop.peer_link_changed(peer, up)

    def _send(self, to: str, message: PeerMessage) -> None:
        if not self.alive:
            return
        self.let_go(to, message)


class StreamDoors:
    """The node's side of client connections: streams of bytes, each served by the product's session."""

    def __init__(self, node: StackNode) -> None:
        self._node = node
        self._streams: dict[Connection, ByteStream] = {}

    def hear(self, connection: Connection, message: tuple[int, Any]) -> None:
        """Bytes have arrived; the first ones begin a session."""
        node = self._node
        if not node.alive or node.scope.cancel_called:
            return
        stream = self._streams.get(connection)
        if stream is None:
            stream = self._streams[connection] = ByteStream(node, connection)
            identity = NodeIdentity(node.name, "sim")
            services = {"main": node.hosted}
            node.tasks.start_soon(
                lambda: serve_session(stream, services, hubs=node.hubs, identity=identity, limits=Limits())
            )
        stream.feed(*message)

    def hang_up(self, connection: Connection) -> None:
        """The client sends no more."""
        stream = self._streams.pop(connection, None)
        if stream is not None:
            stream.feed_end()

    def slam(self) -> None:
        """The process died."""
        for connection in self._streams:
            connection.broken()
        self._streams.clear()

    def check_tickets(self) -> None:
        """The session's own business here; a client that is owed an answer would not finish."""


class ByteStream(trio.abc.HalfCloseableStream):
    """A client's connection as the session sees it. What it sends is read here on its way out."""

    def __init__(self, node: StackNode, connection: Connection) -> None:
        self._node = node
        self._connection = connection
        self._arrived: deque[bytes] = deque()
        self._ended = False
        self._readers = trio.lowlevel.ParkingLot()
        self._decoder = FrameDecoder(frame_bytes_max=FRAME_BYTES_MAX)
        self._batches: dict[int, BatchView] = {}

    def feed(self, request: int, message: Any) -> None:
        """The client's ``message`` arrives, perhaps in two pieces."""
        if isinstance(message, Publish):
            try:
                self._batches[request] = parse_batch(message.batch)
            except BadBatch:
                pass  # the session will say so
        frame = to_frame(message, request)
        cut = self._node.world.source.choice((0, 0, len(frame) // 2))
        self._arrived += [piece for piece in (frame[:cut], frame[cut:]) if piece]
        self._readers.unpark()

    def feed_end(self) -> None:
        """The client closed its side."""
        self._ended = True
        self._readers.unpark()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._ended:
                return b""
            await self._readers.park()
        return self._arrived.popleft()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self._sent(data)

    def send_now(self, data: bytes) -> int:
        """As a system that takes nothing now, or a part, or all."""
        if not self._node.alive:
            return 0
        taken: int = self._node.world.source.choice((0, len(data) // 2, len(data), len(data)))
        self._sent(data[:taken])
        return taken

    def _sent(self, data: bytes | bytearray | memoryview) -> None:
        node = self._node
        self._decoder.feed(data)
        while (frame := self._decoder.next_frame()) is not None:
            message = from_frame(frame)
            if isinstance(message, Acked):
                ack = Ack(message.first_seq, message.count, message.timestamp, message.duplicate)
                self._check_acknowledged(self._batches.pop(frame.request), ack)
                node.world.note("ack", ("node", node.name), ("client", self._connection.client))
            self._connection.to_client((frame.request, message))

    def _check_acknowledged(self, batch: BatchView, ack: Ack) -> None:
        try:
            self._node.world.ledger.check_acknowledged(self._node, batch, ack)
        except Violation as violation:
            schedule = self._node.world.schedule
            assert isinstance(schedule, StackSchedule)
            schedule.failed = schedule.failed or violation

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._connection.end_by_node()
        await trio.lowlevel.checkpoint()
