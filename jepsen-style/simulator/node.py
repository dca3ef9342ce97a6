"""One node: the product's `LogCore` on a simulated disk, turned as `commit_loop` turns it, and killed between steps.

The order of calls is that of `CommitLoop`, with a delay drawn for each hand-over: a message is taken at once and wakes
the loop, as if others came with it, or in every other seed makes it write and turn at once; a turn advances the core,
sends what may leave, and wakes the writer; the writer takes a transaction, the disk takes its time, and the loop hears
that it is done. `_point` stands between any two of these: there a fuse may end
the process. What is under way belongs to one ``life``; a killed node's events find another one and do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lanyinglog.batcher import BatcherLimits
from lanyinglog.errors import CorruptEntry, StorageFull, StoreError
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.raft.guard import Diverged
from lanyinglog.raft.messages import PeerMessage
from lanyinglog.scrub import Scrub
from lanyinglog.store.log_store import LogStore, Writes
from simulator.disk import Disk
from simulator.doors import Doors
from simulator.history import Violation

if TYPE_CHECKING:
    from simulator.world import World

LATENESS_S = 0.001
"""As in `commit_loop`."""
STORAGE_RETRY_S = 0.5
SCRUB_EVERY = 0.5
DEADLINE_S = 10.0
"""As `BatcherLimits` has it, at an election timeout of one second: it scales with it."""

BREAKS = (AssertionError, KeyError, ValueError, TypeError, IndexError, AttributeError)
"""What the product raises when it finds a defect in itself."""


class ProcessDied(Exception):
    """The fuse burnt down: the process ends here and now."""


class Clock:
    """A node's clocks: the monotonic one runs at its own rate, the wall clock may jump besides."""

    def __init__(self, rate: float, offset_s: float) -> None:
        self.rate = rate
        self.offset_s = offset_s
        self.wall_jump_s = 0.0

    def monotonic(self, now: float) -> float:
        return self.offset_s + now * self.rate

    def when(self, monotonic: float) -> float:
        """The virtual time at which this clock shows ``monotonic``."""
        return (monotonic - self.offset_s) / self.rate

    def wall_ns(self, now: float) -> int:
        return int((1_000_000 + now * self.rate + self.wall_jump_s) * 1e9)


