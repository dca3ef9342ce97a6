"""One subscription of one connection: history, then the live log, in one loop without a seam.

The loop reads the stretch behind its cursor. At the end of the log it waits in the `hub`, which sends on from that same
cursor, or sends it back here. Both read with one cursor from one log, so there is no switch from history to live in
which a message could be lost or doubled.

Invariants
1. ``told`` is the `through` of the last push; the next push has it as `prev` and so covers ``told + 1 .. through``.
2. A push with messages leaves only while both credits are above 0; it may overdraw them by less than one push.
3. A push is at most `PUSH_BYTES_MAX`, or one run.

A filter may match nothing for long. So that its subscriber knows how far the log was looked through (to resume there,
or to stop at a seq), an empty push tells it: when the subscription reaches the newest message there was when it
began, and afterwards at most once every `PROGRESS_S`.

A node that hears no leader serves what it has, and then ends the subscription (`NoLeader`): nothing more may ever come
here, and its subscriber would wait for ever while other nodes have more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import trio

from lanyinglog.errors import ContinuityError, LanyingError, NoLeader
from lanyinglog.record import MESSAGES_MAX
from lanyinglog.service import Item, LogService, Page
from lanyinglog.session.hub import PUSH_BYTES_MAX, Hub
from lanyinglog.session.outbox import Outbox
from lanyinglog.wire.messages import ITEM_HEAD_BYTES, Error, Unsubscribed, encode_push, to_frame

PROGRESS_S = 1.0
CUT_OFF = "this node hears no leader"


class Subscription:
    """See the module. ``next_seq`` is where it begins, ``last_seq`` the high watermark at that time.

    ``turn`` is shared by the subscriptions of a connection: who holds it reads a page and hands it to the writer. It
    is fair, so each gets its push in turn, and a connection holds few pages in memory, many subscriptions or not.
    """

    def __init__(
        self,
        *,
        request: int,
        service: LogService,
        hub: Hub,
        filters: Sequence[str],
        next_seq: int,
        last_seq: int,
        credit_messages: int,
        credit_bytes: int,
        outbox: Outbox,
        turn: trio.Lock,
    ) -> None:
        self.request = request
        self._service = service
        self._hub = hub
        self.filters = tuple(filters)
        self.cursor = next_seq - 1  # all up to here was looked at
        self.told = next_seq - 1
        self._catch_up_seq: int | None = last_seq  # until it was reached
        self._purged = 0  # messages that no push has told to be missing
        self._told_at = trio.current_time()
        self._credit_messages = credit_messages
        self._credit_bytes = credit_bytes
        self._credit_given = trio.lowlevel.ParkingLot()
        self._outbox = outbox
        self._turn = turn
        self._scope = trio.CancelScope()
        self._roused = trio.Event()
        self._patience = trio.CancelScope()  # of the wait at the head; ends when progress is to be told

    def give(self, messages: int, size: int) -> None:
        """More credit, in messages and bytes of push bodies."""
        self._credit_messages += messages
        self._credit_bytes += size
        self._credit_given.unpark()

    def cancel(self) -> None:
        """End it; `run` then says `Unsubscribed`, behind its last push."""
        self._scope.cancel()

    async def run(self) -> None:
        """Push until cancelled, or until the log can't be read: that ends as an `Error` for this request."""
        try:
            with self._scope:
                while True:
                    await self._step()
        except LanyingError as error:
            self._outbox.put_reply(to_frame(Error.of(error), self.request))
            if self._scope.cancel_called:  # a read may fail just then: who unsubscribed is still owed the answer
                self._outbox.put_reply(to_frame(Unsubscribed(), self.request))
        else:
            self._outbox.put_reply(to_frame(Unsubscribed(), self.request))

    async def _step(self) -> None:
        while not self._has_credit:
            await self._credit_given.park()
        if self._service.last_seq <= self.cursor:
            await self._step_at_head()
            return
        async with self._turn:
            page = await self._service.read(
                after=self.cursor,
                filters=self.filters,
                messages_max=min(self._credit_messages, MESSAGES_MAX),
                bytes_max=min(self._credit_bytes, PUSH_BYTES_MAX),
            )
            if page.through < self.cursor:
                raise ContinuityError(f"a page behind {self.cursor} ends at {page.through}")
            await self._push_page(page)

    @property
    def _has_credit(self) -> bool:
        return self._credit_messages > 0 and self._credit_bytes > 0

    # ------------------------------------------------------------------------------------------- at the head of the log
    async def _step_at_head(self) -> None:
        cut_off = self._service.cut_off
        is_due = self.cursor > self.told if cut_off else await self._progress_came()
        if is_due:
            async with self._turn:
                await self._push((), self.cursor)
        if cut_off:
            raise NoLeader(CUT_OFF)

    async def _progress_came(self) -> bool:
        """Lets the hub send until it can't; True if it is time to tell about progress."""
        self._roused = trio.Event()
        self._patience = trio.CancelScope()
        self._limit_patience()
        self._hub.add(self)
        try:
            with self._patience:
                await self._roused.wait()
        finally:
            self._hub.discard(self)
        return self._patience.cancelled_caught

    def _limit_patience(self) -> None:
        if self.cursor > self.told:
            self._patience.deadline = self._told_at + PROGRESS_S

    def rouse(self) -> None:
        """The hub can't go on."""
        self._roused.set()

    def deliver(self, page: Page, frame: bytes) -> bool:
        """See `hub.Follower`."""
        if not page.items:
            if self._catch_up_seq is not None:
                return False  # that it has caught up is to be told
            self.cursor = page.through
            self._purged += page.purged
            self._limit_patience()
            return True
        size = page.bytes + ITEM_HEAD_BYTES * len(page.items)
        fits = page.messages <= self._credit_messages and size <= self._credit_bytes
        if not fits or self._purged or not self._outbox.try_push(frame):
            return False
        self._has_told(page.through, page.messages, size)
        return self._has_credit

    async def _push_page(self, page: Page) -> None:
        """The page as pushes, as far as credit goes; the rest is read again when there is more."""
        self._purged += page.purged
        for items, is_last in _portions(page.items):
            through = page.through if is_last else _last_seq(items[-1])
            await self._push(items, through)
            if not self._has_credit:
                return
        if not page.items:
            self.cursor = page.through
            if self._progress_is_due:
                await self._push((), self.cursor)
            else:
                await trio.lowlevel.checkpoint()  # pages may come from memory: let others run between them

    @property
    def _progress_is_due(self) -> bool:
        caught_up = self._catch_up_seq is not None and self.cursor >= self._catch_up_seq
        return self.cursor > self.told and (caught_up or trio.current_time() >= self._told_at + PROGRESS_S)

    async def _push(self, items: Sequence[Item], through: int) -> None:
        purged, self._purged = self._purged, 0
        frame, messages, size = encode_push(self.request, prev=self.told, through=through, items=items, purged=purged)
        self._has_told(through, messages, size)
        await self._outbox.put_push(frame)

    def _has_told(self, through: int, messages: int, size: int) -> None:
        self.told = self.cursor = through
        self._told_at = trio.current_time()
        self._patience.deadline = math.inf
        self._credit_messages -= messages
        self._credit_bytes -= size
        if self._catch_up_seq is not None and through >= self._catch_up_seq:
            self._catch_up_seq = None


def _last_seq(item: Item) -> int:
    return item.first_seq + item.count - 1


def _portions(items: Sequence[Item]) -> Iterator[tuple[Sequence[Item], bool]]:
    """``items`` cut so that each portion's body is at most `PUSH_BYTES_MAX` or one item; and whether it is the last."""
    start = size = 0
    for place, item in enumerate(items):
        item_bytes = ITEM_HEAD_BYTES + len(item.run)
        if place > start and size + item_bytes > PUSH_BYTES_MAX:
            yield items[start:place], False
            start, size = place, 0
        size += item_bytes
    if items:
        yield items[start:], True
