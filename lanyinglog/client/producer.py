"""A producer's pipeline, without I/O: which batch is sent next, under which number, and what became of each.

This file decides promises P4 (once) and P5 (in order) on the client's side. It is a pure state machine: the caller
sends what `next_send` gives, reports every answer and every lost connection, and hands results on to users.

The log accepts batch ``n`` of a producer id only right behind ``n - 1`` and answers a repetition of what it has with
the original numbers. From that follows how the pipeline works:

- A batch gets its number when it is first sent. Up to `WINDOW` numbered batches are unsettled at a time: as many
  acknowledgements the log remembers.
- When the connection is lost, everything unsettled is sent again, in order, with the same numbers. Numbered batches
  that no one can have stored give their numbers back (`_renumber`), so that a user may still withdraw them.
- "Out of order" says that an earlier batch was not accepted: the batch is *held* until that one has been sent again.
- A *refused* batch (too large, no room for its topic ...) never enters the log, and its number is not used again: so
  nothing behind it under this id can ever be stored, wherever copies of it still linger. Once all before it is
  settled, the rest starts over under a **new id** from number 1. Using the number again would be wrong: a copy of a
  later batch, delayed in a paused node, could then be accepted beside its renumbered twin.

Invariants
1. A batch is sent under a second id only when it can't be, and can't become, stored under the first.
2. A flight is *tainted* when some try ended without an answer. A definite error is reported only for flights that are
   not tainted, an unknown one for all others (P7).
3. Settling happens at most once for a batch, and no batch is forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

from lanyinglog import record
from lanyinglog.errors import (
    BatchOutOfOrder,
    Busy,
    ContinuityError,
    LanyingError,
    NotLeader,
    NotSent,
    Outcome,
    OutcomeUnknown,
    ProducerUnknown,
    ShuttingDown,
)
from lanyinglog.service import Ack

WINDOW = 16
"""Batches that may be unsettled under one id: the log remembers as many acknowledgements of a producer."""


class SealedBatch(Protocol):
    """What the pipeline must know of a batch: its encoded runs and how many messages they have."""

    @property
    def runs(self) -> Sequence[bytes | record.RunParts]: ...
    @property
    def count(self) -> int: ...


B = TypeVar("B", bound=SealedBatch)


class Advice(Enum):
    """What the caller should do after an answer."""

    GO_ON = "send on"
    PAUSE = "the node is busy: send on after a pause"
    LEAVE = "look for the leader"


class _State(Enum):
    READY = "to be sent"
    SENT = "waiting for its answer"
    HELD = "answered out of order: to be sent behind its predecessor"
    REFUSED = "answered with an error that repetition can't cure"
    DONE = "settled; keeps its place until all before it are"


@dataclass(slots=True, eq=False)
class Flight(Generic[B]):
    """One batch under one number. ``encoded`` is what to publish."""

    batch: B
    number: int
    encoded: bytes
    state: _State = _State.READY
    tainted: bool = False
    sent_at: int = 0  # the pipeline's count of sends, when this was last sent
    held_at: int = 0  # the same, when it was held
    was_head: bool = False  # nothing unsettled was before it when it was last sent
    error: LanyingError | None = None

    @property
    def may_be_stored(self) -> bool:
        return self.tainted or self.state is _State.SENT


Result = Ack | LanyingError


class Producer(Generic[B]):
    """The pipeline of one producer. ``new_id`` gives 16 random bytes at each call.

    With ``stop_at_failure`` nothing behind a batch that failed is stored: all of it fails too, so that what is stored
    is a prefix of what was pushed, and what is pushed later fails at once. Otherwise the others go on.
    """

    def __init__(self, *, new_id: Callable[[], bytes], window: int = WINDOW, stop_at_failure: bool = False) -> None:
        self._new_id = new_id
        self._window_max = window
        self._stop_at_failure = stop_at_failure
        self._id = new_id()
        self._last_number = 0
        self._sends = 0
        self._window: deque[Flight[B]] = deque()
        self._waiting: deque[B] = deque()
        self._settled: list[tuple[B, Result]] = []
        self._stopped: str | None = None  # why nothing is sent any more

    # --------------------------------------------------------------------------------------------- caller -> pipeline
    @property
    def has_room(self) -> bool:
        """Whether a batch pushed now could be sent at once."""
        return not self._waiting and len(self._window) < self._window_max

    @property
    def unsettled(self) -> int:
        """Batches pushed and not yet settled."""
        return len(self._waiting) + sum(flight.state is not _State.DONE for flight in self._window)

    @property
    def awaits_answer(self) -> bool:
        """Whether the connection owes an answer."""
        return any(flight.state is _State.SENT for flight in self._window)

    @property
    def has_settled(self) -> bool:
        """Whether `take_settled` has something."""
        return bool(self._settled)

    @property
    def has_to_send(self) -> bool:
        """Whether something waits that was not sent, or has to be sent again."""
        return bool(self._waiting) or any(flight.state in (_State.READY, _State.HELD) for flight in self._window)

    def push(self, batch: B) -> None:
        """Put ``batch`` behind all others; behind a stop it is settled at once: `NotSent`."""
        if self._stopped is None:
            self._waiting.append(batch)
        else:
            self._settled.append((batch, NotSent(self._stopped)))

    def next_send(self) -> Flight[B] | None:
        """The flight to send now, marked as sent; None if all must wait for answers or there is nothing. A batch that
        can't be encoded is settled on the way."""
        before: Flight[B] | None = None  # the unsettled flight in front
        for flight in self._window:
            if flight.state is _State.DONE:
                continue
            if flight.state is _State.REFUSED:
                return None  # what is behind starts over under a new id, once all before is settled
            if flight.state is _State.READY or (flight.state is _State.HELD and _resent(before, flight.held_at)):
                return self._send(flight, is_head=before is None)
            before = flight
        fresh = self._next_numbered()
        return None if fresh is None else self._send(fresh, is_head=before is None)

    def _next_numbered(self) -> Flight[B] | None:
        """The next batch that waits, as a flight, if the window has room for it."""
        while self._waiting and len(self._window) < self._window_max:
            batch = self._waiting.popleft()
            number = self._last_number + 1
            try:
                flight = Flight(batch, number, record.encode_batch(self._id, number, batch.runs))
            except LanyingError as error:  # it never had a number: the others go on
                self._settled.append((batch, error))
                if self._stop_at_failure:
                    self.stop(f"a batch before it failed: {error.message}")
                continue
            self._last_number = number
            self._window.append(flight)
            return flight
        return None

    def _send(self, flight: Flight[B], *, is_head: bool) -> Flight[B]:
        self._sends += 1
        flight.state, flight.sent_at, flight.was_head = _State.SENT, self._sends, is_head
        return flight

    def link_lost(self) -> None:
        """The connection ended, or is given up: no answer will come for what is in flight."""
        for flight in self._window:
            if flight.state is _State.SENT:
                flight.tainted = True
            if flight.state in (_State.SENT, _State.HELD):
                flight.state = _State.READY
        self._renumber()

    def _renumber(self) -> None:
        """Take the numbers back from the last flights that nobody can have stored."""
        while self._window and self._window[-1].state is _State.READY and not self._window[-1].tainted:
            self._waiting.appendleft(self._window.pop().batch)
            self._last_number -= 1

    def withdraw(self, is_wanted: Callable[[B], bool]) -> B | None:
        """Take one batch out that ``is_wanted`` and that nobody can have stored; None if there is none."""
        for batch in self._waiting:
            if is_wanted(batch):
                self._waiting.remove(batch)
                return batch
        return None

    def give_up(self, reason: str, *, unsent: LanyingError | None = None) -> None:
        """Settle everything: unknown if it may be stored, else definite (``unsent``, or `NotSent`)."""
        unsent = unsent or NotSent(reason)
        if self._stop_at_failure:
            self._stopped = self._stopped or reason
        while self._window:
            flight = self._window.popleft()
            self._settle(flight, OutcomeUnknown(reason) if flight.may_be_stored else unsent)
        while self._waiting:
            self._settled.append((self._waiting.popleft(), unsent))
        self._start_over()

    def stop(self, reason: str) -> None:
        """`give_up`, for good: nothing is sent any more."""
        self._stopped = self._stopped or reason
        self.give_up(reason)

    def take_settled(self) -> list[tuple[B, Result]]:
        """What became of batches since the last call, in the order in which it was learnt."""
        settled, self._settled = self._settled, []
        return settled

    # --------------------------------------------------------------------------------------------- answers
    def acked(self, flight: Flight[B], ack: Ack) -> None:
        """The log has the batch. An answer for a flight that is settled already says nothing new."""
        if flight.state is not _State.SENT:
            return
        if ack.count != flight.batch.count:
            error = f"batch {flight.number} has {flight.batch.count} messages, {ack.count} were acknowledged"
            self._settle(flight, ContinuityError(error))
            if self._stop_at_failure:
                self.stop(f"a batch before it failed: {error}")
        else:
            self._settle(flight, ack)
        self._advance()

    def failed(self, flight: Flight[B], error: LanyingError, outcome: Outcome) -> Advice:
        """The node answered ``error``, whose ``outcome`` is what it said on the wire."""
        if flight.state is not _State.SENT:
            return Advice.GO_ON
        if outcome is Outcome.UNKNOWN:
            flight.tainted, flight.state = True, _State.READY
            return Advice.LEAVE
        if isinstance(error, NotLeader | ShuttingDown):
            flight.state = _State.READY
            return Advice.LEAVE
        if isinstance(error, Busy):
            flight.state = _State.READY
            return Advice.PAUSE
        if isinstance(error, BatchOutOfOrder | ProducerUnknown) and not flight.was_head:
            flight.state, flight.held_at = _State.HELD, self._sends
            return Advice.GO_ON
        flight.state, flight.error = _State.REFUSED, error
        self._advance()
        return Advice.GO_ON

    def _advance(self) -> None:
        """Drop what is settled from the front; then a refused flight there ends this id."""
        while self._window and self._window[0].state is _State.DONE:
            self._window.popleft()
        if self._window and self._window[0].state is _State.REFUSED:
            self._end_id(self._window.popleft())

    def _end_id(self, refused: Flight[B]) -> None:
        """``refused`` is the oldest unsettled flight: settle it, and see what can go on under a new id."""
        error = refused.error
        assert error is not None
        goes_on: list[B] = []
        if refused.tainted:
            # An earlier try may still be stored, and then what was sent behind it: that can't be sent again safely.
            self._settle(refused, OutcomeUnknown(f"refused, but an earlier try may have been stored: {error.message}"))
        elif isinstance(error, ProducerUnknown) and refused.number > 1:
            goes_on.append(refused.batch)  # the log forgot an idle producer: a new id is as good
            refused.state = _State.DONE
        else:
            self._settle(refused, error)
        for flight in self._window:
            if flight.state is _State.DONE:
                continue
            if refused.tainted and flight.may_be_stored:
                self._settle(flight, OutcomeUnknown("a batch before it has an unknown outcome"))
            else:
                flight.state = _State.DONE  # late answers to the old number mean nothing
                goes_on.append(flight.batch)
        self._waiting.extendleft(reversed(goes_on))
        self._start_over()
        failed = not isinstance(error, ProducerUnknown) or refused.tainted or refused.number == 1
        if self._stop_at_failure and failed:
            self.stop(f"a batch before it failed: {error.message}")

    def _start_over(self) -> None:
        self._window.clear()
        self._id = self._new_id()
        self._last_number = 0

    def _settle(self, flight: Flight[B], result: Result) -> None:
        if flight.state is not _State.DONE:
            flight.state = _State.DONE
            self._settled.append((flight.batch, result))


def _resent(before: Flight[B] | None, held_at: int) -> bool:
    """Whether the flight in front is settled, or on its way again since the one behind it was held."""
    return before is None or (before.state is _State.SENT and before.sent_at > held_at)
