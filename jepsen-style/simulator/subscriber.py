"""A client that reads: it checks each message against the ledger, and moves between nodes without a gap or a repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanyinglog.record import decode_run
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
    """One subscription, from the first message on, wherever it is served."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._source = world.source
        self.name = name
        self.filters = world.source.choice(FILTERS)
        self.through = 0
        """All up to this seq was seen."""
        self.seen = 0
        self.moves = 0
        self._matches = matcher(self.filters)
        self._connection: Connection | None = None
        self._heard_at = 0.0
        self._request = 1

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
        start = Start(Origin.SEQ, self.resume_at())
        connection.to_node((self._request, Subscribe(self.filters, start, CREDIT_MESSAGES, CREDIT_BYTES)))
        if not self._world.nodes[name].alive:
            connection.broken()
        scale = self._world.plan.timing.election_timeout_s
        self._world.schedule.after(self._source.uniform(0.5, 1.5) * PATIENCE_S * scale, self._look, connection)

    def resume_at(self) -> int:
        """The seq with which a new connection begins."""
        return self.through + 1

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
            self.moves += 1
            scale = self._world.plan.timing.election_timeout_s
            self._world.schedule.after(self._source.uniform(0.01, 0.1) * scale, self._connect)

    def _hear(self, received: tuple[int, Any]) -> None:
        message = received[1]
        self._heard_at = self._world.schedule.now
        if isinstance(message, bytes):
            self._take(message)
        elif isinstance(message, Error):
            assert self._connection is not None
            self._connection.close()
            self._lost(self._connection)
        else:
            assert isinstance(message, Welcome | Subscribed)

    def _take(self, frame: bytes) -> None:
        decoder = FrameDecoder(frame_bytes_max=FRAME_BYTES_MAX)
        decoder.feed(frame)
        whole = decoder.next_frame()
        assert whole is not None and self._connection is not None
        push = from_frame(whole)
        assert isinstance(push, Push)
        node = self._connection.node
        if push.prev != self.through:
            words = f"{self.name} read up to {self.through}; {node} goes on behind {push.prev}"
            raise Violation("P2 continuity", words, ("client", self.name), ("node", node))
        got = [message for item in push.items for message in self._messages(item)]
        for message in got:
            self._world.ledger.check_read(self.name, node, message)
        expected = [
            known.seq for known in self._world.ledger.messages[push.prev : push.through] if self._matches(known.topic)
        ]
        if [message.seq for message in got] != expected:
            stretch = f"{push.prev + 1}..{push.through}"
            words = f"{self.name} got {[one.seq for one in got]} from {node} for {stretch}, not {expected}"
            raise Violation("P2 one order", words, ("client", self.name), ("node", node))
        self.through = push.through
        self.seen += len(got)
        if got:
            self._connection.to_node((self._request, Credit(len(got), CREDIT_BYTES)))

    def _messages(self, item: Any) -> list[Any]:
        messages = decode_run(item.run, first_seq=item.first_seq, timestamp=item.timestamp)
        return [message for message in messages if message.seq > self.through]
