"""The live end of a log: who has read all there is, and what they are sent when there is more.

A subscription at the head of the log does not wait in a task that is woken for each message. It `wait`s here; when the
log moves, one task reads the new stretch once for each filter, frames it once for all who are at the same place under
the same request id, and sends it to one after the other. Who can't be served so (its client reads slowly, its credit is
not enough, the stretch is longer than a push or no longer in memory) is sent back to its own loop, which waits for that
client alone.

Between so many subscribers the task lets others run: a commit does not wait for a thousand sockets.

While the node hears no leader the log may never move again: who waits is sent back to its own loop, which ends it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import trio

from lanyinglog.record import MESSAGES_MAX
from lanyinglog.service import LogService, Page
from lanyinglog.wire.messages import ITEM_HEAD_BYTES, encode_push

PUSH_BYTES_MAX = 256 << 10
"""A push's body: large enough that a message costs nothing, small enough that an acknowledgement behind it waits
some milliseconds on a 1 Gbit/s link."""
SERVED_AT_ONCE = 64
"""Followers served before others may run."""
CUT_OFF_CHECK_S = 0.5
"""How often it is looked whether the node still hears a leader: a part of the time after which it says so."""
_log = logging.getLogger(__name__)


class Follower(Protocol):
    """A subscription that has read all there was."""

    request: int
    filters: tuple[str, ...]

    @property
    def cursor(self) -> int:
        """Up to here it looked at the log."""

    @property
    def told(self) -> int:
        """The end of its last push."""

    def deliver(self, page: Page, frame: bytes) -> bool:
        """Send ``frame``, the push of ``page``, or, if the page has no messages, move on; False if it can't now."""

    def rouse(self) -> None:
        """It has to go on by itself."""


class Hub:
    """See the module; one for each log of a node."""

    def __init__(self, service: LogService) -> None:
        self._service = service
        self._waiting: dict[Follower, None] = {}  # in order of arrival
        self._company = trio.lowlevel.ParkingLot()  # where `run` is when nobody waits

    def add(self, follower: Follower) -> None:
        """Serve ``follower`` from now on, until it is roused or `discard` is called."""
        self._waiting[follower] = None
        if self._company:
            self._company.unpark()

    def discard(self, follower: Follower) -> None:
        """Serve it no more."""
        self._waiting.pop(follower, None)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_leader)
            await self._serve_all()

    async def _watch_leader(self) -> None:
        while True:
            await trio.sleep(CUT_OFF_CHECK_S)
            if self._service.cut_off:
                for follower in list(self._waiting):
                    self._rouse(follower)

    async def _serve_all(self) -> None:
        seen = 0
        while True:
            while not self._waiting:
                await self._company.park()
            await self._service.wait_beyond(seen)
            seen = self._service.last_seq
            waiting = list(self._waiting)
            for at in range(0, len(waiting), SERVED_AT_ONCE):
                try:
                    self._serve(waiting[at : at + SERVED_AT_ONCE])
                except Exception:
                    # Each goes on in a task of its connection, where a defect ends that connection and no other.
                    _log.exception("followers could not be served together")
                    for follower in waiting[at : at + SERVED_AT_ONCE]:
                        self._rouse(follower)
                await trio.lowlevel.checkpoint()

    def _serve(self, followers: Sequence[Follower]) -> None:
        pages: dict[tuple[int, tuple[str, ...]], Page | None] = {}
        frames: dict[tuple[int, int, int], bytes] = {}
        for follower in followers:
            if follower not in self._waiting or follower.cursor >= self._service.last_seq:
                continue
            place = (follower.cursor, follower.filters)
            if place not in pages:
                pages[place] = self._page(*place)
            page = pages[place]
            if page is None:
                self._rouse(follower)
                continue
            key = (follower.request, follower.told, id(page))
            if key not in frames:
                frames[key] = _frame(follower, page)
            if not follower.deliver(page, frames[key]) or page.through < self._service.last_seq:
                self._rouse(follower)

    def _page(self, after: int, filters: tuple[str, ...]) -> Page | None:
        """The stretch behind ``after``, if it is at hand and fits in one push."""
        page = self._service.read_now(after=after, filters=filters, messages_max=MESSAGES_MAX, bytes_max=PUSH_BYTES_MAX)
        if page is not None and page.bytes + ITEM_HEAD_BYTES * len(page.items) > PUSH_BYTES_MAX:
            return None
        return page

    def _rouse(self, follower: Follower) -> None:
        self.discard(follower)
        follower.rouse()


def _frame(follower: Follower, page: Page) -> bytes:
    if not page.items:
        return b""
    told = follower.told
    return encode_push(follower.request, prev=told, through=page.through, items=page.items, purged=page.purged)[0]
