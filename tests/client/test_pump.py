"""What the pump does beside what: a large batch on its way to the node holds up neither senders nor the next batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import anyio
import pytest
from client.loopback import QUICK
from client.test_client import go

from lanyinglog.client.leader import Servers
from lanyinglog.client.link import SEND_BYTES, Link
from lanyinglog.client.publisher import Publisher, PublisherSettings
from lanyinglog.config import Address
from lanyinglog.errors import NotSent, OutcomeUnknown
from lanyinglog.service import Ack
from lanyinglog.wire.connection import Received
from lanyinglog.wire.messages import Acked, Message, Publish

ADDRESS = Address("127.0.0.1", 1)
PATIENT = replace(QUICK, silence_s=60, stall_s=60)
LARGE = b"x" * (SEND_BYTES + 1)


class SlowLink:
    """A connection to a node that takes one publish each time it is ``allowed`` to, and answers when it ``answers``."""

    address = ADDRESS

    def __init__(self, *, answers: bool) -> None:
        self.begun: list[Publish] = []
        self.sent: list[Publish] = []
        self.allowed = anyio.Semaphore(0)
        self.heard_at = anyio.current_time()
        self._answers = answers
        self._requests = 0
        self._unanswered: list[int] = []
        self._taken = anyio.Event()

    def new_request(self) -> int:
        self._requests += 1
        return self._requests

    async def send(self, message: Message, request: int) -> None:
        assert isinstance(message, Publish)
        assert len(self.begun) == len(self.sent), "two frames at a time on one connection"
        self.begun.append(message)
        await self.allowed.acquire()
        self.sent.append(message)
        self._unanswered.append(request)
        self._taken.set()

    async def receive(self) -> list[Received]:
        while not self._answers or not self._unanswered:
            await self._taken.wait()
            self._taken = anyio.Event()
        request = self._unanswered.pop(0)
        return [Received(request, Acked(request, 1, request, False))]

    async def aclose(self) -> None:
        pass


class OneServer(Servers):
    """A cluster of that one node."""

    def __init__(self, link: SlowLink) -> None:
        super().__init__([ADDRESS], log="main", timing=PATIENT)
        self._link = link

    async def open_leader(self) -> Link:
        return cast(Link, self._link)


async def settled(condition: Any) -> None:
    """Returns when ``condition`` holds; a test that waits for ever is ended by `go`."""
    while not condition():
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def publishing(link: SlowLink, **settings: Any) -> AsyncIterator[Publisher]:
    """A publisher with each message a batch; at the end it is stopped, whatever is settled."""
    async with anyio.create_task_group() as tasks:
        on_ack = settings.pop("on_ack", None)
        chosen = PublisherSettings(batch_bytes=1, **settings)
        async with Publisher(OneServer(link), tasks, chosen, timeout=60, on_ack=on_ack) as publisher:
            yield publisher
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("size", [1, len(LARGE)])
def test_who_waits_for_room_goes_on_when_a_batch_has_left_answered_or_not(backend: str, size: int) -> None:
    async def main() -> None:
        link = SlowLink(answers=False)
        async with publishing(link, buffer_bytes=size) as publisher:  # one message fills the queue
            for _ in range(8):
                await publisher.send("t", LARGE[:size])
                link.allowed.release()
            await settled(lambda: len(link.sent) == 8)

    go(backend, main)


def test_while_a_large_batch_is_being_sent_the_next_is_made_and_no_more(backend: str) -> None:
    async def main() -> None:
        link = SlowLink(answers=False)
        async with publishing(link) as publisher:
            for _ in range(5):
                await publisher.send("t", LARGE)
            await settled(lambda: publisher._outbox.messages == 3)  # one is on its way, one waits behind it
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert (len(link.begun), publisher._outbox.messages) == (1, 3)
            link.allowed.release()
            await settled(lambda: (len(link.begun), publisher._outbox.messages) == (2, 2))

    go(backend, main)


@pytest.mark.parametrize("sizes", [(1, len(LARGE)), (len(LARGE), 1), (1, len(LARGE), 1, 1, len(LARGE), len(LARGE), 1)])
def test_small_and_large_batches_leave_in_order_one_at_a_time(backend: str, sizes: tuple[int, ...]) -> None:
    async def main() -> None:
        link = SlowLink(answers=True)
        acks: list[Ack] = []
        async with publishing(link, on_ack=acks.append) as publisher:
            for size in sizes:
                await publisher.send("t", LARGE[:size])
                link.allowed.release()
            await publisher.flush()
        assert [len(publish.batch) > SEND_BYTES for publish in link.sent] == [size > 1 for size in sizes]
        assert [ack.first_seq for ack in acks] == list(range(1, len(sizes) + 1))

    go(backend, main)


def test_what_was_made_and_did_not_begin_to_leave_is_known_not_to_be_stored(backend: str) -> None:
    async def main() -> None:
        link = SlowLink(answers=False)
        async with publishing(link) as publisher:
            first, *others = [await publisher.send("t", LARGE) for _ in range(3)]
            await settled(lambda: publisher._outbox.messages == 1)
        with pytest.raises(OutcomeUnknown):  # half of it may have arrived, or all
            await first
        for pending in others:
            with pytest.raises(NotSent):
                await pending
        assert publisher._pump.unknown == 1

    go(backend, main)
