"""A client that reads: it moves between nodes with the product's own `Cursor`; the ledger knows what must come next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanyinglog.client.cursor import Cursor
from lanyinglog.errors import LanyingError, Trimmed
from lanyinglog.record import Message
from lanyinglog.topics import matcher
from lanyinglog.wire.frames import FrameDecoder
from lanyinglog.wire.messages import (
    FRAME_BYTES_MAX,
    Credit,
    Error,
    Hello,
    Origin,
    Push,
    Start,
    Subscribe,
    Subscribed,
    Welcome,
    from_frame,
)
from simulator.history import Violation
from simulator.network import Connection

if TYPE_CHECKING:
    from simulator.world import World

CREDIT_MESSAGES = 12
CREDIT_BYTES = 1 << 30
PATIENCE_S = 2.0
"""At an election timeout of one second: a node from which nothing more came for so long is left for another."""
FILTERS = ((">",), (">",), ("orders.>",), ("orders.eu", "audit"))


class Subscriber:
    """One subscription, wherever it is served."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._source = world.source
        self.name = name
        self.filters = world.source.choice(FILTERS)
        start = world.source.choice((Start(Origin.FIRST), Start(Origin.FIRST), Start(Origin.SEQ, 7)))
        self._cursor = Cursor(self.filters, start)
        self._read_to = max(0, start.value - 1)
        self._matches = matcher(self.filters)
        self._connection: Connection | None = None
        self._heard_at = 0.0
        self._request = 1

    @property
    def through(self) -> int:
        """All up to this seq was seen, or is not wanted."""
        return self._cursor.through or 0

    def start(self) -> None:
        """Begin to read somewhere."""
        self._connect()

    def _connect(self) -> None:
        if self._connection is not None:
            return
        name = self._source.choice(self._world.names)
        self._connection = connection = Connection(
            self._world, self.name, name, self._hear, lambda: self._lost(connection)
        )
        self._heard_at = self._world.schedule.now
        self._request += 1
        connection.to_node((0, Hello(client=self.name)))
        if not self._world.nodes[name].alive:
            connection.broken()
        scale = self._world.plan.timing.election_timeout_s
        self._world.schedule.after(self._source.uniform(0.5, 1.5) * PATIENCE_S * scale, self._look, connection)

    def _look(self, connection: Connection) -> None:
        """Leave a node that is behind, and now and then any node."""
        if connection is not self._connection:
            return
        scale = self._world.plan.timing.election_timeout_s
        behind = self.through < len(self._world.ledger.messages)
        silent = self._world.schedule.now - self._heard_at > PATIENCE_S * scale
        if (behind and silent) or self._source.random() < 0.2:
            connection.close()
            self._lost(connection)
        else:
            self._world.schedule.after(self._source.uniform(0.5, 1.5) * PATIENCE_S * scale, self._look, connection)

    def _lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._connection = None
            self._world.count("client reads elsewhere")
            scale = self._world.plan.timing.election_timeout_s
            self._world.schedule.after(self._source.uniform(0.01, 0.1) * scale, self._connect)

    def _hear(self, received: tuple[int, Any]) -> None:
        message = received[1]
        connection = self._connection
        assert connection is not None
        self._heard_at = self._world.schedule.now
        try:
            if isinstance(message, Welcome):
                ask = Subscribe(self.filters, self._cursor.start, CREDIT_MESSAGES, CREDIT_BYTES)
                connection.to_node((self._request, ask))
            elif isinstance(message, bytes):
                self._take(connection, _push(message))
            elif isinstance(message, Push):
                self._take(connection, message)
            elif isinstance(message, Subscribed):
                self._begin(connection.node, message)
            elif isinstance(message, Error):
                connection.close()
                self._lost(connection)
        except LanyingError as error:
            words = f"{self.name} at {connection.node}: {error!r}"
            raise Violation("P2 continuity", words, ("client", self.name), ("node", connection.node)) from error

    def _begin(self, node: str, message: Subscribed) -> None:
        """It may be too late for what comes next; then go on with what there is."""
        begins_at = message.next_seq
        # By what was read, not by what the cursor asked for: that may be wrong.
        self._world.ledger.check_begins(self.name, node, wanted=self._read_to + 1, begins_at=begins_at)
        try:
            self._cursor.subscribed(message)
        except Trimmed:
            self._world.count("message missed")
            self._cursor = Cursor(self.filters, Start(Origin.SEQ, begins_at))
            self._cursor.subscribed(message)
        self._read_to = max(self._read_to, begins_at - 1)

    def _take(self, connection: Connection, push: Push) -> None:
        self._cursor.pushed(push)
        messages = self._cursor.take()
        for message in messages:
            self._check(connection.node, message)
        self._check_none_left_out(connection.node)
        if messages:
            connection.to_node((self._request, Credit(len(messages), CREDIT_BYTES)))

    def _check(self, node: str, message: Message) -> None:
        """``message`` is committed, and the next one that the filters match."""
        self._world.ledger.check_read(self.name, node, message)
        self._check_skipped(node, message.seq)
        if message.seq <= self._read_to:
            words = f"{self.name} got seq {message.seq} from {node} behind {self._read_to}"
            raise Violation("P2 one order", words, ("client", self.name), ("node", node))
        self._read_to = message.seq

    def _check_none_left_out(self, node: str) -> None:
        """The cursor says that all up to its place was dealt with."""
        self._check_skipped(node, self.through + 1)
        self._read_to = max(self._read_to, self.through)

    def _check_skipped(self, node: str, before: int) -> None:
        for known in self._world.ledger.messages[self._read_to : before - 1]:
            if self._matches(known.topic):
                words = f"{self.name} never got seq {known.seq} from {node}"
                raise Violation("P2 one order", words, ("client", self.name), ("node", node))


def _push(frame: bytes) -> Push:
    decoder = FrameDecoder(frame_bytes_max=FRAME_BYTES_MAX)
    decoder.feed(frame)
    whole = decoder.next_frame()
    assert whole is not None
    push = from_frame(whole)
    assert isinstance(push, Push)
    return push
