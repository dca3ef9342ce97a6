"""A client that publishes: the product's own pipeline, carried as `client.pump` carries it.

It looks for the leader, sends what the pipeline gives, hands answers back, leaves a node that does not lead or is
silent, and says at the end what became of each batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanyinglog.client.producer import Advice, Flight, Producer
from lanyinglog.errors import LanyingError, NotSent
from lanyinglog.record import OutgoingMessage, encode_run
from lanyinglog.service import Ack
from lanyinglog.wire.messages import Acked, Error, Hello, Ping, Publish, Welcome
from simulator.ledger import SentBatch
from simulator.network import Connection

if TYPE_CHECKING:
    from simulator.world import World

TOPICS = ("orders.eu", "orders.us", "audit", "orders.eu.paris")
CONNECT_S, SILENCE_S, STALL_S, DRAIN_S = 0.8, 2.0, 10.0, 0.1
"""As `client.timing` and `client.pump` have them, at an election timeout of one second."""
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.01, 0.2


class Publisher:
    """One producer, named as a place in the network."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._source = world.source
        self._plan = world.plan
        self._scale = world.plan.timing.election_timeout_s
        self.name = name
        self.made = 0
        self.settled = 0
        self.closing = False
        """Make no more batches."""
        self._batches: list[SentBatch] = []
        self._sent: set[int] = set()
        self._pipeline: Producer[SentBatch] = Producer(new_id=lambda: self._source.randbytes(16))
        self._connection: Connection | None = None
        self._welcome = False
        self._leaving = False
        self._paused = False
        self._flights: dict[int, Flight[SentBatch]] = {}
        self._request = 0
        self._hint: str | None = None
        self._backoff_s = BACKOFF_FIRST_S
        self._heard_at = self._answered_at = self._owed_since = 0.0
        self._pinged = False
        self._ready = 0  # batches that may be sent by now

    @property
    def done(self) -> bool:
        """Whether all its batches are settled."""
        return (self.closing or self.made == self._plan.batches) and self.settled == self.made

    def start(self) -> None:
        """Begin to publish."""
        self.make()
        self._search()

    # ---------------------------------------------------------------------------------------------------- batches
    def make(self) -> None:
        """One more batch, and the next after a while, until there are enough."""
        if self.closing or self.made == self._plan.batches:
            return
        self._pipeline.push(self._new_batch())
        self.made += 1
        self._send()
        self._world.schedule.after(self._source.expovariate(1 / self._plan.pause_between_batches_s), self.make)

    def _new_batch(self) -> SentBatch:
        source = self._source
        runs: list[bytes] = []
        tokens: list[tuple[str, bytes]] = []
        for _ in range(source.choice((1, 1, 1, 2, 3))):
            topic = source.choice(TOPICS)
            payloads = [
                b"%s:%d:%d" % (self.name.encode(), self.made, len(tokens) + n)
                for n in range(source.choice((1, 1, 2, 5)))
            ]
            runs.append(encode_run(topic, [OutgoingMessage(payload) for payload in payloads]))
            tokens += [(topic, payload) for payload in payloads]
        if source.random() < self._plan.bad_batches:
            runs[0] = runs[0][:-1] + bytes([runs[0][-1] ^ 1])
        batch = SentBatch(self.name, self.made, tuple(runs), tuple(tokens))
        self._world.ledger.sent(batch)
        self._batches.append(batch)
        return batch

    # ------------------------------------------------------------------------------------------------- connection
    def _search(self) -> None:
        if self._connection is not None or self.done:
            return
        name = self._hint if self._hint in self._world.names else self._source.choice(self._world.names)
        self._hint = None
        self._connection = connection = Connection(
            self._world, self.name, name, self._hear, lambda: self._drop(connection)
        )
        self._welcome = self._leaving = self._paused = self._pinged = False
        self._flights.clear()
        connection.to_node((0, Hello(client=self.name)))
        if not self._world.nodes[name].alive:
            connection.broken()
        self._world.schedule.after(CONNECT_S * self._scale, self._too_slow, connection)

    def _too_slow(self, connection: Connection) -> None:
        if connection is self._connection and not self._welcome:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        """The connection ended, or is given up."""
        if connection is not self._connection:
            return
        connection.close()
        self._connection = None
        if self._welcome:
            self._pipeline.link_lost()
            if self._source.random() < self._plan.impatience:
                self._withdraw()
        self._world.schedule.after(self._backoff(), self._search)

    def _withdraw(self) -> None:
        """The user waits no longer for some batch: if nobody can have stored it, it is taken back for certain."""
        open_batches = [batch for batch in self._batches if batch.result is None]
        if open_batches:
            batch = self._source.choice(open_batches)
            if self._pipeline.withdraw(lambda one: one is batch):
                self._settle(batch, NotSent("withdrawn"))

    def _backoff(self) -> float:
        pause = self._backoff_s
        self._backoff_s = min(2 * pause, BACKOFF_MAX_S)
        return pause * self._source.uniform(0.5, 1.0) * self._scale

    # ---------------------------------------------------------------------------------------------------- sending
    def _send(self) -> None:
        connection = self._connection
        while connection is not None and self._welcome and not self._leaving and not self._paused:
            owed = self._pipeline.awaits_answer
            flight = self._pipeline.next_send()
            if flight is None:
                return
            if not owed:
                self._owed_since = self._world.schedule.now
            self._request += 1
            self._flights[self._request] = flight
            if flight.batch.ordinal in self._sent:
                self._world.count("client sends again")
            self._sent.add(flight.batch.ordinal)
            self._world.note("publish", ("client", self.name), f"#{flight.number} (batch {flight.batch.ordinal})")
            connection.to_node((self._request, Publish(flight.encoded)))

    def _hear(self, received: tuple[int, Any]) -> None:
        request, message = received
        connection = self._connection
        assert connection is not None
        self._heard_at = self._world.schedule.now
        if isinstance(message, Welcome):
            self._greeted(connection, message)
        elif (flight := self._flights.pop(request, None)) is not None:
            self._answered_at = self._heard_at
            if isinstance(message, Acked):
                self._backoff_s = BACKOFF_FIRST_S
                ack = Ack(message.first_seq, message.count, message.timestamp, message.duplicate)
                self._pipeline.acked(flight, ack)
            elif isinstance(message, Error):
                self._failed(flight, message)
            self._deliver()
            self._send()

    def _greeted(self, connection: Connection, welcome: Welcome) -> None:
        if welcome.leader_client != connection.node:
            self._hint = welcome.leader_client
            self._drop(connection)
            return
        self._welcome = True
        self._answered_at = self._world.schedule.now
        self._world.schedule.after(SILENCE_S * self._scale / 8, self._watch, connection)
        self._send()

    def _failed(self, flight: Flight[SentBatch], answer: Error) -> None:
        advice = self._pipeline.failed(flight, answer.exception(), answer.outcome)
        if self._source.random() < self._plan.impatience:
            self._pipeline.give_up("the user lost patience")
        if advice is Advice.PAUSE:
            self._paused = True
            self._world.schedule.after(self._backoff(), self._unpause, self._connection)
        elif advice is Advice.LEAVE and not self._leaving:
            self._leaving = True
            self._hint = answer.hint
            self._world.schedule.after(DRAIN_S * self._scale, self._drop, self._connection)

    def _unpause(self, connection: Connection) -> None:
        if connection is self._connection:
            self._paused = False
            self._send()

    def _watch(self, connection: Connection) -> None:
        """A node that owes an answer and is silent, or acknowledges nothing, is given up."""
        if connection is not self._connection:
            return
        now = self._world.schedule.now
        silence_s = SILENCE_S * self._scale
        silent_s = now - max(self._heard_at, self._owed_since)
        owed = self._pipeline.awaits_answer
        if owed and (silent_s >= silence_s or now - max(self._answered_at, self._owed_since) > STALL_S * self._scale):
            self._drop(connection)
            return
        if owed and silent_s >= silence_s / 2 and not self._pinged:
            self._pinged = True
            self._request += 1
            connection.to_node((self._request, Ping()))
        elif silent_s < silence_s / 2:
            self._pinged = False
        self._world.schedule.after(silence_s / 8, self._watch, connection)

    def _deliver(self) -> None:
        for batch, result in self._pipeline.take_settled():
            self._settle(batch, result)

    def _settle(self, batch: SentBatch, result: Ack | LanyingError) -> None:
        self.settled += 1
        self._world.note("settled", ("client", self.name), f"batch {batch.ordinal}: {result}")
        self._world.ledger.settled(batch, result)
