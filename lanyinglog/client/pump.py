"""The pump: one task that keeps a producer's pipeline moving, over whichever node leads.

Whenever something is unsettled it looks for the leader, and then sends, receives and watches side by side until that
connection ends; then it starts over. Results go to `settled`, who waits is told by the batches. It raises nothing but
defects: its owner settles the rest then.

A publisher's failure stops it in the step in which that is learnt: what is on its way, in the pipeline and in the
outbox is settled before anything else can be sent, and the outbox is shut.

A connection ends when either side closes it, when the node says that it no longer leads, or when the node owes an
answer and is silent (`Timing.silence_s`; asked by a ping at half of it), or answers pings and nothing else
(`Timing.stall_s`). Sending again is harmless (P4), so giving up too early costs bandwidth, never correctness.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel

from lanyinglog.client.leader import NO_PROBLEM, Servers
from lanyinglog.client.link import SEND_BYTES, Link, LinkLost
from lanyinglog.client.outbox import Batch, Outbox
from lanyinglog.client.producer import Advice, Flight, Producer, Result
from lanyinglog.client.timing import Backoff
from lanyinglog.errors import LanyingError, NotLeader, Outcome, UnknownLog
from lanyinglog.service import Ack
from lanyinglog.wire.connection import Received
from lanyinglog.wire.messages import Acked, Error, Ping, Publish

DRAIN_S = 0.1
"""After "not the leader" the answers to the other batches are awaited so long: then fewer are unknown."""


class _Slot:
    """Room for one publish and its request id: it is empty again when all of that has been sent."""

    def __init__(self) -> None:
        self._content: tuple[Publish, int] | None = None
        self._changed = anyio.Event()

    def put(self, content: tuple[Publish, int] | None) -> None:
        self._content = content
        self._changed.set()
        self._changed = anyio.Event()

    @property
    def is_full(self) -> bool:
        """Whether something is on its way."""
        return self._content is not None

    async def empty(self) -> None:
        """Returns when nothing is."""
        while self._content is not None:
            await self._changed.wait()

    async def filled(self) -> tuple[Publish, int]:
        """What is in it, as soon as there is something."""
        while self._content is None:
            await self._changed.wait()
        return self._content


class Pump:
    """Moves batches from ``outbox`` through ``producer``; calls ``settled`` for each batch, its waiters told."""

    def __init__(
        self, servers: Servers, outbox: Outbox, producer: Producer[Batch], settled: Callable[[Batch, Result], None]
    ) -> None:
        self._servers = servers
        self._timing = servers.timing
        self._outbox = outbox
        self._producer = producer
        self._settled = settled
        self._backoff = Backoff(servers.timing)
        self._work = anyio.Event()
        self._progress: anyio.Event | None = None  # if somebody waits for some
        self._flights: dict[int, Flight[Batch]] = {}  # request id -> what its answer is about
        self._large = _Slot()
        self._leaving = False
        self._ping_due = False
        self._pause_s = 0.0
        self._owed_since = 0.0  # when the node came to owe an answer
        self._answered_at = 0.0  # when it last gave one
        self.hurry = 0
        """Above 0 nothing lingers: someone waits for all of it."""
        self.sleeping = False
        """The task waits to be woken: a foreign thread that put something into the outbox must call `wake`."""
        self.unknown = 0
        """Messages settled that may be stored although nobody acknowledged them (P7)."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is unsettled."""
        return self._outbox.messages == 0 and self._producer.unsettled == 0

    @property
    def is_due(self) -> bool:
        """Whether something is unsettled that no linger holds back."""
        return self._producer.unsettled > 0 or self._outbox.ready_in(hurry=self.hurry > 0) == 0.0

    def wake(self) -> None:
        """There is something to send, or to send sooner. Only from the event loop's thread."""
        self._work.set()

    async def wait_progress(self) -> None:
        """Returns when the next answers have come, or something has left the outbox."""
        if self._progress is None:
            self._progress = anyio.Event()
        await self._progress.wait()

    def deliver(self) -> None:
        """Hand on what the pipeline has settled; ``settled`` may call `stop`."""
        settled = self._producer.take_settled()
        for batch, result in settled:
            batch.settle(result)  # first all of these: whatever comes of a callback, nobody waits in vain
            if isinstance(result, LanyingError) and result.outcome is Outcome.UNKNOWN:
                self.unknown += batch.count
        for batch, result in settled:
            self._settled(batch, result)
        self.tell_progress()

    def tell_progress(self) -> None:
        """Wake whoever waits for some: something was settled, or there is room."""
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    def give_up(self, reason: str, *, unsent: LanyingError | None = None) -> None:
        """Settle everything: unknown if it may be stored, else definite (``unsent``, or `NotSent`)."""
        for batch in self._outbox.drain():
            self._producer.push(batch)
        self._producer.give_up(reason, unsent=unsent)
        self.deliver()

    def stop(self, failure: Exception, reason: str) -> None:
        """`give_up`, for good: whoever adds to the outbox gets ``failure``."""
        for batch in self._outbox.shut(failure):
            self._producer.push(batch)
        self._producer.stop(reason)
        self.deliver()

    # ------------------------------------------------------------------------------------------------------- task
    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            while self.is_idle:
                await self._sleep_until_work()
            try:
                link = await self._servers.open_leader()
            except LanyingError as error:  # no node speaks this client's protocol, or there is no such log
                self.give_up(error.message, unsent=error if isinstance(error, UnknownLog) else None)
                continue
            await self._drive(link)
            await anyio.sleep(self._backoff.next_s())

    async def _drive(self, link: Link) -> None:
        """Everything on one connection, until it ends."""
        self._flights.clear()
        self._leaving = self._ping_due = False
        self._pause_s = 0.0
        self._large = _Slot()
        try:
            async with anyio.create_task_group() as tasks:
                for work in (self._send, self._write, self._receive, self._watch):
                    tasks.start_soon(self._until_lost, work, link, tasks.cancel_scope)
        finally:
            self._servers.doubt(link.address)
            self._producer.link_lost()
            await link.aclose()

    async def _until_lost(
        self, work: Callable[[Link], Awaitable[None]], link: Link, connection: anyio.CancelScope
    ) -> None:
        """One of the tasks of a connection; whichever ends first ends the others."""
        try:
            await work(link)
        except LinkLost as error:
            self._servers.last_problem = str(error)
        connection.cancel()

    async def _sleep_until_work(self, ready_in: Callable[[], float | None] = lambda: None) -> None:
        """Waits to be woken, or until ``ready_in``, seconds or None for never, is over."""
        # First the flag, then another look: a foreign thread first adds, then looks at the flag. None is missed.
        self.sleeping = True
        limit_s = ready_in()
        if limit_s != 0.0 and (limit_s is not None or self._outbox.messages == 0 or not self._producer.has_room):
            if limit_s is None:
                await self._work.wait()
            else:
                with anyio.move_on_after(limit_s):
                    await self._work.wait()
        self.sleeping = False
        self._work = anyio.Event()

    # ------------------------------------------------------------------------------------------------- connection
    async def _send(self, link: Link) -> None:
        while not self._leaving:
            if self._pause_s:
                await anyio.sleep(self._pause_s)
                self._pause_s = 0.0
            if self._ready_in() == 0.0:
                self._take_batch()
            if self._large.is_full:
                await self._large.empty()
                if self._leaving or self._pause_s:
                    continue
            if self._ping_due:
                self._ping_due = False
                await link.send(Ping(), link.new_request())
            flight = self._next_flight()
            if flight is None:
                await self._sleep_until_work(self._ready_in)
                continue
            request = link.new_request()
            self._flights[request] = flight
            publish = Publish(flight.encoded, self._servers.log)
            if len(flight.encoded) <= SEND_BYTES:
                await link.send(publish, request)
            else:
                self._large.put((publish, request))
                await anyio.lowlevel.checkpoint()  # it begins to leave before the next is made
        await anyio.sleep(DRAIN_S)

    async def _write(self, link: Link) -> None:
        """Send what takes a while, so that meanwhile the next batch is encoded."""
        while True:
            await link.send(*await self._large.filled())
            self._large.put(None)

    def _ready_in(self) -> float | None:
        """Seconds until there is a batch that the pipeline has room for; None if that takes something else."""
        if not self._producer.has_room:
            return None
        return self._outbox.ready_in(hurry=self.hurry > 0, company=self._producer.awaits_answer)

    def _take_batch(self) -> None:
        """Have the next batch encoded. It may still be withdrawn: it gets its number when it is its turn."""
        batch = self._outbox.take()
        if batch is not None:
            self._producer.push(batch)
            self.tell_progress()

    def _next_flight(self) -> Flight[Batch] | None:
        owed = self._producer.awaits_answer
        flight = self._producer.next_send()
        if flight is not None and not owed:
            self._owed_since = anyio.current_time()
        if self._producer.has_settled:
            self.deliver()
        return flight

    async def _receive(self, link: Link) -> None:
        while not (self._leaving and not self._producer.awaits_answer):
            try:
                for received in await link.receive():
                    self._take_answer(link, received)
            finally:
                self.deliver()  # also what came before an answer that ends the connection
            if self._outbox.messages or self._producer.has_to_send or self._leaving:
                self._work.set()

    def _take_answer(self, link: Link, received: Received) -> None:
        flight = self._flights.pop(received.request, None)
        if flight is None:
            return  # a pong
        self._answered_at = anyio.current_time()
        if isinstance(received.message, Acked):
            message = received.message
            self._backoff.reset()
            self._servers.last_problem = NO_PROBLEM
            ack = Ack(message.first_seq, message.count, message.timestamp, message.duplicate)
            self._producer.acked(flight, ack)
        elif isinstance(received.message, Error):
            self._take_failure(flight, received.message)
        else:
            raise LinkLost(f"{link.address} answered a publish with {received.message.NAME}")

    def _take_failure(self, flight: Flight[Batch], answer: Error) -> None:
        error = answer.exception()
        if isinstance(error, NotLeader):
            self._servers.leader = self._servers.learn(error.hint)
        advice = self._producer.failed(flight, error, answer.outcome)
        if advice is Advice.PAUSE:
            self._pause_s = self._backoff.next_s()
        elif advice is Advice.LEAVE:
            self._servers.last_problem = error.message
            self._leaving = True

    async def _watch(self, link: Link) -> None:
        silence_s, stall_s = self._timing.silence_s, self._timing.stall_s
        asked = False
        while True:
            await anyio.sleep(silence_s / 8)
            now = anyio.current_time()
            silent_s = now - max(link.heard_at, self._owed_since)
            if not self._producer.awaits_answer or silent_s < silence_s / 2:
                asked = False
            elif silent_s >= silence_s:
                raise LinkLost(f"{link.address} was silent for {silent_s:.1f} s")
            elif not asked:
                asked = self._ping_due = True
                self._work.set()
            if self._producer.awaits_answer and now - max(self._answered_at, self._owed_since) > stall_s:
                raise LinkLost(f"{link.address} acknowledged nothing for {stall_s:g} s")
