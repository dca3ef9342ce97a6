"""A publisher: messages in, acknowledgements out. Users' side of a producer; `pump` does the work behind it.

`Client.publish` uses one of these that never stops; `Client.publisher` makes one for bulk that stops at the first
failure.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from lanyinglog import record, service
from lanyinglog.client.acks import Pending, raise_again
from lanyinglog.client.heap import keep_freed_memory
from lanyinglog.client.leader import Servers
from lanyinglog.client.outbox import BATCH_BYTES_MAX, Batch, Outbox, checked_payloads, encode, parcel_of
from lanyinglog.client.producer import WINDOW, Producer, Result
from lanyinglog.client.pump import Pump
from lanyinglog.compression import CODECS
from lanyinglog.errors import BadRequest, LanyingError, NotSent, Outcome, OutcomeUnknown
from lanyinglog.topics import check_topic

DRAFTS = 2
"""Batches that the buffer holds at least, however much is compressed into each: the next fills while one leaves."""


class BatchMessage(NamedTuple):
    """One message of a batch over several topics."""

    topic: str
    payload: bytes
    key: bytes | None = None
    headers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherSettings:
    """How a publisher batches; checked when it is made (`BadRequest`)."""

    linger: float = 0.0
    """Seconds that a batch which is not full waits for more; 0 sends what there is as soon as there is room."""
    batch_bytes: int = BATCH_BYTES_MAX
    """Encoded, and compressed if it is; what is compressed is not known before and may be a little more. A batch costs
    each node and the client nearly the same whatever is in it: 1 MiB takes in a third more than half of that does."""
    batch_messages: int = record.MESSAGES_MAX
    batches_in_flight: int = WINDOW
    buffer_bytes: int = 8 << 20
    """Messages waiting to be sent (P8); beyond it senders wait."""
    compression: str | None = None
    """``lz4``, ``zstd`` or None: of each run in a batch (`compression`)."""
    stop_at_failure: bool = True

    def __post_init__(self) -> None:
        bounds: tuple[tuple[str, float, float], ...] = (
            ("linger", 0, 60),
            ("batch_bytes", 1, BATCH_BYTES_MAX),
            ("batch_messages", 1, record.MESSAGES_MAX),
            ("batches_in_flight", 1, WINDOW),
            ("buffer_bytes", 1, 1 << 40),
        )
        for name, low, high in bounds:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise BadRequest(f"{name} must be {low} to {high}, not {value!r}")
        if self.compression is not None and self.compression not in CODECS:
            raise BadRequest(f"compression must be None or one of {', '.join(CODECS)}, not {self.compression!r}")


class Publisher:
    """Sends messages in order (P5), batched and pipelined. Made by `Client.publisher`; use it with ``async with``.

    Leaving the block waits until everything is settled and raises the first failure. A publisher stops at its first
    failure: nothing behind the failed batch is stored, so what is stored is a prefix of what was sent. The rest fails
    in the same step, and whatever is sent later raises the failure. What ``on_ack`` raises is such a failure, and so is
    a defect in here: it harms no other publisher of the client.
    """

    def __init__(
        self,
        servers: Servers,
        tasks: TaskGroup,
        settings: PublisherSettings,
        *,
        timeout: float,
        on_ack: Callable[[service.Ack], None] | None = None,
        new_id: Callable[[], bytes] = lambda: os.urandom(16),
    ) -> None:
        self._servers = servers
        self._tasks = tasks
        self._settings = settings
        self._timeout = timeout
        self._on_ack = on_ack
        keep_freed_memory()
        self._compression = CODECS[settings.compression or "none"]
        self._outbox = Outbox(
            batch_bytes=settings.batch_bytes,
            batch_messages=settings.batch_messages,
            plain_bytes_max=settings.buffer_bytes // DRAFTS,
            linger_s=settings.linger,
            compression=self._compression,
        )
        self._producer: Producer[Batch] = Producer(
            new_id=new_id, window=settings.batches_in_flight, stop_at_failure=settings.stop_at_failure
        )
        self._pump = Pump(servers, self._outbox, self._producer, self._note)
        self._scope = anyio.CancelScope()
        self._stopped = anyio.Event()
        self._stopped.set()  # unset while `_run` runs
        self._failure: Exception | None = NotSent("the publisher is not open: use it with `async with`")
        # Why nothing more is taken in: the failure, or that it was closed without one.
        self._refusal: Exception | None = self._failure
        self._settled = 0  # messages, acknowledged or failed
        self._yield_due = False  # a batch was closed: let the pump take it
        self.acknowledged = 0
        """Messages acknowledged so far."""
        self.first_seq: int | None = None
        """The least seq acknowledged."""
        self.last_seq: int | None = None
        """The greatest seq acknowledged."""

    # ------------------------------------------------------------------------------------------------- life
    async def __aenter__(self) -> Self:
        try:
            self._tasks.start_soon(self._run)
        except RuntimeError as error:  # the client's task group has ended
            raise NotSent("the client is closed") from error
        self._stopped = anyio.Event()
        self._failure = self._refusal = None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Stop at once. What is unsettled fails: unknown if it was sent, else definite."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._stopped.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    if self._settings.stop_at_failure:
                        tasks.start_soon(self._watch_progress)
                    await self._pump.run()
        except Exception as error:  # a defect: this publisher's owner hears of it, and the client goes on
            self._fail(cause := _cause_of(error), f"the publisher ended: {cause!r}")
        finally:
            # Also if the client was closed around it: whoever waits must hear of it. That it is closed is no failure of
            # what was sent: what becomes of that is what its batches are settled with (`_note`).
            self._refusal = self._refusal or NotSent("the publisher is closed")
            self._pump.stop(self._refusal, "the publisher was closed")
            self._stopped.set()

    def _fail(self, failure: Exception, reason: str) -> None:
        """Stop for ``failure``, if it is the first."""
        if self._failure is None:
            self._failure = failure
            self._refusal = self._refusal or failure
            self._pump.stop(self._refusal, reason)

    async def _watch_progress(self) -> None:
        """Gives up when nothing was settled for ``timeout`` although something was due all that time."""
        settled, since = self._settled, math.inf
        while True:
            await anyio.sleep(min(0.5, self._timeout / 4))
            now = anyio.current_time()
            if not self._pump.is_due:
                since = math.inf
            elif settled != self._settled or since == math.inf:
                settled, since = self._settled, now
            elif now - since > self._timeout:
                self._pump.give_up(self._too_late())

    def _too_late(self) -> str:
        return f"no acknowledgement within {self._timeout:g} s: {self._servers.last_problem}"

    def _note(self, batch: Batch, result: Result) -> None:
        """A batch was settled."""
        self._yield_due = False  # others had their turn
        if isinstance(result, LanyingError):
            self._note_failure(result)
        else:
            self._note_ack(result)
        self._settled += batch.count  # last: who sees in another thread that all is settled sees what failed, too

    def _note_failure(self, failure: LanyingError) -> None:
        if not self._settings.stop_at_failure:
            return
        if failure.outcome is Outcome.UNKNOWN and isinstance(self._failure, NotSent):
            # It must not be said that nothing can be stored when that is so of some only (P7).
            if self._refusal is self._failure:
                self._refusal = failure
            self._failure = failure
        self._fail(failure, f"a batch before it failed: {failure.message}")

    def _note_ack(self, result: service.Ack) -> None:
        last_seq = result.first_seq + result.count - 1
        self.acknowledged += result.count
        self.first_seq = result.first_seq if self.first_seq is None else min(self.first_seq, result.first_seq)
        self.last_seq = last_seq if self.last_seq is None else max(self.last_seq, last_seq)
        if self._on_ack is not None and self._failure is None:
            try:
                self._on_ack(result)
            except Exception as error:  # the user's: raised where the user is, and nowhere else
                self._fail(error, f"on_ack raised {error!r}")

    # ------------------------------------------------------------------------------------------------- sending
    async def send(
        self, topic: str, payload: bytes, *, key: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Pending:
        """Queue one message; returns when it is queued. Awaiting the `Pending` gives its `Ack`.

        Waits only while the queue is full. Raises what is wrong with the message (`BadTopic`, `BadBatch`,
        `TypeError`), or the failure that stopped the publisher.
        """
        await self.wait_room()
        pending = Pending(1)
        self.wake_if(self.add(topic, payload, key=key, headers=headers, pending=pending))
        return pending

    async def send_many(self, topic: str, payloads: Sequence[bytes]) -> None:
        """Queue ``payloads`` as messages of one topic: the cheapest way in. See `send`; `flush` tells how it went."""
        await self.wait_room()
        self.wake_if(self.add_many(topic, payloads))

    def wake_if(self, news: bool) -> None:
        # Nothing is awaited behind an `add`: a caller who is cancelled knows that his message was not queued.
        if news:
            self._yield_due = True
            self._pump.wake()

    async def wait_room(self) -> None:
        """Returns when the queue is below its bound. Raises the failure that stopped the publisher."""
        if self._yield_due:
            self._yield_due = False
            await anyio.lowlevel.checkpoint()
        while self.is_full and self._refusal is None:
            await self._pump.wait_progress()
        self._raise_refusal()

    async def flush(self) -> None:
        """Returns when everything sent so far is acknowledged; raises the failure that stopped the publisher, or of
        what was under way when it was closed: `OutcomeUnknown` if any of that may be stored."""
        until = self._outbox.added
        self._pump.hurry += 1
        self._pump.wake()
        try:
            while self._settled < until and self._failure is None:
                await self._pump.wait_progress()
        finally:
            self._pump.hurry -= 1
        self.raise_failure()

    @property
    def is_full(self) -> bool:
        """Whether senders have to wait."""
        return self._outbox.bytes >= self._settings.buffer_bytes

    def raise_failure(self) -> None:
        """Raises the failure that stopped it, if one did."""
        if self._failure is not None:
            raise_again(self._failure)

    @property
    def unknown(self) -> int:
        """Messages that were given up and may be stored all the same; final once the block is left."""
        return self._pump.unknown

    def _raise_refusal(self) -> None:
        if self._refusal is not None:
            raise_again(self._refusal)

    # ------------------------------------------------------------------ for the client and its blocking twin
    # Safe from any thread; True asks for a wake-up of the pump, on the event loop's thread, if it is sleeping.
    def add(
        self,
        topic: str,
        payload: bytes,
        *,
        key: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        pending: Pending | None = None,
    ) -> bool:
        """Queue one message, full or not."""
        self._raise_refusal()
        return self._outbox.add(parcel_of(topic, payload, key, headers, pending))

    def add_many(self, topic: str, payloads: Sequence[bytes], pending: Pending | None = None) -> bool:
        """Queue ``payloads``, full or not."""
        self._raise_refusal()
        return self._outbox.extend(check_topic(topic), *checked_payloads(topic, payloads), pending)

    def add_whole(self, messages: Sequence[BatchMessage], pending: Pending) -> bool:
        """Queue ``messages`` as one batch of its own (P3). `BadBatch` if it is over a limit."""
        self._raise_refusal()
        parcels = [parcel_of(one.topic, one.payload, one.key, one.headers, None) for one in messages]
        batch = encode(parcels, self._compression)
        self._outbox.add_whole(Batch(batch.runs, batch.count, batch.bytes, ((pending, 0, batch.count),)))
        return True

    def withdraw(self, pending: Pending) -> LanyingError:
        """Nobody waits for ``pending`` any more: drop what nobody can have stored; the error says what may become of
        the rest."""
        dropped = self._outbox.withdraw(pending)
        while (batch := self._producer.withdraw(lambda batch: batch.waits_only(pending))) is not None:
            dropped += batch.count
        self._pump.tell_progress()  # there may be room now
        return (NotSent if dropped == pending.count else OutcomeUnknown)(self._too_late())

    def raise_closed(self, error: NotSent) -> None:
        """For a `flush` that could not begin since the client is closed, as ``error`` says: raises what became of what
        was sent, or ``error`` if nothing was; returns if all of it is acknowledged."""
        if self._settled < self._outbox.added:
            raise OutcomeUnknown(error.message)  # it is just being settled
        if self._failure is not None or not self._outbox.added:
            raise_again(self._failure or error)

    @property
    def needs_wake(self) -> bool:
        """Whether the pump sleeps although it could send."""
        return self._pump.sleeping and self._producer.has_room

    def wake(self) -> None:
        """Wake the pump. Only from the event loop's thread."""
        self._pump.wake()


def _cause_of(error: Exception) -> Exception:
    """The one that task groups have wrapped up."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
