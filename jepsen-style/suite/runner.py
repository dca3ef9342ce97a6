"""The life of a run: a cluster is started, used and hurt, healed, looked into, judged; then all of it is taken away.

Order matters at the end: workloads stop first, so that every operation has an outcome; then everything is healed and
the nodes get time to become equal; then each node serves its whole log once more; then the nodes are stopped and their
data files read. What the checkers say of history and files is the verdict.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from suite import faults, scenarios, schedule
from suite.arena import Arena, Happened, Order, Skipped
from suite.availability import Availability
from suite.checkers import Finding, Findings, check
from suite.cluster import Cluster
from suite.disks import Disk, compile_shim, mount_disk
from suite.faults import ISOLATION, SHIM, SIZED_DISK, TC
from suite.history import History, load
from suite.image import UNREADABLE, Image, read
from suite.links import Layers, Links
from suite.places import Cables, plan
from suite.presets import DISK_BYTES
from suite.sandbox import Sandbox
from suite.settings import Settings
from suite.workers import Workers

START_S_MAX = 60.0
TURN_S_MAX = 4.0
"""How long a hard fault waits for the one before it to be over."""
HEAL_S_MAX = 90.0
"""Far more than it takes (results.json says how long): a machine that does other things is no violation."""
HEAL_DEFECT_S_MAX = 20.0
"""With a planted defect that is its doing, and what is looked for."""
FAULT_END_S_MAX = 100.0
"""A fault that is to end starts or stops nodes; a rolling restart or a change of members is through by then."""
FINISH_S_MAX = 400.0
CLUSTER = "suite"
MEMBERS, SPARES_MAX, SPARE_S = "members", 12, 6.0
"""The fault that needs nodes which join; how many there are at most, and one for so many seconds."""
ACKED_MIN = 50
"""With fewer acknowledged operations a run says nothing."""


@dataclass(slots=True)
class Outcome:
    """All that a run came to know. ``valid`` is None when nothing can be said; ``problems`` are the suite's own."""

    settings: Settings
    place: str
    capabilities: dict[str, str]
    """Capability -> why it is missing, empty if it is there."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Fault -> why it was left out."""
    history: History = field(default_factory=History)
    image: Image = field(default_factory=Image)
    book: list[Happened] = field(default_factory=list)
    availability: Availability | None = None
    """None before the faults are over."""
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    skipped: int = 0
    seconds: float = 0.0
    used_s: float = 0.0
    """How long workloads and faults went on."""
    checked_s: float = 0.0
    converged_s: float = 0.0
    cluster_names: tuple[str, ...] = ()

    @property
    def valid(self) -> bool | None:
        if self.counts:
            return False
        return None if self.problems or self.acked < ACKED_MIN else True

    @property
    def acked(self) -> int:
        """Operations that were acknowledged."""
        return sum(1 for row in self.history.iter_publishes() if row[3] == 0)


Watch = Callable[[str, float, "Stage"], None]
"""Called several times a second: what is going on, seconds since it began, and the stage."""


@dataclass(slots=True)
class Stage:
    """What a watcher may look at while a run goes on."""

    arena: Arena | None = None
    workers: Workers | None = None
    seconds: float = 0.0


