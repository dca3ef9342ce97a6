"""What a publish gave: `Ack` for a message, `Acks` for several, `Pending` for what is not known yet."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, overload

import anyio

from lanyinglog import service
from lanyinglog.errors import LanyingError, Outcome, OutcomeUnknown

if TYPE_CHECKING:
    from lanyinglog.client.outbox import Parcel


class Ack(NamedTuple):
    """A message is on disk on a majority (P1). ``timestamp`` is nanoseconds since the epoch, unique in the log.

    ``duplicate`` tells that it was an earlier try of this client that stored it; it is stored once (P4).
    """

    seq: int
    timestamp: int
    duplicate: bool = False


class Acks(Sequence[Ack]):
    """The acknowledgements of several messages, in the order in which they were given.

    ``batches`` are the batches, or parts of batches, they went in: all of one batch became visible together (P3).
    """

    def __init__(self, batches: Sequence[service.Ack]) -> None:
        self.batches = tuple(batches)
        self._count = sum(batch.count for batch in self.batches)

    @property
    def first_seq(self) -> int:
        """The seq of the first message."""
        return self.batches[0].first_seq

    @property
    def last_seq(self) -> int:
        """The seq of the last message."""
        last = self.batches[-1]
        return last.first_seq + last.count - 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Ack]:
        for batch in self.batches:
            for i in range(batch.count):
                yield Ack(batch.first_seq + i, batch.timestamp + i, batch.duplicate)

    @overload
    def __getitem__(self, index: int) -> Ack: ...
    @overload
    def __getitem__(self, index: slice) -> list[Ack]: ...
    def __getitem__(self, index: int | slice) -> Ack | list[Ack]:
        if isinstance(index, slice):
            return list(self)[index]
        if index < 0:
            index += self._count
        for batch in self.batches:
            if 0 <= index < batch.count:
                return Ack(batch.first_seq + index, batch.timestamp + index, batch.duplicate)
            index -= batch.count
        raise IndexError("there are not so many acknowledgements")

    def __repr__(self) -> str:
        parts = ", ".join(f"{batch.first_seq}..{batch.first_seq + batch.count - 1}" for batch in self.batches)
        return f"<Acks of {self._count} messages: {parts}>"


class Pending:
    """``count`` messages on their way; ``await`` it for the `Ack` of the first, or its error.

    Only the event loop's thread settles and waits; any may look at `done`."""

    __slots__ = ("_acks", "_error", "_event", "_left", "count", "queued")

    def __init__(self, count: int) -> None:
        self.count = count
        self.queued: Parcel | None = None
        """The newest of its parcels that wait in an `outbox`, whose field this is."""
        self._left = count
        self._acks: list[service.Ack] = []
        self._error: LanyingError | None = None
        self._event: anyio.Event | None = None

    @property
    def done(self) -> bool:
        """Whether the outcome of all messages is known."""
        return self._left == 0

    def settle(self, count: int, result: service.Ack | LanyingError) -> None:
        """The next ``count`` messages were acknowledged, as ``result`` says, or failed with that error."""
        if isinstance(result, LanyingError):
            # One part that may be stored makes the whole unknown (P7).
            if self._error is None or (result.outcome is Outcome.UNKNOWN and self._error.outcome is Outcome.DEFINITE):
                self._error = result
        else:
            self._acks.append(result)
        self._left -= count
        if self._left == 0 and self._event is not None:
            self._event.set()

    def __await__(self) -> Generator[Any, Any, Ack]:
        return self.wait().__await__()

    async def wait(self) -> Ack:
        """The acknowledgement of the (first) message; raises the `LanyingError` that says how it ended."""
        return (await self.wait_all())[0]

    async def wait_all(self) -> Acks:
        """The acknowledgements, in order; raises the `LanyingError` of the first part that failed, or
        of one that may be stored all the same."""
        if self._left:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()
        return self.result()

    def result(self) -> Acks:
        """What `wait_all` returns or raises, once `done`."""
        assert self._left == 0, "not settled yet"
        if self._error is None:
            return Acks(self._acks)
        stored = sum(ack.count for ack in self._acks)
        if stored:
            raise OutcomeUnknown(f"{stored} of {self.count} messages are stored; of the others: {self._error.message}")
        raise copy_of(self._error) from self._error


def copy_of(error: LanyingError) -> LanyingError:
    """``error`` for one more caller: one exception that is raised twice would collect the tracebacks of both."""
    copy = type(error)(error.message, hint=error.hint)
    copy.outcome = error.outcome
    return copy


def raise_again(failure: Exception) -> NoReturn:
    """Raises ``failure``, of which more callers are to hear."""
    if isinstance(failure, LanyingError):
        raise copy_of(failure) from failure
    raise failure
