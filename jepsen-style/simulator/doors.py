"""The node's side of client connections: what `session` does, without its tasks.

Requests are answered in order; publishes go to `LogCore.submit`, and their tickets are answered in order as they
settle; a subscription reads a page behind its cursor, from the hot tail or from the disk, and pushes it as the bytes of
a frame. Before an acknowledgement leaves it is checked: at that moment the batch must be on the disks of a majority.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lanyinglog.batcher import Ticket
from lanyinglog.errors import CorruptEntry, LanyingError, Outcome, Trimmed
from lanyinglog.record import BatchView, parse_batch
from lanyinglog.service import Ack, Page
from lanyinglog.tail import History
from lanyinglog.topics import matcher
from lanyinglog.wire.messages import (
    Acked,
    Credit,
    Error,
    Hello,
    Origin,
    Ping,
    Pong,
    Publish,
    Subscribe,
    Subscribed,
    Welcome,
    encode_push,
)
from lanyinglog.wire.replies import Limits
from simulator.history import Violation

if TYPE_CHECKING:
    from simulator.network import Connection
    from simulator.node import Node

IN_FLIGHT_MAX = 64
"""Unacknowledged batches of one connection."""
PAGE_BYTES_MAX = 400
"""Small pages: many seams."""
LIMITS = Limits(producer_window=16, subscriptions_max=8)


@dataclass(slots=True)
class Subscription:
    """A cursor of one connection."""

    session: Session
    request: int
    filters: tuple[str, ...]
    cursor: int
    credit: int
    reading: bool = False


class Session:
    """What one connection asked."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.requests: deque[tuple[int, Any]] = deque()
        self.unacknowledged: deque[tuple[int, Ticket, BatchView]] = deque()
        self.subscriptions: dict[int, Subscription] = {}