class Run:
    """One round in one place. `go` does it all and cleans up whatever happens."""

    def __init__(self, settings: Settings, sandbox: Sandbox, watch: Watch) -> None:
        self._settings = settings
        self._sandbox = sandbox
        self._watch = watch
        self._stage = Stage(seconds=settings.seconds)
        self._began = time.monotonic()
        self._outcome = Outcome(settings, sandbox.words, {})
        self._restarted = 0

    def go(self) -> Outcome:
        """The run, and its outcome."""
        outcome = self._outcome
        spares = self._spares()
        names = tuple(f"n{i}" for i in range(1, self._settings.nodes + spares + 1))
        outcome.cluster_names = names[: self._settings.nodes]
        with ExitStack() as undo:
            work = undo.enter_context(_work_directory(self._settings.report, isolated=self._sandbox.isolated))
            cluster, layers = self._build(names, spares, work, undo)
            self._tell("starting the nodes")
            for name in cluster.names:
                cluster.start(name)
            problem = cluster.wait_equal(timeout_s=START_S_MAX)
            if problem is not None or cluster.ends:
                outcome.problems.append(f"the cluster did not start: {problem or cluster.ends}")
                self._keep_logs(cluster)
                return outcome
            self._use(cluster, layers, undo)
            self._keep_logs(cluster)
            self._judge(cluster)
        outcome.seconds = time.monotonic() - self._began
        return outcome

    # ------------------------------------------------------------------------------------------------------ building
    def _spares(self) -> int:
        """How many nodes may join: each change of members takes one."""
        scenario = self._settings.scenario
        chosen = scenarios.faults_of(scenario) if scenario is not None else set(self._settings.faults)
        if MEMBERS not in chosen:
            return 0
        return max(2, min(SPARES_MAX, int(self._settings.seconds / SPARE_S)))

    def _build(self, names: tuple[str, ...], spares: int, work: Path, undo: ExitStack) -> tuple[Cluster, Layers]:
        isolated = self._sandbox.isolated
        shim, no_shim = compile_shim(work)
        self._outcome.capabilities = {
            ISOLATION: "" if isolated else self._sandbox.words,
            SIZED_DISK: "" if isolated else self._sandbox.words,
            SHIM: no_shim,
            TC: "" if shutil.which("tc") else "tc is not installed",
        }
        places, links = plan(names, isolated=isolated)
        cables = Cables(places) if isolated else None
        if cables is not None:
            undo.callback(cables.close)
        room = psutil.virtual_memory().available // (2 * (self._settings.nodes + min(spares, 2)))
        disks = {}
        for name in names:
            (work / name).mkdir()
            disks[name] = Disk(work / name, size_bytes=min(DISK_BYTES, room) if isolated else None, shim=shim)
        cluster = Cluster(places, work, disks, cables, self._settings.defect, spares=spares)
        undo.callback(cluster.close)
        relay = Links(links, seed=self._settings.seed, log=self._settings.report / "relay.log")
        undo.callback(relay.close)
        return cluster, Layers(relay)

    # --------------------------------------------------------------------------------------------------- use and hurt
    def _use(self, cluster: Cluster, layers: Layers, undo: ExitStack) -> None:
        """Workloads and faults side by side, then healing and the final reads."""
        settings, outcome = self._settings, self._outcome
        epoch_ns = time.monotonic_ns()
        arena = self._stage.arena = Arena(cluster, layers, epoch_ns=epoch_ns)
        undo.callback(arena.over.set)
        workers = self._stage.workers = Workers(settings, cluster, epoch_ns=epoch_ns)
        undo.callback(workers.close)
        self._hurt(arena, workers)
        outcome.used_s = arena.now() / 1e9
        self._tell("stopping the workloads")
        workers.stop()
        self._tell("healing")
        self._heal(arena)
        self._tell("reading everything back from every node")
        workers.finish(timeout_s=FINISH_S_MAX)
        outcome.problems += workers.problems
        for words in workers.unserved:
            arena.remark("no-recovery", words)
        for name in cluster.names:
            cluster.stop(name)
        outcome.book, outcome.skipped = arena.book, arena.skipped
        outcome.availability = Availability(arena.troubles(), arena.members())
        self._tell("checking")
        began = time.monotonic()
        outcome.history = load(workers.files)
        outcome.checked_s = time.monotonic() - began

    def _hurt(self, arena: Arena, workers: Workers) -> None:
        orders = self._orders(arena)
        threads = []
        began = time.monotonic()
        while (now := time.monotonic() - began) < self._settings.seconds:
            while orders and orders[0].start_s <= now:
                order = orders.pop(0)
                threads.append(threading.Thread(target=self._inflict, args=(arena, order), daemon=True))
                threads[-1].start()
            arena.cluster.notice_ends()
            self._restart_ended(arena)
            workers.members_are(arena.cluster.names)
            self._tell("running", now)
            time.sleep(0.05)
        arena.over.set()
        deadline = time.monotonic() + FAULT_END_S_MAX
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._outcome.problems.append("a fault did not end: see the last ones in faults.jsonl")
        workers.members_are(arena.cluster.names)

    def _orders(self, arena: Arena) -> list[Order]:
        """The schedule, of the faults that this machine allows."""
        have = [name for name, lack in self._outcome.capabilities.items() if not lack]
        for name in self._settings.faults:
            lacking = faults.missing(name, have)
            if lacking:
                words = "; ".join(f"{faults.CAPABILITIES[one]} ({self._outcome.capabilities[one]})" for one in lacking)
                self._outcome.left_out[name] = f"needs {words}"
        names = [name for name in self._settings.faults if name not in self._outcome.left_out]
        if self._settings.scenario is not None:
            return scenarios.orders(self._settings.scenario, self._settings.seed, self._settings.seconds)
        return schedule.draw(
            self._settings.seed, seconds=self._settings.seconds, names=names, nodes=self._settings.nodes
        )

    def _inflict(self, arena: Arena, order: Order) -> None:
        fault = faults.load(order.fault)
        waits = fault.HARD and not order.overlaps
        if waits and not arena.turn.acquire(timeout=TURN_S_MAX):
            arena.skipped += 1
            return
        try:
            if not arena.over.is_set():
                fault.inflict(arena, order)
        except Skipped:
            return  # counted where it was raised
        except Exception as error:
            # The boundary of a fault: one that fails is the suite's problem, and the run can't be judged by it.
            self._outcome.problems.append(f"the fault {order.fault} (number {order.number}) failed: {error!r}")
        finally:
            if waits:
                arena.turn.release()

    def _restart_ended(self, arena: Arena) -> None:
        """A node that ended by itself is noted, and started again, as a service manager would."""
        for end in arena.cluster.ends[self._restarted :]:
            self._restarted += 1
            if end.node in arena.cluster.nodes:
                arena.cluster.start(end.node)

    def _heal(self, arena: Arena) -> None:
        cluster, outcome = arena.cluster, self._outcome
        arena.layers.clear()
        for name, node in cluster.nodes.items():
            node.disk.make_room()
            node.disk.set_sync()
            node.disk.set_clock(0.0)
            cluster.resume(name)
            cluster.start(name)
        began = time.monotonic()
        limit_s = HEAL_DEFECT_S_MAX if self._settings.defect else HEAL_S_MAX
        problem = cluster.wait_equal(timeout_s=limit_s)
        outcome.converged_s = time.monotonic() - began
        if problem is not None:
            arena.remark("no-recovery", f"{limit_s:g} s after everything was healed: {problem}")

    # ---------------------------------------------------------------------------------------------------------- judge
    def _judge(self, cluster: Cluster) -> None:
        outcome, arena = self._outcome, self._stage.arena
        assert arena is not None
        began = time.monotonic()
        findings = Findings()
        for end in cluster.ends:
            words = f"{end.node} ended with code {end.code}; its log says why"
            findings.add("node-ended", words, t_ns=arena.since_epoch(end.at_ns))
        for anomaly, words, t_ns in arena.remarks:
            findings.add(anomaly, words, t_ns=t_ns)
        self._check_data(cluster, findings)
        outcome.findings, outcome.counts = findings.told, findings.counts
        outcome.checked_s += time.monotonic() - began
        if outcome.counts:
            self._keep_data(cluster)

    def _check_data(self, cluster: Cluster, findings: Findings) -> None:
        """The data files against each other, and the history against them."""
        outcome = self._outcome
        directories = {name: node.disk.data / "main" for name, node in cluster.nodes.items()}
        outcome.image, differences = read(directories, cluster=CLUSTER)
        for one in differences:
            if one.index == UNREADABLE:
                findings.add("unreadable-data", f"{one.node}: {one.words}")
            else:
                words = f"{one.node}: entry {one.index}, compared with {one.other}: {one.words}"
                findings.add("replica-divergence", words)
        check(outcome.history, outcome.image, findings)
        if outcome.problems:
            findings.drop("phantom")  # what a worker that ended early had sent may be missing from the history

    def _keep_logs(self, cluster: Cluster) -> None:
        for name, node in cluster.everyone.items():
            if node.log_file.exists():
                (self._settings.report / "nodes").mkdir(exist_ok=True)
                shutil.copyfile(node.log_file, self._settings.report / "nodes" / f"{name}.log")

    def _keep_data(self, cluster: Cluster) -> None:
        """A violation: its data files are evidence."""
        for name, node in cluster.nodes.items():
            if node.disk.file.exists():
                target = self._settings.report / "data" / name / "main"
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(node.disk.file, target / node.disk.file.name)

    def _tell(self, what: str, seconds: float = 0.0) -> None:
        self._watch(what, seconds, self._stage)


@contextmanager
def _work_directory(report: Path, *, isolated: bool) -> Iterator[Path]:
    """Where the nodes live: memory that goes with the run if mounts are allowed; else a directory that is removed."""
    work = report / "work"
    work.mkdir(parents=True, exist_ok=True)
    if isolated:
        mount_disk(work, 512 << 20)
    try:
        yield work
    finally:
        if not isolated:
            shutil.rmtree(work, ignore_errors=True)
