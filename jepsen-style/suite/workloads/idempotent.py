"""Producers that send every batch twice, some once more after a rest, maybe to another leader, and again when in doubt,
under the same producer id and number, which makes repetition harmless (P4). They speak the wire protocol themselves:
no client stands between them and the log.

What could go wrong:

- **duplicate**: a batch is stored once for each time it was sent.
- **changed-answer**: the repetition is answered with other numbers than the first try, or its producer is forgotten.
- **lost-write**: the repetition is answered as a duplicate, and the batch is not there.
"""

from __future__ import annotations

from collections import deque

import trio

from lanyinglog import record
from lanyinglog.client.leader import Servers
from lanyinglog.client.link import Link, LinkLost
from lanyinglog.client.timing import Timing
from lanyinglog.config import parse_address
from lanyinglog.errors import LanyingError, Outcome, OutcomeUnknown
from lanyinglog.machine.producers import WINDOW
from lanyinglog.wire.messages import Acked, Publish
from suite.session import OPERATION_S_MAX, Session

WRITES = True
WORKERS = 6
LANES = 1
PATIENCE_S = 2.0
TRUSTING = 0.3
"""How often a producer does not try again after a definite error."""
RESTS = 0.03
"""So often a worker rests for a while and then repeats one of its last batches: maybe to another leader by then."""
REST_S = (1.0, 8.0)

Stored = tuple[Publish, int, int]
"""A batch that was acknowledged, the id of its first message, and how many it has."""


async def run(session: Session) -> None:
    """One batch after the other; the next number only once the one before is stored."""
    addresses = [parse_address("server", server) for server in session.everyone.values()]
    servers = Servers(addresses, log="main", timing=Timing())
    producer, number = session.source.randbytes(16), 0
    links: list[Link] = []
    stored: deque[Stored] = deque(maxlen=WINDOW)
    try:
        while await session.pace():
            if stored and session.source.random() < RESTS:
                await session.sleep(session.source.uniform(*REST_S))
                await _repeat(session, servers, links, session.source.choice(stored))
            number += 1
            one = await _publish(session, servers, links, producer, number)
            if one is None:
                producer, number = session.source.randbytes(16), 0
                stored.clear()
            else:
                stored.append(one)
                await _repeat(session, servers, links, one)
    finally:
        await _close(links)


async def _publish(
    session: Session, servers: Servers, links: list[Link], producer: bytes, number: int
) -> Stored | None:
    """One batch until it is stored; None if its outcome is unknown or it was refused: this producer id is used up."""
    count = session.source.choice((1, 1, 2, 5))
    first, messages = session.next_messages(count)
    topic = messages[0][0]
    run = record.encode_run(topic, [record.OutgoingMessage(payload) for _, payload in messages])
    publish = Publish(record.encode_batch(producer, number, [run]))
    began = session.now()
    unanswered = 0
    problem: LanyingError = OutcomeUnknown("no answer in time")
    with trio.move_on_after(OPERATION_S_MAX):
        while True:
            unanswered += 1  # also if this try is cut off by the time limit
            try:
                acked = await _send(servers, links, publish)
            except LinkLost:
                await _close(links)
                continue
            except LanyingError as error:
                problem = error
                unanswered -= error.outcome is Outcome.DEFINITE
                if not unanswered and session.source.random() < TRUSTING:
                    break  # it takes the node at its word: this batch will never be stored (P7)
                await _close(links)
                await trio.sleep(0.05)
                continue
            session.published(began, first, count, acked.first_seq, acked.timestamp, dup=acked.duplicate)
            return publish, first, count
    if unanswered:
        problem = OutcomeUnknown("some try had no answer")
    session.publish_failed(began, first, count, problem)
    return None


async def _send(servers: Servers, links: list[Link], publish: Publish) -> Acked:
    """One try at the leader. `LinkLost` also if it is silent: then the batch may be stored."""
    if not links:
        links.append(await servers.open_leader())
    with trio.move_on_after(PATIENCE_S):
        reply = await links[0].ask(publish)
        assert isinstance(reply, Acked)
        return reply
    servers.leader = None
    raise LinkLost("silent")


async def _repeat(session: Session, servers: Servers, links: list[Link], one: Stored) -> None:
    """Once more, to whoever leads by now; the answer must be the same. One try: no answer says nothing."""
    publish, first, count = one
    began = session.now()
    try:
        with trio.fail_after(OPERATION_S_MAX):
            reply = await _send(servers, links, publish)
    except (LinkLost, trio.TooSlowError):
        await _close(links)
    except LanyingError as error:
        session.publish_failed(began, first, count, error, again=True)
        await _close(links)
    else:
        session.published(began, first, count, reply.first_seq, reply.timestamp, again=True, dup=reply.duplicate)


async def _close(links: list[Link]) -> None:
    with trio.CancelScope(shield=True):
        while links:
            await links.pop().aclose()
