"""What this node has stored and can't read any more, and how it gets that again: pure state, both ends.

A page rots, a checksum says so, and the entry is not served. It was committed, and what is committed is the same on
every node (Raft 5.3): so another node's copy is the entry, to the byte. Whoever lacks one asks the others, one after
the other::

    -> Wanted {index}              what do you have stored there?
    <- Copy   {index}, row, entry  the record of what applying it gave, and the entry; or nothing

Invariants
1. Only what was applied and stored here is asked for, and only what was applied and stored there is given: an entry
   that is not committed has no place in this.
2. A copy takes a place on disk only if its index is wanted and entry and record pass their checksums.
3. What nobody has is not made up. It stays unreadable, is asked for again now and then, and is told of (`take_news`).

Bounds: WANTED_MAX entries at a time, of which ASKED_MAX are asked for; copies of READY_BYTES_MAX wait for the disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from lanyinglog.errors import CorruptEntry
from lanyinglog.raft.messages import Copy, Wanted
from lanyinglog.store import layout
from lanyinglog.store.log_store import LogStore, Mend

WANTED_MAX = 4_096
ASKED_MAX = 32
READY_BYTES_MAX = 8 << 20
ASK_AGAIN_S = 0.5
LOST_ASK_AGAIN_S = 5.0
"""When all others had nothing: they may not have got that far yet, or one may be away."""
_RECORD = b"record"


class News(StrEnum):
    """What became of an entry; LOST: no other node has it whole."""

    DAMAGED = "damaged"
    MENDED = "mended"
    LOST = "lost"


@dataclass(slots=True)
class _Want:
    ask_at: float = 0.0
    asked: str = ""
    empty: set[str] = field(default_factory=set)
    """Who has nothing to give."""
    told_lost: bool = False


class Repair:
    """See the module."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._wanted: dict[int, _Want] = {}
        self._ready: dict[int, tuple[Mend, str]] = {}
        self._writing: tuple[int, ...] = ()
        self._news: list[tuple[News, int, str | None]] = []

    def take_news(self) -> list[tuple[News, int, str | None]]:
        """``(what, index, node)`` since the last call; the node is the one whose copy mended it."""
        news, self._news = self._news, []
        return news

    @property
    def damaged(self) -> list[int]:
        """The entries that can't be read, as far as it was noticed."""
        return sorted(self._wanted)

    def is_wanted(self, index: int) -> bool:
        """Whether entry ``index`` is still to be mended."""
        return index in self._wanted

    def is_lost(self, index: int) -> bool:
        """Whether entry ``index`` is wanted and all others had nothing when they were asked."""
        return index in self._wanted and self._wanted[index].told_lost

    def want(self, index: int) -> bool:
        """Entry ``index``, or its record, is damaged; whether it can be asked for."""
        first, _ = self._store.bounds()
        if index in self._wanted:
            return True
        if not first <= index <= self._store.applied() or len(self._wanted) >= WANTED_MAX:
            return False
        self._wanted[index] = _Want()
        self._news.append((News.DAMAGED, index, None))
        return True

    # --------------------------------------------------------------------------------------------------- who lacks it
    def questions(self, peers: list[str], term: int, now: float) -> list[tuple[str, Wanted]]:
        """Whom to ask for what now."""
        self._forget_trimmed()
        if not peers or sum(len(mend.entry.command) for mend, _ in self._ready.values()) >= READY_BYTES_MAX:
            return []
        due = [index for index, want in self._wanted.items() if want.ask_at <= now and index not in self._ready]
        return [(self._next(self._wanted[index], index, peers, now), Wanted(term, index)) for index in due[:ASKED_MAX]]

    def _next(self, want: _Want, index: int, peers: list[str], now: float) -> str:
        if want.empty.issuperset(peers):
            if not want.told_lost:
                self._news.append((News.LOST, index, None))
            want.told_lost = True
            want.empty.clear()
            want.ask_at = now + LOST_ASK_AGAIN_S
        else:
            want.ask_at = now + ASK_AGAIN_S
        candidates = [peer for peer in sorted(peers) if peer not in want.empty]
        want.asked = next((peer for peer in candidates if peer > want.asked), candidates[0])
        return want.asked

    def _forget_trimmed(self) -> None:
        first, _ = self._store.bounds()
        for index in [index for index in self._wanted if index < first]:
            del self._wanted[index]
            self._ready.pop(index, None)

    def arrived(self, sender: str, copy: Copy, now: float) -> None:
        """An answer; one that was not asked for, or that fails a check, counts as none."""
        want = self._wanted.get(copy.index)
        if want is None or copy.index in self._ready:
            return
        mend = _mend_in(copy)
        if mend is None:
            want.empty.add(sender)
            want.ask_at = max(now, want.ask_at - ASK_AGAIN_S) if not want.told_lost else want.ask_at
        else:
            self._ready[copy.index] = mend, sender

    @property
    def wants_write(self) -> bool:
        """Whether copies wait for the disk."""
        return bool(self._ready) and not self._writing

    def begin_write(self) -> tuple[Mend, ...]:
        """What goes with the next transaction."""
        self._forget_trimmed()
        self._writing = tuple(self._ready)
        return tuple(self._ready[index][0] for index in self._writing)

    def end_write(self) -> None:
        """The copies are on disk."""
        for index in self._writing:
            _, sender = self._ready.pop(index, (None, None))
            if self._wanted.pop(index, None) is not None:
                self._news.append((News.MENDED, index, sender))
        self._writing = ()

    # -------------------------------------------------------------------------------------------------- who may have it
    def answer(self, wanted: Wanted) -> Copy:
        """What is stored here, if it was applied and can be read; else a copy of nothing."""
        index = wanted.index
        try:
            if index <= self._store.applied():
                row = layout.encode_record(self._store.record(index))
                return Copy(wanted.term, index, ((_RECORD, row),), (self._store.entry(index),))
        except KeyError:
            pass  # not here, or trimmed
        except CorruptEntry:
            self.want(index)
        return Copy(wanted.term, index)


def _mend_in(copy: Copy) -> Mend | None:
    """What ``copy`` has for its index, if all of it is sound."""
    if [entry.index for entry in copy.entries] != [copy.index] or [key for key, _ in copy.rows] != [_RECORD]:
        return None
    try:
        return Mend(copy.entries[0], layout.decode_record(copy.index, copy.rows[0][1]))
    except CorruptEntry:
        return None