class Node:
    """See the module."""

    def __init__(self, world: World, name: str, disk: Disk, clock: Clock) -> None:
        self.world = world
        self.name = name
        self.disk = disk
        self.clock = clock
        self.life = 0
        self.alive = False
        self.paused = False
        self.stopping = False
        self.installing = False
        """A snapshot is replacing its log: as in `CommitLoop`, it hears and says nothing."""
        self.lost_for_good = False
        """Its disk is damaged and it knows: it will not start again."""
        self.settings = list(world.founders)
        """Who the members are by its settings."""
        self.belongs = name in world.founders
        """Whether it is, or is to be, a member: else nobody starts it."""
        self.fuse: int | None = None
        self.slow_s = 0.0
        """So much longer each turn of its loop takes to come."""
        self.core: LogCore
        self.store: LogStore
        self.doors = Doors(self)
        disk.about_to_install = lambda first: world.invariants.check_install(self, first)
        self._held: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._woken = False
        self._timer = 0.0
        self._writer_woken = False

    @property
    def runs(self) -> bool:
        """Alive and not stopped by SIGSTOP."""
        return self.alive and not self.paused

    @property
    def now(self) -> float:
        """Its own monotonic clock."""
        return self.clock.monotonic(self.world.schedule.now)

    # ------------------------------------------------------------------------------------------------------- life
    def start(self) -> None:
        """A new process on the same disk."""
        if self.alive or self.lost_for_good or not self.belongs:
            return
        self.life += 1
        self.installing = False
        self._woken = self._writer_woken = self.paused = self.stopping = False
        self._held.clear()
        self.fuse = None
        self.doors = Doors(self)
        try:
            self.store = self.disk.open()
            self.core = self.make_core()
        except (CorruptEntry, StoreError) as error:
            self._refuse_to_start(error)
            return
        except BREAKS as error:
            words = f"{self.name} breaks at its start: {type(error).__name__}: {error}"
            raise Violation("total", words, ("node", self.name)) from error
        self.alive = True
        self.world.note("start", ("node", self.name), f"last={self.core.replica.journal.last_index}")
        self.world.invariants.node_started(self)
        self.world.network.node_started(self.name)
        self.begin()

    def make_core(self) -> LogCore:
        """As `node._make_core`."""
        plan = self.world.plan
        core = LogCore(
            node=self.name,
            members=Members.of({name: f"{name}:1" for name in self.settings}),
            store=self.store,
            timing=plan.timing,
            uniform=self.world.source.uniform,
            now=self.now,
            limits=BatcherLimits(
                entries_in_flight_max=plan.entries_in_flight_max,
                pipelined_bytes_min=plan.pipelined_bytes_min,
                deadline_s=DEADLINE_S * plan.timing.election_timeout_s,
            ),
            cache_bytes_max=plan.cache_bytes_max,
            catch_up_bytes_s=plan.catch_up_bytes_s,
            checkpoint_entries=plan.checkpoint_entries,
            newcomer=not self.store.joined(),
        )
        core.leader_hint = lambda: core.replica.engine.leader
        return core

    def begin(self) -> None:
        """The loop's first turn."""
        self.wake()
        self.begin_scrub()

    def begin_scrub(self) -> None:
        """As `HostedLog.scrub`: read on, now and then."""
        scrub = Scrub(self.store)

        def step() -> None:
            if not self.installing:
                damage, _ = scrub.step()
                if damage is not None and self.core.want_repair(damage):
                    self.wake()
            self.post(SCRUB_EVERY * self.world.plan.timing.election_timeout_s, step)

        self.post(self.world.source.random() * self.world.plan.timing.election_timeout_s, step)

    def _refuse_to_start(self, error: Exception) -> None:
        if not self.disk.damaged:
            raise Violation("starts", f"{self.name} can't start on a sound disk: {error}", ("node", self.name))
        self.lost_for_good = True
        self.disk.process_died(power=False)
        self.world.note("lost", ("node", self.name), str(error))

    def die(self, why: str, *, power: bool = False) -> None:
        """The process ends at once."""
        if not self.alive:
            return
        self.world.note("stop", ("node", self.name), why)
        self.life += 1
        self.alive = self.paused = False
        self._held.clear()
        self.disk.process_died(power=power)
        self.doors.slam()
        self.world.network.node_died(self.name)

    def pause(self) -> None:
        """SIGSTOP."""
        if self.alive:
            self.paused = True

    def resume(self) -> None:
        """SIGCONT: all that came meanwhile is found at once."""
        if not self.paused:
            return
        self.paused = False
        held, self._held = self._held, []
        for action, arguments in held:
            self.post(0.0, action, *arguments)

    # ----------------------------------------------------------------------------------------------------- events
    def post(self, delay_s: float, action: Callable[..., None], *arguments: Any) -> None:
        """Call ``action`` in this life, when the process runs."""
        self.world.schedule.after(delay_s, self._run, self.life, action, arguments)

    def _run(self, life: int, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if life != self.life:
            return
        if self.paused:
            self._held.append((action, arguments))
            return
        self.run(action, *arguments)

    def run(self, action: Callable[..., None], *arguments: Any) -> None:
        """One step of the process, and the invariants behind it."""
        try:
            action(*arguments)
        except ProcessDied:
            self.die("killed between two steps")
        except CorruptEntry as error:
            if not self.disk.damaged:
                raise Violation("sound", f"{self.name}: {error} on a sound disk", ("node", self.name)) from error
            if self.disk.has_whole(int(error.hint or 0)):
                # Entries may be needed to go on; records are derived from them, and can wait for being mended.
                words = f"{self.name} dies of a record: {error}"
                raise Violation("a damaged record ends nobody", words, ("node", self.name)) from error
            self.die(f"corrupt entry: {error}")
        except Diverged as error:
            raise Violation("state-machine safety", f"{self.name} halts: {error}", ("node", self.name)) from error
        except BREAKS as error:
            words = f"{self.name} breaks: {type(error).__name__}: {error}"
            raise Violation("total", words, ("node", self.name)) from error
        if self.alive and not self.installing:
            self.world.invariants.check(self)

    def _point(self) -> None:
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse <= 0:
                raise ProcessDied

    # ------------------------------------------------------------------------------------------------------- loop
    def hear(self, sender: str, message: PeerMessage) -> None:
        """A peer's message has arrived in the kernel."""
        if self.alive:
            self._run(self.life, self._receive, (sender, message))

    def _receive(self, sender: str, message: PeerMessage) -> None:
        self.world.note("receive", ("node", self.name), f"from {sender}", message)
        self.world.invariants.before_receive(self, sender, message)
        self.take(sender, message)
        self.world.invariants.after_receive(self, sender, message)
        self._point()
        self.heard()

    def take(self, sender: str, message: PeerMessage) -> None:
        """As `CommitLoop.receive`."""
        if not self.installing:
            self.core.receive(sender, message, self.now)

    def heard(self) -> None:
        """As `CommitLoop.heard`, if one read has given one message; else more of them may come before that."""
        if not self.world.plan.prompt:
            self.wake()
            return
        if not self.core.replica.journal.writing:
            self._begin_write()
        self._turn(due=False)

    def submitted(self) -> None:
        """As `HostedLog.submit`."""
        if not self.world.plan.prompt:
            self.wake()
        elif self.core.may_propose:
            self._turn(due=False)

    def link_changed(self, peer: str, up: bool) -> None:
        """The link to ``peer`` is up, or gone."""
        if self.alive:
            self._run(self.life, self.take_link_change, (peer, up))

    def take_link_change(self, peer: str, up: bool) -> None:
        """As `CommitLoop.peer_link_changed`."""
        if self.installing:
            return
        if up:
            self.core.replica.peer_connected(peer, self.now)
        else:
            self.core.replica.peer_disconnected(peer)
        self.wake()

    def wake(self) -> None:
        """Turn soon."""
        if not self._woken:
            self._woken = True
            self.post(self.world.source.uniform(0, self.world.plan.loop_s) + self.slow_s, self._turn)

    def _turn(self, *, due: bool = True) -> None:
        self._woken = self._woken and not due
        if self.installing:
            return
        core = self.core
        if due or core.wants_turn:
            last, fed = self.world.invariants.fed(self)
            core.advance(self.now, self.clock.wall_ns(self.world.schedule.now))
            self.world.invariants.check_fed(self, last, fed)
        elif self.world.plan.seed % 4 == 3:
            self.world.invariants.check_idle(self)
        self._point()
        for outgoing in core.take_outbox():
            self.let_go(outgoing.to, outgoing.message)
        if core.wants_write:
            self._wake_writer()
        self.doors.after_turn()
        self._point()
        self._arm()

    def let_go(self, to: str, message: PeerMessage) -> None:
        """``message`` leaves for ``to``."""
        self.world.note("send", ("node", self.name), f"to {to}", message)
        self.world.invariants.leaving(self, to, message)
        self.world.network.send(self.name, to, message)
        self._point()

    def _arm(self) -> None:
        deadline = self.clock.when(self.core.next_deadline() + LATENESS_S)
        if deadline != self._timer:
            self._timer = deadline
            self.world.schedule.at(deadline, self._run, self.life, self._timer_due, (deadline,))

    def _timer_due(self, deadline: float) -> None:
        if deadline == self._timer:
            self._timer = -1.0
            self.wake()

    # ----------------------------------------------------------------------------------------------------- writer
    def _wake_writer(self) -> None:
        if not self._writer_woken and not self.core.replica.journal.writing:
            self._writer_woken = True
            self.post(self.world.source.uniform(0, self.world.plan.loop_s), self._begin_write)

    def _begin_write(self) -> None:
        self._writer_woken = False
        if self.core.wants_write and not self.stopping and not self.installing:
            self._begin(self.core.begin_write())

    def _begin(self, writes: Writes) -> None:
        parts = self.parts(writes)
        self.world.note("write", ("node", self.name), *parts)
        self.world.invariants.check_write(self, is_empty=not parts)
        self._point()
        self.disk.begin(writes)
        delay = self.world.source.uniform(*self.world.plan.disk_s) * self.disk.slow
        self.world.schedule.after(delay, self._disk_done, self.life, writes)

    def _disk_done(self, life: int, writes: Writes) -> None:
        """The disk does its part even while the process is stopped, or not: then the system call is not through."""
        if life == self.life and self.paused and self.world.source.random() < 0.5:
            self._held.append((self._finish, (writes,)))
        elif life == self.life:
            self.run(self._finish, writes)

    def _finish(self, writes: Writes) -> None:
        self._point()
        try:
            self.disk.finish()
        except StorageFull:
            self.core.storage_full = True
            retry = STORAGE_RETRY_S * self.world.plan.timing.election_timeout_s
            self.world.schedule.after(retry, self._disk_done, self.life, writes)
        except OSError as error:
            self.world.count("disk_error")
            self.die(f"the disk failed: {error}")
        else:
            self._point()
            self.core.storage_full = False
            self.post(self.world.source.uniform(0, self.world.plan.loop_s), self._written, writes)

    def _written(self, writes: Writes) -> None:
        self.world.note("written", ("node", self.name), *self.parts(writes))
        self.core.end_write(writes, self.now)
        self._point()
        if writes.stage is not None and self.world.source.random() < self.world.plan.install_kills:
            raise ProcessDied
        if self.core.installed:
            self.begin_install()
            return
        if self.world.plan.prompt and not self.stopping:
            self._turn(due=False)
        else:
            self.wake()
        if self.stopping:
            self._last_write()

    # --------------------------------------------------------------------------------------------------- snapshots
    def begin_install(self) -> None:
        """As `CommitLoop._install`."""
        self.installing = True
        self.world.count("installation")
        self.world.note("install", ("node", self.name), ("entry", self.disk.first))
        self._step_later(self.world.plan.disk_s)

    def _step_later(self, delay_s: tuple[float, float]) -> None:
        self.post(self.world.source.uniform(*delay_s) * self.disk.slow, self._step_install)

    def _step_install(self) -> None:
        self._point()
        if self.world.source.random() < self.world.plan.install_kills:
            raise ProcessDied
        try:
            more = self.disk.install_step()
        except StorageFull:
            retry = STORAGE_RETRY_S * self.world.plan.timing.election_timeout_s
            self._step_later((retry, retry))
            return
        except OSError as error:
            self.world.count("disk_error")
            self.die(f"the disk failed: {error}")
            return
        if more:
            self._step_later(self.world.plan.disk_s)
            return
        self.renewed(self.make_core())
        self.core.advance(self.now, self.clock.wall_ns(self.world.schedule.now))
        self.installing = False
        self.wake()
        if self.stopping:
            self._last_write()

    def renewed(self, core: LogCore) -> None:
        """The log is another one."""
        self.core = core
        self.world.note("renewed", ("node", self.name), f"first={self.disk.first}")
        self.world.invariants.node_renewed(self)

    # --------------------------------------------------------------------------------------------------- shutdown
    def stop_cleanly(self) -> None:
        """SIGTERM: one last transaction with the derived state, then the end."""
        if self.runs and not self.stopping:
            self.stopping = True
            if not self.core.replica.journal.writing and not self.installing:
                self.post(0.0, self._last_write)

    def _last_write(self) -> None:
        if self.core.installed:
            self.die("stopped in front of an installation")
            return
        writes = self.core.begin_write(checkpoint=True)
        self.disk.begin(writes)
        try:
            self.disk.finish()
        except StorageFull:
            self.die("stopped while its disk was full")
        except OSError as error:
            self.die(f"the disk failed: {error}")
        else:
            self.die("stopped cleanly")

    @staticmethod
    def parts(writes: Writes) -> list[Any]:
        """A transaction as values of an event."""
        values: list[Any] = []
        if writes.truncate_from is not None:
            values.append(f"truncate from {writes.truncate_from}")
        values += [("entry", entry.index) for entry in writes.entries]
        if writes.hard_state is not None:
            state = writes.hard_state
            values.append(f"term={state.term} vote={state.vote} commit={state.commit}")
        if writes.checkpoint is not None:
            values.append(f"checkpoint={writes.checkpoint.applied}")
        if writes.trim is not None:
            values.append(f"trim={writes.trim.first}")
        if writes.joined:
            values.append("joined")
        values += [("mend", mend.entry.index) for mend in writes.mends]
        if writes.stage is not None:
            values.append(f"stage={len(writes.stage.rows)} of {writes.stage.head}")
        if writes.install is not None:
            values.append(f"install={writes.install[0].index}")
        return values
