"""A subscription's place in the log, without I/O: what to ask a node for, and whether what it sends is what comes next.

This file decides promise P2 on the client's side: a subscriber sees every message once, in order, whatever happens to
connections. `Cursor` is a pure state machine: report what a node said (`subscribed`, `pushed`), take messages out
(`take`), and, after a lost connection, ask the next node for `start`.

Invariants
1. ``through`` is the last seq that is dealt with: all matching messages up to it have been handed out, none above it.
   A resumed subscription begins at ``through + 1`` exactly.
2. Each push begins where the one before it on its connection ended (``prev``); a gap or a step back is a
   `ContinuityError`, never skipped over. If nothing is filtered out, the messages must also count up without a gap.
3. Runs come whole, so the first of a connection may begin at or below ``through``: those messages are dropped here.
4. Runs are decoded when they are taken, a few at a time: a push of 256 KiB may unfold to many MiB.
5. A node that is behind takes the end of what it has for the place of a time, or one after it; so what is older than
   the time that was asked for is dropped here, on every connection, until the first message that is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from lanyinglog.errors import BadBatch, BadRequest, ContinuityError, Trimmed
from lanyinglog.record import Message, decode_run
from lanyinglog.service import Item
from lanyinglog.topics import check_filter
from lanyinglog.wire.fields import SEQ_MAX
from lanyinglog.wire.messages import FILTERS_MAX, Origin, Push, Start, Subscribed

TAKE_MESSAGES = 4_096
"""`take` stops at the run that reaches this many messages ..."""
TAKE_BYTES = 1 << 20
"""... or so many bytes of runs: small runs are joined, large ones come alone."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def check_filters(filters: str | Sequence[str]) -> tuple[str, ...]:
    """``filters`` as a tuple; `BadTopic` or `BadRequest` says what is wrong with them."""
    names = (filters,) if isinstance(filters, str) else tuple(filters)
    if not 1 <= len(names) <= FILTERS_MAX:
        raise BadRequest(f"a subscription has 1 to {FILTERS_MAX} filters, not {len(names)}")
    for name in names:
        check_filter(name)
    return names


def parse_start(start: str | int | datetime, start_timestamp: int | None = None) -> Start:
    """Where to begin: ``first``, ``new``, a seq (from 1), a time, or ``start_timestamp`` in ns, which goes before all.

    A time without a zone is local time. `BadRequest` if it is none of these.
    """
    if start_timestamp is not None:
        return Start(Origin.TIME, _bounded("start_timestamp", start_timestamp, 0))
    if isinstance(start, datetime):
        nanoseconds = (start.astimezone(UTC) - _EPOCH) // timedelta(microseconds=1) * 1_000
        return Start(Origin.TIME, _bounded("start", nanoseconds, 0))
    if start in (Origin.FIRST.value, Origin.NEW.value):
        return Start(Origin(str(start)))
    return Start(Origin.SEQ, _bounded("start", start, 1))


def parse_until(until: str | int | None) -> int | None:
    """The seq to end behind; None for no end, and for ``last``, which only a node can tell. `BadRequest`."""
    return None if until is None or until == "last" else _bounded("until", until, 0)


