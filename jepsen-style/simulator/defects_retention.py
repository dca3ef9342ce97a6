"""What keeps a log sound whose front goes, whose nodes lag behind it, and whose disks get lost: taken away."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from lanyinglog.log_core import LogCore
from lanyinglog.machine.state_machine import StateMachine
from lanyinglog.raft.guard import Guard
from lanyinglog.raft.joining import Joining
from lanyinglog.raft.messages import Chunk, Fetch
from lanyinglog.raft.replica import Replica
from lanyinglog.raft.snapshots import SnapshotSink, SnapshotSource
from lanyinglog.store.log_store import Trim
from lanyinglog.store.memory import MemoryStore
from lanyinglog.trimmer import Trimmer
from simulator.defects import Change, defect


# ------------------------------------------------------------------------------------------------------------ trimming
@defect("each node begins its log where its own newest checkpoint says, not where the log does")
def trims_by_itself() -> Sequence[Change]:
    apply = StateMachine.apply

    def apply_and_trim(self: StateMachine, index: int, command: bytes) -> Any:
        applied = apply(self, index, command)
        if self.retention.messages is not None and len(self._records) == 7:
            self.first_seq = max(self.first_seq, self.last_seq + 1 - self.retention.messages)
        return applied

    return [(StateMachine, "apply", apply_and_trim)]


@defect("a trim takes one entry too many")
def trims_too_far() -> Sequence[Change]:
    decode = StateMachine._trim

    def trim(self: StateMachine, index: int, point: Any) -> None:
        decode(self, index, point._replace(first_seq=min(self.last_seq + 1, point.first_seq + 1)))

    return [(StateMachine, "_trim", trim)]


@defect("the state behind the log's first entry is not kept when entries go")
def base_is_not_kept() -> Sequence[Change]:
    step = Trimmer.step

    def step_alone(self: Trimmer, goal: int, *, bytes_added: int) -> Trim | None:
        trim = step(self, goal, bytes_added=bytes_added)
        return None if trim is None else dataclasses.replace(trim, rows={})

    return [(Trimmer, "step", step_alone)]


@defect("entries are removed before the checkpoint that has them is on the disk")
def trims_before_checkpoint() -> Sequence[Change]:
    def goal(self: Trimmer, *, last_index: int, held: int | None) -> int:
        return min(self._machine.first_index, self._machine.applied - 1, last_index - 1)

    def wants_step(self: Trimmer) -> bool:
        return self._machine.first_index > self.base.applied + 1 and self.damage is None

    return [(Trimmer, "goal", goal), (Trimmer, "wants_step", property(wants_step))]


@defect("a leader that holds its log for a follower writes all the time")
def writes_while_it_holds() -> Sequence[Change]:
    goal = Trimmer.goal

    def goal_at_least(self: Trimmer, *, last_index: int, held: int | None) -> int:
        found = goal(self, last_index=last_index, held=held)
        return self.base.applied + 1 if not found and held is not None and held < self._goal else found

    return [(Trimmer, "goal", goal_at_least)]


@defect("a leader feeds followers as if its log still had all", audit="24")
def feeds_what_is_trimmed() -> Sequence[Change]:
    return [(Guard, "log_trimmed", lambda self: None), (Guard, "_leave_behind", lambda self, name, follower: None)]


@defect("readers are not told that what they want is gone")
def reads_below_the_front() -> Sequence[Change]:
    return [(LogCore, "first_seq", property(lambda self: 1))]


# ----------------------------------------------------------------------------------------------------------- snapshots
@defect("a snapshot is installed although this log has what it ends with", audit="4")
def snapshot_over_newer_log() -> Sequence[Change]:
    return [
        (SnapshotSink, "_holds", lambda self, entry: False),
        (SnapshotSink, "_goes_beyond", lambda self, head: head.rows > 0),
    ]


@defect("a part of a snapshot that comes twice counts twice", audit="2")
def snapshot_parts_unordered() -> Sequence[Change]:
    def arrived(self: SnapshotSink, sender: str, chunk: Chunk) -> None:
        if self._head is not None and chunk.first == self._head.first and self._part is None and not self._writing:
            self._part = chunk

    return [(SnapshotSink, "arrived", arrived)]


@defect("a snapshot takes the place of the log before all of it is there", audit="22")
def snapshot_in_part() -> Sequence[Change]:
    fits = SnapshotSink._fits

    def fits_early(self: SnapshotSink, head: Any, chunk: Chunk) -> bool:
        if chunk.done and not fits(self, head, chunk):
            self._head = dataclasses.replace(head, rows=self._received + len(chunk.rows))
        return True

    answer = SnapshotSource.answer

    def answer_early(self: SnapshotSource, sender: str, fetch: Fetch, now: float) -> Any:
        part = answer(self, sender, fetch, now)
        if isinstance(part, Chunk) and not part.done:
            base = self._store.base()
            entries = tuple(self._store.entries(base.first, base.first + 1, bytes_max=1 << 62))
            return dataclasses.replace(part, done=True, entries=entries)
        return part

    return [(SnapshotSink, "_fits", fits_early), (SnapshotSource, "answer", answer_early)]


@defect("a node that died while it installed a snapshot starts from what it has")
def installation_is_forgotten() -> Sequence[Change]:
    return [
        (MemoryStore, "installing", lambda self: False),
        (MemoryStore, "install_step", lambda self: False),
    ]


# ---------------------------------------------------------------------------------------------------------- lost disks
@defect("a node that lost its disk takes part at once")
def newcomer_votes_at_once() -> Sequence[Change]:
    init = Replica.__init__

    def begin(self: Replica, **named: Any) -> None:
        init(self, **{**named, "newcomer": False})
        self._joined_due = True

    return [(Replica, "__init__", begin)]


@defect("a node that lost its disk votes before it has what it may have acknowledged")
def newcomer_votes_too_early() -> Sequence[Change]:
    return [(Joining, "is_done", lambda self, *, term, reached: self.heard_enough)]


@defect("a node that lost its disk believes the first answer, not that of all")
def newcomer_asks_one() -> Sequence[Change]:
    return [(Joining, "heard_enough", property(lambda self: bool(self._terms) or not self._peers))]


@defect("a leader counts what a node had before it lost its disk")
def leader_counts_lost_disk() -> Sequence[Change]:
    return [(Guard, "forget", lambda self, name: None)]
