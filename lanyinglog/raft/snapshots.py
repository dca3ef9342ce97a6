"""How a node that has fallen off the log gets its beginning: both ends of a snapshot's way, as pure state.

A leader learns that a follower lacks what its own log begins with (`guard`), and offers its base: the derived state as
of the entry before that (`store.log_store.Trim`). The follower draws it, one part at a time::

    leader   -> Offer  {first, last_seq, last_timestamp, rows}
    follower -> Fetch  {first, received, after}              rows behind this key, please
    leader   -> Chunk  {first, after, done}, rows            done: and the entries first and first + 1
    ... each part is on the follower's disk before it asks for the next ...

So the leader keeps nothing but the time of the last question, one part is under way at a time, a part costs it a short
read, and a lost message costs a repeated offer. While questions come it does not trim (`SnapshotSource.holds`);
if it had to all the same, the next answer is a new offer and the follower begins again. A node that is killed half-way
begins again, too; its old log is its log until the last part is there.

Invariants
1. A snapshot is installed only if it goes beyond all that is committed here, and only if this log does not hold its
   last entry: whoever holds that has all before it, and may have promised what comes behind it (audit 4).
2. Rows carry a CRC32C each and are counted; entries carry theirs. What fails is never written.
3. Nothing here moves the commit index (audit 2): a new start from what is on disk does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from lanyinglog.raft.journal import Journal
from lanyinglog.raft.messages import Chunk, Fetch, Offer
from lanyinglog.store.log_store import Entry, LogStore, SnapshotHead, Stage

CHUNK_BYTES = 256 << 10
"""Rows in one part: a read of a fraction of a millisecond at the leader, one sync at the follower."""
HOLD_S = 30.0
"""How long after a question the leader keeps the log's beginning in place: the follower may be removing its old log."""
ASK_AGAIN_S = 0.5


@dataclass(slots=True)
class _Draw:
    """What a leader knows of one follower that draws a snapshot."""

    at: float
    received: int
    rows: int


class SnapshotSource:
    """The leader's end."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._draws: dict[str, _Draw] = {}

    def offer(self, term: int) -> Offer:
        """What there is to draw right now, as it lies on disk."""
        base = self._store.base()
        return Offer(term, base.first, base.last_seq, base.last_timestamp, base.rows)

    def answer(self, sender: str, fetch: Fetch, now: float) -> Chunk | Offer:
        """The part that is asked for, or an offer if what is asked for is no longer there."""
        base = self._store.base()
        try:
            rows = self._store.base_rows(fetch.first, after=fetch.after, bytes_max=CHUNK_BYTES)
            done = fetch.received + len(rows) >= base.rows
            entries = self._store.entries(base.first, base.first + 1, bytes_max=1 << 62) if done else []
        except KeyError:
            return self.offer(fetch.term)
        self._draws[sender] = _Draw(now, fetch.received + len(rows), base.rows)
        return Chunk(fetch.term, fetch.first, fetch.after, done, tuple(rows), tuple(entries))

    def holds(self, now: float) -> bool:
        """Whether somebody draws the base as it is now."""
        for name in [name for name, draw in self._draws.items() if now - draw.at > HOLD_S]:
            del self._draws[name]
        return bool(self._draws)

    def served(self, name: str) -> None:
        """``name`` has what the log begins with."""
        self._draws.pop(name, None)

    def percent(self, name: str) -> int | None:
        """How much of the base ``name`` has asked for; None if it draws nothing."""
        draw = self._draws.get(name)
        return None if draw is None else 100 * draw.received // max(1, draw.rows)


class SnapshotSink:
    """The follower's end. ``installed`` turns True when the snapshot is whole and on disk: then the log is another."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._source = ""
        self._head: SnapshotHead | None = None
        self._received = 0
        self._after = b""
        self._asked_at = 0.0
        self._part: Chunk | None = None
        self._writing = False
        self._restart = True
        self._finishing = False
        self.installed = False

    @property
    def percent(self) -> int | None:
        """How much of a snapshot is on disk here; None if none is arriving."""
        return None if self._head is None else 100 * self._received // max(1, self._head.rows)

    @property
    def wants_write(self) -> bool:
        """Whether a part waits for the disk."""
        return self._part is not None and not self._writing

    def offered(self, sender: str, offer: Offer, now: float) -> Fetch | None:
        """``sender``, the leader, offers; what to ask it for, if anything."""
        head = SnapshotHead(offer.first, offer.last_seq, offer.last_timestamp, offer.rows)
        if self._part is not None or self._writing or not self._goes_beyond(head):
            return None
        if (sender, head) != (self._source, self._head):
            self._source, self._head = sender, head
            self._received, self._after, self._restart = 0, b"", True
        elif now - self._asked_at < ASK_AGAIN_S:
            return None
        return self._ask(offer.term, now)

    def _goes_beyond(self, head: SnapshotHead) -> bool:
        return head.first + 1 > self._journal.hard_state.commit and head.rows > 0

    def _ask(self, term: int, now: float) -> Fetch:
        assert self._head is not None
        self._asked_at = now
        return Fetch(term, self._head.first, self._received, self._after)

    def arrived(self, sender: str, chunk: Chunk) -> None:
        """A part; one that was not asked for last is dropped."""
        head = self._head
        if head is None or (sender, chunk.first, chunk.after) != (self._source, head.first, self._after):
            return
        if self._part is None and not self._writing and self._fits(head, chunk):
            self._part = chunk

    def _fits(self, head: SnapshotHead, chunk: Chunk) -> bool:
        """Whether the part is what it says: rows in order, all of them when it is the last."""
        keys = [chunk.after, *(key for key, _ in chunk.rows)]
        in_order = all(low < high for low, high in pairwise(keys))
        total = self._received + len(chunk.rows)
        if not in_order or total > head.rows or chunk.done != (total == head.rows):
            return False
        indexes = [entry.index for entry in chunk.entries]
        return indexes == ([head.first, head.first + 1] if chunk.done else [])

    def begin_write(self) -> tuple[Stage | None, tuple[Entry, ...] | None]:
        """What goes with the next transaction: a part, and the entries that make it the log if it is the last."""
        part, head = self._part, self._head
        if part is None or head is None:
            return None, None
        if not self._goes_beyond(head) or (part.done and self._holds(part.entries[-1])):
            self.abandon()
            return None, None
        self._writing = True
        self._finishing = part.done
        return Stage(head, part.rows, restart=self._restart), part.entries if part.done else None

    def _holds(self, entry: Entry) -> bool:
        journal = self._journal
        return journal.first_index <= entry.index <= journal.last_index and journal.term(entry.index) == entry.term

    def end_write(self, term: int, now: float) -> tuple[str, Fetch] | None:
        """The part is on disk; whom to ask for the next."""
        part = self._part
        if not self._writing or part is None:
            return None
        self._writing = False
        self._part = None
        self._restart = False
        self._received += len(part.rows)
        self._after = part.rows[-1][0] if part.rows else self._after
        if self._finishing:
            self.installed = True
            return None
        return self._source, self._ask(term, now)

    def abandon(self) -> None:
        """It is not needed any more. What lies on disk is forgotten with the next snapshot."""
        self._head, self._part = None, None
