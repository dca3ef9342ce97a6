"""What a seed decides before anything runs: the cluster, its timing, the workload, and which faults there are.

Swarm testing: each seed has its own small set of faults at its own rates. A run with all faults at once hides what
only shows when most of the cluster is healthy, and the other way round.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from lanyinglog.batcher import BatcherLimits
from lanyinglog.raft.timing import Timing

FAULTS = (
    "kill",
    "kill_at_step",
    "power_cut_one",
    "power_cut_some",
    "power_cut_all",
    "pause",
    "partition_halves",
    "partition_leader",
    "minority_leader",
    "partition_ring",
    "partition_bridge",
    "one_way",
    "clog",
    "reset",
    "client_cut",
    "clock_jump",
    "disk_slow",
    "disk_full",
    "disk_error",
    "corrupt",
    "transfer",
    "restart_cleanly",
    "long_gone",
    "wipe",
    "member_add",
    "member_remove",
)
"""Faults that happen now and then, each with a rate."""


@dataclass(slots=True)
class Plan:
    """See the module; seconds are virtual."""

    seed: int
    nodes: int = 3
    timing: Timing = field(default_factory=Timing)
    lmdb: bool = False
    faults_s: float = 6.0
    """How long faults go on before everything is healed."""
    rates: dict[str, float] = field(default_factory=dict)
    """Fault -> how often per second, for those that this seed has."""
    link_s: tuple[float, float] = (0.0001, 0.001)
    disk_s: tuple[float, float] = (0.0005, 0.003)
    loop_s: float = 0.0002
    prompt: bool = False
    """A message of a peer is written and turned for at once, not together with those that follow it."""
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    wire_damage: float = 0.0
    real_wire: bool = False
    """Peer messages travel as the bytes of their frames."""
    drift: float = 0.0
    """Clocks of nodes run up to this share too fast or too slow."""
    checkpoint_entries: int = 16
    cache_bytes_max: int = 32 << 20
    catch_up_bytes_s: float = 32 << 20
    catch_up_burst_bytes: int = 1 << 20
    entries_in_flight_max: int = 8
    pipelined_bytes_min: int = 1
    producers: int = 2
    subscribers: int = 2
    batches: int = 40
    """Batches of each producer."""
    pause_between_batches_s: float = 0.05
    impatience: float = 0.0
    """How often a producer gives all up at an error."""
    keep_messages: int | None = None
    keep_age_s: int | None = None
    """Limits of retention that the operator sets at the beginning."""
    trim_step_entries: int = 64
    excess_bytes_max: int = 256 << 20
    snapshot_chunk_bytes: int = 256 << 10
    snapshot_hold_s: float = 30.0
    repeated_parts: float = 0.0
    """Share of what travels of snapshots that comes twice, the second time while the draw goes on."""
    """The product's own constants, made small."""
    install_kills: float = 0.0
    """How often a node dies at a step of an installation."""
    bad_batches: float = 0.0
    """Share of batches whose bytes are damaged: every node refuses them."""
    spares: int = 0
    """Nodes that may be added."""
    stack: bool = False
    """Loop and sessions are the product's own, on trio (`stack`)."""
    probes: bool = False
    """Ends with the scripted checks of elections (`ending`)."""

    @property
    def changes_members(self) -> bool:
        """Whether nodes come and go."""
        return bool({"member_add", "member_remove"} & self.rates.keys())

    def describe(self) -> str:
        """One line for people."""
        faults = ", ".join(f"{name} {rate:.2g}/s" for name, rate in self.rates.items())
        wire = ", ".join(
            f"{name} {getattr(self, name):.2g}"
            for name in ("loss", "duplication", "reordering", "wire_damage", "drift")
            if getattr(self, name)
        )
        where = (" on lmdb" if self.lmdb else "") + (" on trio" if self.stack else "")
        limits = {"messages": self.keep_messages, "s": self.keep_age_s}
        keeps = " and ".join(f"{limit} {name}" for name, limit in limits.items() if limit is not None)
        where += f", keeping {keeps}" if keeps else ""
        return (
            f"{self.nodes} nodes{where}, {self.producers} producers, {self.subscribers} subscribers,"
            f" {self.faults_s:.1f} s of [{faults}{'; ' + wire if wire else ''}]"
        )