class Doors:
    """All client connections of one life of a node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.sessions: dict[Connection, Session] = {}

    # ------------------------------------------------------------------------------------------------ connections
    def hear(self, connection: Connection, message: tuple[int, Any]) -> None:
        """A client's message has arrived in the kernel."""
        if self._node.alive:
            self._node.post(0.0, self._take, connection, message)

    def hang_up(self, connection: Connection) -> None:
        """The client is gone; what it published may be committed all the same."""
        if self._node.alive:
            self._node.post(0.0, self._forget, connection)

    def _forget(self, connection: Connection) -> None:
        self.sessions.pop(connection, None)

    def slam(self) -> None:
        """The process died: every connection breaks."""
        for connection in self.sessions:
            connection.broken()
        self.sessions.clear()

    def _take(self, connection: Connection, message: tuple[int, Any]) -> None:
        session = self.sessions.setdefault(connection, Session(connection))
        session.requests.append(message)
        self._work(session)

    def after_turn(self) -> None:
        """Tickets may have settled, the tail may have moved, there may be room again."""
        for session in list(self.sessions.values()):
            self._settle(session)
            self._work(session)
            for subscription in list(session.subscriptions.values()):
                self._read(subscription)

    # --------------------------------------------------------------------------------------------------- requests
    def _work(self, session: Session) -> None:
        core = self._node.core
        while session.requests:
            request, message = session.requests[0]
            is_publish = isinstance(message, Publish)
            if is_publish and (len(session.unacknowledged) >= IN_FLIGHT_MAX or not core.batcher.has_room):
                return
            session.requests.popleft()
            try:
                self._answer(session, request, message)
            except LanyingError as error:
                session.connection.to_client((request, Error.of(error)))

    def _answer(self, session: Session, request: int, message: Any) -> None:
        core = self._node.core
        if isinstance(message, Hello):
            welcome = Welcome(1, self._node.name, "sim", core.leader_hint(), LIMITS)
            session.connection.to_client((request, welcome))
        elif isinstance(message, Publish):
            batch = parse_batch(message.batch)
            session.unacknowledged.append((request, core.submit(batch, self._node.now), batch))
            self._node.submitted()
        elif isinstance(message, Subscribe):
            next_seq = max(message.start.value if message.start.origin is Origin.SEQ else 1, core.first_seq)
            subscription = Subscription(session, request, message.filters, next_seq - 1, message.credit_messages)
            session.subscriptions[request] = subscription
            session.connection.to_client((request, Subscribed(next_seq, core.tail.last_seq)))
            self._read(subscription)
        elif isinstance(message, Credit):
            subscription = session.subscriptions.get(request)
            if subscription is not None:
                subscription.credit += message.credit_messages
                self._read(subscription)
        elif isinstance(message, Ping):
            session.connection.to_client((request, Pong()))

    def _settle(self, session: Session) -> None:
        world = self._node.world
        while session.unacknowledged and session.unacknowledged[0][1].result is not None:
            request, ticket, batch = session.unacknowledged.popleft()
            result = ticket.result
            if isinstance(result, Ack):
                world.ledger.check_acknowledged(self._node, batch, result)
                world.note("ack", ("node", self._node.name), ("client", session.connection.client), f"#{batch.number}")
                session.connection.to_client((request, Acked.of(result)))
            else:
                assert result is not None
                words = f"#{batch.number} {result.code} {result.outcome}"
                world.note("refuse", ("node", self._node.name), ("client", session.connection.client), words)
                session.connection.to_client((request, Error.of(result)))

    def check_tickets(self) -> None:
        """Audit 19: who does not lead owes no answer; and no batch is owed one for longer than its deadline."""
        node = self._node
        for session in self.sessions.values():
            for _, ticket, batch in session.unacknowledged:
                if ticket.result is not None:
                    continue
                late = node.now - ticket.expires_at
                if not node.core.replica.leads or late > 2 * node.world.plan.timing.election_timeout_s:
                    words = f"{node.name} leaves batch {batch.number} of {session.connection.client} without an answer"
                    raise Violation("P7 answers", words, ("client", session.connection.client), ("node", node.name))

    # ---------------------------------------------------------------------------------------------- subscriptions
    def _read(self, subscription: Subscription) -> None:
        node = self._node
        tail = node.core.tail
        if (
            self._node.installing
            or subscription.reading
            or subscription.credit <= 0
            or tail.last_seq <= subscription.cursor
        ):
            return
        subscription.reading = True
        hot = tail.holds(subscription.cursor + 1)
        delay = 0.0 if hot else node.world.source.uniform(*node.world.plan.disk_s)
        node.post(delay, self._read_page, subscription, hot)

    def _read_page(self, subscription: Subscription, hot: bool) -> None:
        """As `HostedLog.read` does. A cold read runs in a thread, so the loop may have moved on since."""
        subscription.reading = False
        core = self._node.core
        after = subscription.cursor
        if self._node.installing or after + 1 < core.first_seq:
            self._end(subscription, Trimmed(f"message {after + 1} is not kept any more", hint=str(core.first_seq)))
            return
        matches = matcher(subscription.filters)
        bounds = {"messages_max": subscription.credit, "bytes_max": PAGE_BYTES_MAX}
        if hot and core.tail.holds(after + 1):
            page = core.tail.read(after=after, matches=matches, purged=core.machine.topics.purged, **bounds)
        else:
            numbers = None
            if ">" not in subscription.filters:
                selection = core.selections.of(subscription.filters)
                while not selection.step():
                    pass
                numbers = selection.numbers
            history = History(self._node.store)
            bounds |= {"after": after, "last_index": core.machine.applied}
            try:
                page = history.read(matches=matches, purged=core.machine.topics.purged, topic_numbers=numbers, **bounds)
            except CorruptEntry as damage:
                if not core.want_repair(damage):
                    raise
                self._node.wake()
                subscription.reading = True
                self._node.post(core.replica.election_timeout_s, self._read_page, subscription, False)
                return
        self._push(subscription, page)
        self._read(subscription)

    def _end(self, subscription: Subscription, error: LanyingError) -> None:
        session = subscription.session
        session.subscriptions.pop(subscription.request, None)
        session.connection.to_client((subscription.request, Error.of(error)))

    def _push(self, subscription: Subscription, page: Page) -> None:
        if page.through < subscription.cursor:
            words = f"{self._node.name} reads back from {subscription.cursor} to {page.through}"
            raise Violation("P2 continuity", words, ("node", self._node.name))
        if page.through == subscription.cursor:
            words = f"{self._node.name} has nothing to read behind seq {page.through}, in memory or on its disk"
            raise Violation("P2 continuity", words, ("node", self._node.name))
        frame, messages, _ = encode_push(
            subscription.request, prev=subscription.cursor, through=page.through, items=page.items, purged=page.purged
        )
        subscription.cursor = page.through
        subscription.credit -= messages
        subscription.session.connection.to_client((subscription.request, frame))


def is_definite(error: LanyingError) -> bool:
    """Whether ``error`` promises that nothing happened."""
    return error.outcome is Outcome.DEFINITE
