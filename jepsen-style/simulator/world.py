"""One seed, one run: builds a cluster from a plan, lets it live through its faults, heals it, and judges.

Everything random comes from one ``random.Random(seed)``; the engine's and the product's own sources of chance are not
used here or are handed this one. `Node` objects of the engine lie in sets; their order is made independent of
Python's hash seed here, so that a seed means the same in every process.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lanyinglog import log_core, trimmer
from lanyinglog.raft import pacing, snapshots
from lanyinglog.raft.engine import EngineNode
from simulator.disk import Disk
from simulator.ending import Ending
from simulator.faults import Faults
from simulator.history import History, Violation
from simulator.invariants import Invariants
from simulator.ledger import Ledger
from simulator.members import MemberChanges
from simulator.network import Network
from simulator.node import Clock, Node
from simulator.plan import Plan, make_plan
from simulator.producer import Publisher
from simulator.schedule import Schedule
from simulator.stack import StackNode, StackSchedule, run_on_trio
from simulator.subscriber import Subscriber


class _Hashes(dict[str, int]):
    """Name -> a hash that is the same in every process."""

    def __missing__(self, name: str) -> int:
        self[name] = zlib.crc32(name.encode())
        return self[name]


_hashes = _Hashes()
EngineNode.__hash__ = lambda self: _hashes[self.name]  # type: ignore[method-assign]


@dataclass(slots=True)
class Outcome:
    """What a run gave. ``violation`` is None if every property held."""

    seed: int
    violation: Violation | None
    steps: int
    virtual_s: float
    acknowledged: int
    elections: int
    faults: dict[str, int]
    plan: str
    digest: str = ""
    explanation: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)


class World:
    """All there is in one run."""

    def __init__(self, plan: Plan, source: random.Random) -> None:
        self.plan = plan
        self.source = source
        self.schedule = StackSchedule() if plan.stack else Schedule()
        self.history = History()
        self.faults_seen: dict[str, int] = {}
        self.founders = [f"n{n}" for n in range(1, plan.nodes + 1)]
        self.names = [*self.founders, *(f"n{plan.nodes + n}" for n in range(1, plan.spares + 1))]
        self.client_names = [f"p{n}" for n in range(1, plan.producers + 1)]
        self.client_names += [f"s{n}" for n in range(1, plan.subscribers + 1)]
        self._directory = _directory() if plan.lmdb else None
        self.ledger = Ledger(self)
        self.invariants = Invariants(self)
        self.nodes: dict[str, Node] = {}
        for name in self.names:
            directory = None if self._directory is None else self._directory / name
            rate = 1 + source.uniform(-plan.drift, plan.drift)
            disk = Disk(name, source, directory)
            if plan.stack:
                self.nodes[name] = StackNode(self, name, disk, Clock(1.0, 0.0))
            else:
                self.nodes[name] = Node(self, name, disk, Clock(rate, source.uniform(0, 1000)))
        self.network = Network(self)
        self.publishers = [Publisher(self, f"p{n}") for n in range(1, plan.producers + 1)]
        self.subscribers = [Subscriber(self, f"s{n}") for n in range(1, plan.subscribers + 1)]
        self.faults = Faults(self)
        self.members = MemberChanges(self)
        self.ending = Ending(self)

    def note(self, kind: str, *values: Any) -> None:
        """Keep an event."""
        self.history.note(self.schedule.now, kind, *values)

    def count(self, fault: str) -> None:
        """A fault really happened."""
        self.faults_seen[fault] = self.faults_seen.get(fault, 0) + 1

    def run(self) -> None:
        """The whole life of this world; raises the `Violation` that ends it."""
        self.start()
        self.schedule.run_until(self.plan.faults_s)
        self.finish()

    def start(self) -> None:
        """Nodes, clients and faults begin."""
        for name in self.founders:
            self.schedule.after(self.source.uniform(0, 0.1), self.nodes[name].start)
        for client in [*self.publishers, *self.subscribers]:
            self.schedule.after(self.source.uniform(0, 0.5), client.start)
        self.members.begin()
        self.faults.start()

    def finish(self) -> None:
        """Heal everything, and judge."""
        self.schedule.at(self.schedule.now, self.faults.heal)
        self.schedule.run_until(self.schedule.now)
        self.ending.run()

    def close(self) -> None:
        """Gives back what the run took from the machine."""
        for node in self.nodes.values():
            node.disk.remove()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def _directory() -> Path:
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="lanyinglog-simulation-", dir=memory if memory.is_dir() else None))


_KINDS = {
    "lmdb": "on lmdb",
    "stack": "on trio",
    "real_wire": "with frames as bytes",
    "drift": "with drifting clocks",
    "probes": "with probes",
}
"""What a plan has, as a summary counts it."""


@contextmanager
def _small_constants(plan: Plan) -> Iterator[None]:
    """Limits of the product that no run would reach."""
    scale = plan.timing.election_timeout_s
    changes = (
        (trimmer, "STEP_ENTRIES_MAX", plan.trim_step_entries),
        (trimmer, "UNLIMITED_EXCESS_BYTES_MAX", plan.excess_bytes_max),
        (pacing, "BURST_BYTES", plan.catch_up_burst_bytes),
        (snapshots, "CHUNK_BYTES", plan.snapshot_chunk_bytes),
        (snapshots, "HOLD_S", plan.snapshot_hold_s),
        (snapshots, "ASK_AGAIN_S", snapshots.ASK_AGAIN_S * scale),
        (log_core, "CHECKPOINT_S", log_core.CHECKPOINT_S * scale),
        (log_core, "RETENTION_CHECK_S", log_core.RETENTION_CHECK_S * scale / 5),
    )
    before = [getattr(module, name) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(changes, before, strict=True):
            setattr(module, name, value)


def simulate(seed: int, *, trace: bool = False, digest: bool = False) -> Outcome:
    """Run ``seed``. ``trace`` keeps every event as text, ``digest`` hashes them."""
    source = random.Random(seed)
    return simulate_plan(make_plan(seed, source), source, trace=trace, digest=digest)


def simulate_plan(plan: Plan, source: random.Random, *, trace: bool = False, digest: bool = False) -> Outcome:
    """Like `simulate`, for a plan that was made or changed by hand."""
    words = plan.describe()  # before healing changes it
    world = World(plan, source)
    violation: Violation | None = None
    try:
        with _small_constants(plan):
            if plan.stack:
                run_on_trio(world)
            else:
                world.run()
    except Violation as broken:
        violation = broken
    finally:
        world.close()
    faults = dict(world.faults_seen)
    mended = sum(node.disk.mended for node in world.nodes.values())
    if mended:
        faults["entry mended"] = mended
    faults.update({f"message {name}": count for name, count in world.network.counts.items() if count})
    faults.update({f"run {words}": 1 for name, words in _KINDS.items() if getattr(plan, name)})
    faults[f"run of {plan.nodes} nodes"] = 1
    outcome = Outcome(
        plan.seed,
        violation,
        world.schedule.steps,
        world.schedule.now,
        world.ledger.acknowledged,
        world.invariants.elections,
        faults,
        words,
    )
    if violation is not None:
        outcome.explanation = world.history.explain(violation)
    if digest:
        outcome.digest = world.history.digest()
    if trace:
        outcome.events = [str(event) for event in world.history.events]
    return outcome