def _bounded(name: str, value: object, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= SEQ_MAX:
        words = {"start": "'first', 'new', a datetime or a seq", "until": "'last' or a seq"}.get(name, "a number")
        raise BadRequest(f"{name} must be {words} of {low} to {SEQ_MAX}, not {value!r}")
    return value


class Cursor:
    """See the module. ``until`` is the last seq that is wanted, None for no end."""

    def __init__(self, filters: Sequence[str], start: Start, *, until: int | None = None) -> None:
        self.filters = tuple(filters)
        self.until = until
        self.through: int | None = None
        """The last seq that is dealt with; None until a node said where the subscription begins."""
        self.last_seq = 0
        """The newest message that the node had when the subscription began on it."""
        self._start = start
        self._since: int | None = start.value if start.origin is Origin.TIME else None  # until a message is as new
        self._has_begun = False  # something was pushed
        self._is_dense = ">" in self.filters
        self._told = 0  # the end of the last push of this connection
        self._purged = 0  # messages it said to be purged, less those found missing
        self._pushes: deque[Push] = deque()
        self._items: deque[Item] = deque()  # of the first of them

    @property
    def is_done(self) -> bool:
        """Whether everything that is wanted has been handed out."""
        return self.until is not None and self.through is not None and self.through >= self.until

    @property
    def start(self) -> Start:
        """Where a subscription on a new connection is to begin."""
        return self._start if self.through is None else Start(Origin.SEQ, self.through + 1)

    def begin_again(self) -> bool:
        """The node says that what it was to begin with has been trimmed meanwhile: whoever asked for no seq, and has
        seen nothing yet, begins with what there is now. Whether that is so; `start` then says what it said at first."""
        if self._has_begun or self._start.origin not in (Origin.FIRST, Origin.TIME):
            return False
        self.through = None
        return True

    def begin_behind(self, seq: int) -> None:
        """ "New" means behind ``seq``, wherever the node that is asked first may be."""
        assert self.through is None and self._start.origin is Origin.NEW
        self._start = Start(Origin.SEQ, seq + 1)

    # --------------------------------------------------------------------------------------------- what a node said
    def subscribed(self, reply: Subscribed) -> None:
        """A new connection's subscription begins. What was left of the one before will come again."""
        self._pushes.clear()
        self._items.clear()
        begins_at = reply.next_seq
        asked = self.through + 1 if self.through is not None else self._start.value
        if self.through is not None or self._start.origin is Origin.SEQ:
            if begins_at < asked:
                raise ContinuityError(f"asked for seq {asked}, the node begins at {begins_at}")
            if begins_at > asked:
                raise Trimmed(
                    f"messages {asked} to {begins_at - 1} are not kept any more: the log begins at {begins_at}",
                    hint=str(begins_at),
                )
        self.through = begins_at - 1
        self._told = begins_at - 1
        self._purged = 0
        self.last_seq = reply.last_seq

    def pushed(self, push: Push) -> None:
        """The next push of this connection. `ContinuityError` if it does not join the one before."""
        assert self.through is not None, "a push comes behind `subscribed`"
        if push.prev != self._told:
            raise ContinuityError(f"a push goes on behind seq {push.prev}, the one before it ended at {self._told}")
        if self._is_dense:
            self._check_dense(push)
        self._has_begun = True
        self._told = push.through
        self._pushes.append(push)
        if len(self._pushes) == 1:
            self._items.extend(push.items)

    def _check_dense(self, push: Push) -> None:
        """Nothing is filtered out: every seq between must be there, or was said to be purged."""
        last = push.prev
        self._purged += push.purged
        for item in push.items:
            self._purged -= max(0, item.first_seq - last - 1)
            if self._purged < 0:
                raise ContinuityError(f"seq {last + 1} to {item.first_seq - 1} are missing from a push")
            last = item.first_seq + item.count - 1
        self._purged -= push.through - last
        if self._purged < 0:
            raise ContinuityError(f"a push ends at seq {push.through}, its messages at {last}")

    # ----------------------------------------------------------------------------------------------------- messages
    def take(self) -> list[Message]:
        """The next messages; none if more has to come from a node. `BadBatch` if a run can't be decoded: then the
        place stays before it, and a new connection has to begin there."""
        taken: list[Message] = []
        size = 0
        before = self.through or 0
        while self._pushes and not self.is_done and len(taken) < TAKE_MESSAGES and size < TAKE_BYTES:
            if not self._items:
                self._end_push()
                continue
            item = self._items[0]
            try:
                wanted = self._wanted(item)
            except BadBatch:
                if taken:
                    break  # first what is in order; the damaged run is met again
                self._pushes.clear()
                self._items.clear()
                raise
            if wanted:
                taken += wanted
                size += len(item.run)
            self._items.popleft()
            self.through = item.first_seq + item.count - 1
        if self._pushes and not self._items:
            self._end_push()
        if self.until is not None and self.through is not None and before <= self.until < self.through:
            self.through = self.until  # what matches behind it was not handed out: whoever goes on begins there
        return taken

    def _end_push(self) -> None:
        self.through = self._pushes.popleft().through
        if self._pushes:
            self._items.extend(self._pushes[0].items)

    def _wanted(self, item: Item) -> list[Message]:
        assert self.through is not None
        last = item.first_seq + item.count - 1
        too_old = 0 if self._since is None else max(0, self._since - item.timestamp)
        if too_old >= item.count:
            return []
        try:
            messages = decode_run(item.run, first_seq=item.first_seq, timestamp=item.timestamp)
        except BadBatch as error:
            raise BadBatch(f"messages {max(item.first_seq, self.through + 1)} to {last}: {error.message}") from error
        self._since = None
        skip = max(too_old, self.through + 1 - item.first_seq)
        if self.until is not None and last > self.until:
            return messages[skip : max(skip, self.until + 1 - item.first_seq)]
        return messages[skip:] if skip else messages
