"""The log's front: what its leader proposes to give up, and how each node gives it up, a little with every write.

Two steps, far apart. The leader proposes where the log is to begin (`machine.retention`); once that entry is applied no
node serves older messages, and all agree on it. What lies before is then removed by each node on its own, in steps
bounded in entries and bytes, oldest first, as part of writes that are made anyway or, when there are none, of its own.

Removing an entry means applying it to the *base*, the state machine as it was before the log's first entry, which lies
on disk beside the present one. Both happen in one transaction. So base and log always fit, which makes the base, small
as it is, the snapshot for a node that has nothing (`raft.snapshots`), and present state minus base the statistics
of what is still there.

Invariants
1. Nothing goes that is not in a checkpoint on disk, nor before the checkpoint knows of the trim: a restart finds the
   log beginning no later than its state says.
2. A leader waits for followers that it is feeding, and for one that draws the base, as long as what waits to be removed
   stays below `excess_bytes_max`: the limit goes first.
3. What is damaged stops trimming, and nothing else, until it is mended: an entry at the front, without which the base
   can't go on, or the one that is to be the front. So does a record by which it is found out how far to go, until it is
   mended or not asked for any more.
4. Age goes by the leader's wall clock, and by that only while it has gone evenly for as long as the limit, or an hour:
   what a clock that is wrong for a moment would give up is gone for good.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lanyinglog.errors import CorruptEntry
from lanyinglog.machine.retention import LogExtent, TrimPoint, trim_point
from lanyinglog.machine.state_machine import StateMachine
from lanyinglog.service import TopicPage
from lanyinglog.store.log_store import LogStore, Trim

STEP_ENTRIES_MAX = 64
STEP_BYTES_MAX = 1 << 20
"""What one write removes if there is so much; or twice what it adds, if that is more, so that trimming keeps up."""
STEP_TOPICS_MAX = 1_024
"""A step ends with the entry with which it comes to change so many topics of the base (some 5 ms), if it has removed
twice what the write adds by then."""
UNLIMITED_EXCESS_BYTES_MAX = 256 << 20
EVEN_S = 3600
"""A wall clock that has gone evenly for so long, by the monotonic one, is believed."""
CLOCK_STEP_NS = 10 * 10**9
"""A difference between the two that changes by more than this from one look to the next is a step, and no drift."""


class Trimmer:
    """See the module. ``machine`` is the present state, as loaded from ``store``."""

    def __init__(self, *, store: LogStore, machine: StateMachine) -> None:
        self._store = store
        self._machine = machine
        first, _ = store.bounds()
        self.base = StateMachine()
        self.base.load(first - 1, store.base_rows(first))
        machine.topics.note_trimmed(self.base.topics, self.base.topics.names_from(0, len(self.base.topics)))
        self._goal = machine.first_index
        self._checkpointed = store.applied()
        self._clock_offset_ns: float | None = None
        self._even_since = 0.0
        self.damage: CorruptEntry | None = None
        """What can't be read, so that nothing is removed until it is mended."""
        self.obstacle: CorruptEntry | None = None
        """Of whose record the last look for how far to go could make nothing; the next one may not come across it."""

    @property
    def first_seq(self) -> int:
        """The oldest message: by the newest trim, or, where a snapshot was installed whose state is older than the trim
        that it came from, the first one there is."""
        return max(self._machine.first_seq, self.base.last_seq + 1)

    @property
    def bytes_kept(self) -> int:
        """`disk_bytes` of the entries that are stored."""
        return self._machine.end_bytes - self.base.end_bytes

    def topics(self, *, after: str, topics_max: int) -> TopicPage:
        """See `LogService.topics`; of the messages that are stored."""
        return self._machine.topics.page_since(self.base.topics, after=after, topics_max=topics_max)

    @property
    def topics_left(self) -> int:
        """How many topics have messages that are stored and not purged."""
        return self._machine.topics.topics_left

    @property
    def messages_left(self) -> int:
        """How many messages are stored and not purged."""
        return self._machine.last_seq - self.base.last_seq - self._machine.topics.hidden_since(self.base.topics)

    # --------------------------------------------------------------------------------------------- the leader's part
    def proposal(self, now: float, wall_ns: int) -> TrimPoint | None:
        """Where the log should begin by its limits; None if nothing is to be gained, or if there is an `obstacle`.
        ``now`` is monotonic seconds."""
        machine = self._machine
        retention, even_s = machine.retention, self._even_s(now, wall_ns)
        if retention.age_s is not None and even_s < min(retention.age_s, EVEN_S):
            retention = replace(retention, age_s=None)
        if retention.is_unlimited:
            return None
        log = LogExtent(
            max(machine.first_index, self.base.applied + 1),
            self.first_seq,
            self._checkpointed,
            machine.last_seq,
            machine.end_bytes,
            self._store.record,
        )
        try:
            point, self.obstacle = trim_point(retention, log, now_ns=wall_ns), None
        except CorruptEntry as error:
            point, self.obstacle = None, error
        return point

    def _even_s(self, now: float, wall_ns: int) -> float:
        """For how long the wall clock has gone evenly, as far as was looked; to be asked every few seconds."""
        offset_ns = wall_ns - now * 1e9
        if self._clock_offset_ns is None or abs(offset_ns - self._clock_offset_ns) > CLOCK_STEP_NS:
            self._even_since = now
        self._clock_offset_ns = offset_ns
        return now - self._even_since

    # ------------------------------------------------------------------------------------------------ each node's part
    def checkpointed(self, applied: int, first_index: int) -> None:
        """A checkpoint is on disk; by its state the log begins at ``first_index``."""
        self._checkpointed, self._goal = applied, first_index

    @property
    def wants_step(self) -> bool:
        """Whether something waits to be removed, whoever may still need it."""
        return self._goal > self.base.applied + 1 and self.damage is None

    def goal(self, *, last_index: int, held: int | None) -> int:
        """Before which entry all may be removed now, 0 for nothing; ``held`` is where a leader would rather begin."""
        goal = min(self._goal, self._checkpointed - 1, last_index - 1)
        first = self.base.applied + 1
        if goal <= first or self.damage is not None:
            return 0
        if held is not None and held < goal:
            try:
                excess = self._store.record(goal - 1).end_bytes - self.base.end_bytes
            except CorruptEntry as error:
                self.obstacle, excess = error, 0
            goal = goal if excess > self.excess_bytes_max else held
        return goal if goal > first else 0

    @property
    def excess_bytes_max(self) -> int:
        """How much may wait to be removed for the sake of followers."""
        limit = self._machine.retention.bytes
        return UNLIMITED_EXCESS_BYTES_MAX if limit is None else limit // 4

    @property
    def stuck(self) -> str | None:
        """Why nothing is removed any more, in words."""
        return next((damage.message for damage in self.damages), None)

    @property
    def damages(self) -> list[CorruptEntry]:
        """What has to be mended before trimming goes on."""
        return [damage for damage in (self.damage, self.obstacle) if damage is not None]

    def mended(self, indexes: Iterable[int]) -> None:
        """These entries can be read again."""
        hints = {str(index) for index in indexes}
        if self.damage is not None and self.damage.hint in hints:
            self.damage = None
        if self.obstacle is not None and self.obstacle.hint in hints:
            self.obstacle = None

    def step(self, goal: int, *, bytes_added: int) -> Trim | None:
        """The next entries to remove, up to ``goal`` (exclusive); None if there are none."""
        base = self.base
        if self.damage is not None or goal <= base.applied + 1:
            return None
        last = min(goal - 1, base.applied + STEP_ENTRIES_MAX)
        try:
            entries = self._store.entries(base.applied + 1, last, bytes_max=max(STEP_BYTES_MAX, 2 * bytes_added))
            # The log may come to begin there, and what begins it is asked for its term.
            self._store.term(entries[-1].index + 1)
        except CorruptEntry as error:
            self.damage = error
            return None
        removed = 0
        for entry in entries:
            base.apply(entry.index, entry.command)
            removed += len(entry.command)
            if len(base.topics.changed) >= STEP_TOPICS_MAX and removed >= 2 * bytes_added:
                break
        if self.obstacle is not None and int(self.obstacle.hint or 0) <= base.applied:
            self.obstacle = None  # it goes with the rest
        self._machine.topics.note_trimmed(base.topics, base.topics.changed)
        changes = base.take_checkpoint()
        return Trim(base.applied + 1, base.last_seq, base.last_timestamp, changes.rows, changes.postings)
