"""What a client connection may ask of a log: the door between `session` (floor 5) and the log's loops (floor 4).

`session` speaks the protocol and knows nothing of Raft; the loops know nothing of sockets. Both meet in these words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lanyinglog.errors import LanyingError
from lanyinglog.record import BatchView


@dataclass(slots=True)  # not frozen: see `record.RunView`
class Ack:
    """A committed batch: its messages are ``first_seq`` .. ``first_seq + count - 1``, the first at ``timestamp`` (ns).

    ``duplicate`` tells that an earlier try had already stored it; the numbers are those of that try.
    """

    first_seq: int
    count: int
    timestamp: int
    duplicate: bool = False


Owner = Callable[[], Callable[[], None] | None]
"""Who is told of settled tickets: `Ticket.tell`."""


class Ticket(Protocol):
    """The future of one submitted batch. ``result`` is None until it is settled, always (deadline or leadership)."""

    result: Ack | LanyingError | None

    def tell(self, owner: Owner) -> None:
        """Have ``owner`` called soon after this is settled: once for all tickets of the same owner that are settled
        together, in the node's event loop, when what the cluster waits for has left. What it gives back, if anything,
        is called when all owners were: they put their answers together in a row, which then leave in a row, for what
        runs between two system calls runs cold. Neither may raise."""

    async def wait(self) -> Ack:
        """The acknowledgement, or the `LanyingError` that says how it ended. Always ends (deadline or leadership)."""


@dataclass(frozen=True, slots=True)
class Item:
    """One run as it is pushed: ``run`` is the producer's bytes, a view into the entry they were stored with."""

    first_seq: int
    timestamp: int
    count: int
    run: memoryview


class Page(NamedTuple):
    """A stretch of the log for one subscription, in order.

    It covers all seqs after the ``after`` that was asked for, up to and including ``through``: whatever is not in
    ``items`` does not match the filters, or is one of ``purged`` messages that do and nobody reads any more.
    ``items`` may be empty while ``through`` moves on.
    """

    items: Sequence[Item]
    through: int
    messages: int
    bytes: int
    purged: int = 0


@dataclass(frozen=True, slots=True)
class TopicStat:
    topic: str
    messages: int
    bytes: int
    last_seq: int
    last_timestamp: int


class TopicPage(NamedTuple):
    """Some topics, by name; whether there may be ``more`` behind them."""

    topics: Sequence[TopicStat]
    more: bool


class LogService(Protocol):
    """One log on this node."""

    name: str

    @property
    def first_seq(self) -> int:
        """The seq of the oldest message that can be read (1 unless retention trimmed)."""

    @property
    def last_seq(self) -> int:
        """The high watermark: the seq of the newest committed message this node can serve; 0 for none."""

    @property
    def cut_off(self) -> bool:
        """Whether this node has heard no leader for so long that whoever waits here for new messages should wait at
        another node: longer than an election takes."""

    def submit(self, batch: BatchView, *, received: float) -> Ticket:
        """Queue a batch for commit; batches of one connection commit in the order of their calls (P5).

        Never blocks. Raises a definite error at once: `NotLeader` (with hint), `Busy` when the queue is full.
        """

    @property
    def has_room(self) -> bool:
        """Whether the queue of waiting batches is below its bound: what is asked before a publish is submitted."""

    async def wait_room(self) -> None:
        """Returns when there is room."""

    async def read(self, *, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> Page:
        """The stretch behind ``after``. Stops at the first run that reaches a bound; never waits for new messages:
        at the end of the log it returns an empty page with ``through == max(after, last_seq)``. `CorruptEntry`;
        `Trimmed` if the message behind ``after`` is older than `first_seq`; `Busy` while a snapshot is installed."""

    def read_now(self, *, after: int, filters: Sequence[str], messages_max: int, bytes_max: int) -> Page | None:
        """Like `read`, if that needs not wait for a disk and raises nothing; else None."""

    async def wait_beyond(self, seq: int) -> None:
        """Returns when ``last_seq > seq``."""

    async def seq_at_time(self, timestamp: int) -> int:
        """The seq of the first message at or after ``timestamp`` (ns); ``last_seq + 1`` if there is none yet."""

    async def newest_seq(self) -> int:
        """The seq of the newest message of the log, as of some moment after the call, wherever it was committed; 0 for
        none. Only the leader knows, and waits until it knows that it leads. `NotLeader` (with hint)."""

    async def transfer(self, to: str | None) -> str:
        """Hand leadership to the node ``to``, or to the one that is most up to date; returns its name once this node
        knows that it leads. `NotLeader` (with hint), `BadRequest` for a wrong name, `HandoverFailed`."""

    async def set_retention(self, changes: Mapping[str, int | None]) -> None:
        """Have limits changed: ``age_s``, ``bytes``, ``messages``, None for no limit; those left out stay. Returns when
        that is committed. `NotLeader` (with hint), `BadRequest`, `OutcomeUnknown`, and what `submit` raises."""

    async def purge(self, filter: str, number: int) -> None:
        """Have what was published so far to some topics not be read any more, on any node. Returns when that is
        committed; errors as of `set_retention`, `BadTopic`.
        ``number``, at random, is what a repeated request is known by."""

    async def add_member(self, name: str, peer: str) -> None:
        """Have ``name`` at the peer address ``peer`` join: it is sent all there is, and votes once it has that. Returns
        when it is committed that it belongs; errors as of `set_retention`."""

    async def remove_member(self, name: str) -> None:
        """Have ``name`` leave, for good. If it is this node, the leader, leadership moves on first and `NotLeader` says
        where; errors as of `set_retention`, `BadRequest` if the quorum would be lost."""

    def members(self) -> dict[str, Any]:
        """``members``: node -> {peer, votes}, ``departed``: the names of those who left."""

    def log_info(self) -> dict[str, Any]:
        """What is kept and what is there: one flat JSON object (docs/protocol.md)."""

    def topics(self, *, after: str, topics_max: int) -> TopicPage:
        """The topics that have a message left, by name, with the numbers of what is left: the next ones behind the name
        ``after``, as many as there are up to ``topics_max``."""

    def status(self) -> dict[str, Any]:
        """``node, pid, client, peer, role, term, commit, applied, last_seq, leader, leader_client, log, first_seq,
        durable, file_bytes, catch_up, peers, members``: one flat JSON object; ``peers`` maps node -> {match, lag,
        connected, snapshot}, ``members`` node -> voter or learner. ``leader_client`` is the leader's client address or
        None; ``catch_up`` says in words what a node does that is not up to date, else None; ``snapshot`` is the
        percentage that a peer has drawn of one, or None."""