def make_plan(seed: int, source: random.Random) -> Plan:
    """The plan of ``seed``; ``source`` is the run's one source of randomness."""
    nodes = source.choices((1, 3, 5), (8, 57, 35))[0]
    election_s = source.choice((0.3, 0.3, 0.5, 1.0))
    plan = Plan(seed, nodes, Timing(heartbeat_s=election_s / 10, election_timeout_s=election_s))
    plan.lmdb = source.random() < 1 / 60
    plan.faults_s = election_s * source.uniform(4, 16)
    plan.link_s = source.choice(((0.0001, 0.0006), (0.0002, 0.003), (0.0002, 0.003), (0.002, election_s / 12)))
    plan.disk_s = source.choice(((0.0003, 0.001), (0.0005, 0.004), (0.001, election_s / 10)))
    plan.loop_s = source.choice((0.0001, 0.0003, 0.002))
    plan.checkpoint_entries = source.choice((1, 4, 16, 64))
    plan.cache_bytes_max = source.choice((0, 2_000, 32 << 20))
    if source.random() < 0.5:
        plan.catch_up_bytes_s, plan.catch_up_burst_bytes = 5_000 / election_s, 200
    plan.entries_in_flight_max = source.choice((1, 2, 8, 8))
    if seed % 4 == 0:  # not drawn: seeds that found something keep their histories
        plan.pipelined_bytes_min = BatcherLimits().pipelined_bytes_min
    plan.prompt = seed % 2 == 1
    plan.producers = source.choice((1, 2, 2, 3))
    plan.subscribers = source.choice((1, 2))
    plan.batches = source.randint(10, 60)
    plan.pause_between_batches_s = plan.faults_s / plan.batches * source.uniform(0.1, 1.0)
    plan.impatience = source.choice((0.0, 0.0, 0.2))
    plan.bad_batches = source.choice((0.0, 0.0, 0.05))
    plan.real_wire = source.random() < 0.1
    plan.probes = nodes > 1 and source.random() < 0.25
    _choose_faults(plan, source)
    _choose_retention(plan, source)
    if plan.changes_members:
        # One disk lost at a time is what a node may lose its memory with; members that change make other majorities.
        plan.probes = False
        for name in ("wipe", "corrupt"):
            plan.rates.pop(name, None)
        plan.spares = 2 if "member_add" in plan.rates else 0
    if source.random() < 1 / 50:
        plan.stack, plan.probes, plan.drift = True, False, 0.0
        for name in ("pause", "member_add", "member_remove"):
            plan.rates.pop(name, None)
        plan.spares = 0
    return plan


def _choose_retention(plan: Plan, source: random.Random) -> None:
    """Most seeds keep so little that the log is trimmed all the time."""
    if source.random() < 0.3:
        plan.rates.pop("wipe", None)
    if source.random() < 0.65:
        plan.keep_messages = source.choice((1, 5, 20, 100))
    if source.random() < 0.1:
        plan.keep_age_s = 1
    plan.trim_step_entries = source.choice((1, 4, 64))
    plan.excess_bytes_max = source.choice((0, 0, 2_000, 256 << 20))
    plan.snapshot_chunk_bytes = source.choice((50, 50, 50, 256 << 10))
    plan.snapshot_hold_s = plan.timing.election_timeout_s * source.choice((0.5, 5, 30))
    plan.repeated_parts = source.choice((0.0, 0.5))
    plan.install_kills = source.choice((0.0, 0.0, 0.05, 0.3))


def _choose_faults(plan: Plan, source: random.Random) -> None:
    share = source.choice((0.0, 0.1, 0.2, 0.3, 0.5))
    for name in FAULTS:
        if source.random() < share:
            plan.rates[name] = source.choice((0.1, 0.3, 0.8)) / plan.timing.election_timeout_s
    if plan.nodes > 1:
        if source.random() < 0.25:
            plan.loss = source.choice((0.01, 0.05, 0.2))
        if source.random() < 0.2:
            plan.duplication = source.choice((0.02, 0.2, 0.5))
        if source.random() < 0.2:
            plan.reordering = source.choice((0.02, 0.2))
        if plan.real_wire and source.random() < 0.5:
            plan.wire_damage = 0.01
    if source.random() < 0.3:
        plan.drift = source.choice((0.001, 0.05))
