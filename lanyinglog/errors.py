"""Every error that lanyinglog raises or sends, in one table.

An error answers three questions: whose fault is it (its class), what does a program match on (its wire
``code``), and may the operation have happened all the same (its ``outcome``, promise P7)?

``Outcome.DEFINITE``  it did not happen and never will; repeating it is safe.
``Outcome.UNKNOWN``   it may have happened, or may still happen; only a retry with the same producer id and
                      batch number, or a look at the log, tells.

The wire carries ``code``, ``outcome``, ``message`` and, for some, a ``hint`` (`docs/protocol.md` prints this table).
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Outcome(StrEnum):
    """Whether a failed operation may have taken effect."""

    DEFINITE = "definite"
    UNKNOWN = "unknown"


class LanyingError(Exception):
    """The root: ``except LanyingError`` catches all that the package raises on purpose.

    ``hint`` is what the raiser knows that helps: for `NotLeader` the leader's client address, or None. ``outcome`` is
    the class's, unless the error came over the wire and the node said otherwise; so is ``advice``, unless whoever
    passes the error on knows better.
    """

    code: ClassVar[str] = "internal"
    outcome: Outcome = Outcome.UNKNOWN
    advice: str = "report it; look at the node's log"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


# ----------------------------------------------------------- the other side broke the protocol
class ProtocolError(LanyingError):
    """The peer sent bytes that break the protocol; its connection is closed."""

    code = "protocol"
    outcome = Outcome.DEFINITE
    advice = "fix the client: docs/protocol.md has the rules"


class UnsupportedVersion(ProtocolError):
    """The two sides have no protocol version in common."""

    code = "unsupported_version"
    advice = "upgrade the older side"


class FrameTooLarge(ProtocolError):
    """A frame announced more bytes than the limit of this port."""

    code = "frame_too_large"
    advice = "send smaller batches; the welcome frame names the limit"


class Unauthorized(ProtocolError):
    """The peer could not prove that it belongs to the cluster."""

    code = "unauthorized"
    advice = "use the cluster's secret"


# ----------------------------------------------------------- the request is wrong
class BadRequest(LanyingError):
    """A well-formed frame asks for something that makes no sense."""

    code = "bad_request"
    outcome = Outcome.DEFINITE
    advice = "correct the request"


class BadBatch(BadRequest):
    """A batch is malformed, over a limit, or fails its CRC32C."""

    code = "bad_batch"
    advice = "encode the batch again; if its checksum failed, suspect memory or network"


class BadTopic(BadRequest):
    """A topic or filter breaks the rules for names."""

    code = "bad_topic"
    advice = "dot-separated tokens, no spaces or control characters, at most 255 bytes"


class UnknownLog(BadRequest):
    """The node hosts no log of that name."""

    code = "unknown_log"
    advice = "the first log is called main"


class BatchOutOfOrder(BadRequest):
    """A batch number skips one that the log never saw (promise P5)."""

    code = "batch_out_of_order"
    advice = "send the missing batch numbers first"


class ProducerUnknown(BadRequest):
    """The log remembers no producer of that id, and the batch number is not 1."""

    code = "producer_unknown"
    advice = "start again with a new producer id and number 1"


class TooManyTopics(BadRequest):
    """A batch names a new topic and the log holds as many as it may."""

    code = "too_many_topics"
    advice = "use fewer topics; put the variable part into the key"


# ----------------------------------------------------------- the cluster can't, now
class NotLeader(LanyingError):
    """Only the leader accepts publishes; ``hint`` is its client address if known."""

    code = "not_leader"
    outcome = Outcome.DEFINITE
    advice = "ask the node in the hint, or any other"


class NoLeader(LanyingError):
    """The node hears no leader, and has not for a while: what is new may never come to it."""

    code = "no_leader"
    outcome = Outcome.DEFINITE
    advice = "ask another node; if all say so, check that a majority of the nodes is up and connected"


class Busy(LanyingError):
    """A bound was reached (promise P8): connections, subscriptions or waiting bytes."""

    code = "busy"
    outcome = Outcome.DEFINITE
    advice = "wait, then try again"


class StorageFull(LanyingError):
    """The disk has no room; reads go on."""

    code = "storage_full"
    outcome = Outcome.DEFINITE
    advice = "make room on the disk or shorten retention"


class OutcomeUnknown(LanyingError):
    """Leadership was lost, or time ran out, before the batch was known to be committed."""

    code = "outcome_unknown"
    outcome = Outcome.UNKNOWN
    advice = "retry with the same producer id and batch number: it is stored once"


class Unavailable(LanyingError):
    """No node answered, or no quorum, for as long as the caller was willing to wait.

    For a publish the outcome is unknown (if it is known: `NotSent`); otherwise nothing was to happen anyway.
    """

    code = "unavailable"
    outcome = Outcome.UNKNOWN
    advice = "check that a majority of the nodes is up and connected"


class NotSent(Unavailable):
    """`Unavailable`, and the client knows that no node can have stored the request: it is safe to start over."""

    code = "not_sent"
    outcome = Outcome.DEFINITE


class HandoverFailed(LanyingError):
    """The node that was to lead did not take over in time, or could not; leadership is as it was."""

    code = "handover_failed"
    outcome = Outcome.DEFINITE
    advice = "see the status of that node, then try again or name another"


class ShuttingDown(LanyingError):
    """The node is stopping and takes no new requests."""

    code = "shutting_down"
    outcome = Outcome.DEFINITE
    advice = "ask another node"


# ----------------------------------------------------------- what is stored is damaged or gone
class Trimmed(LanyingError):
    """A message is older than the oldest one kept; ``hint`` is the oldest seq there is, in decimal."""

    code = "trimmed"
    outcome = Outcome.DEFINITE
    advice = "start again at the seq in the hint; keep more (log set) or read faster"


class CorruptEntry(LanyingError):
    """A stored entry fails its CRC32C: it is never served and never replicated."""

    code = "corrupt_entry"
    outcome = Outcome.DEFINITE
    advice = "read from another node; run verify on this one's data directory"


class StoreError(LanyingError):
    """A data directory can't be used: wrong format, wrong node, in use, or damaged."""

    code = "store"
    outcome = Outcome.DEFINITE
    advice = "the message names the directory and what is wrong with it"


class ContinuityError(LanyingError):
    """A subscription was about to skip or repeat a message: a defect, never ignored."""

    code = "continuity"
    outcome = Outcome.DEFINITE
    advice = "report it with the node's log"


class ConfigError(LanyingError):
    """A setting is wrong; the message names it and what it should be."""

    code = "config"
    outcome = Outcome.DEFINITE
    advice = "correct the setting"


def _subclasses(cls: type[LanyingError]) -> list[type[LanyingError]]:
    return [cls] + [leaf for child in cls.__subclasses__() for leaf in _subclasses(child)]


BY_CODE: dict[str, type[LanyingError]] = {cls.code: cls for cls in _subclasses(LanyingError)}
"""Wire code -> class; a test holds that no two classes share a code."""


def from_wire(code: str, message: str, *, hint: str | None = None, outcome: Outcome | None = None) -> LanyingError:
    """The error that a peer's error frame describes; an unknown code becomes a plain `LanyingError`.

    ``outcome`` is what the peer says: it knows best, above all about a code that is unknown here (P7)."""
    cls = BY_CODE.get(code)
    error = LanyingError(f"{code}: {message}", hint=hint) if cls is None else cls(message, hint=hint)
    if outcome is not None:
        error.outcome = outcome
    return error
