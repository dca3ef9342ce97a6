"""Readers read stretches of the past again: from a seq or a time, all topics or some, at any node.

What could go wrong:

- **poll-skip**: a stretch lacks a message that matches (an index that skips too far, a page cut in the wrong place).
- **inconsistent-read**: the past reads differently than before.
- **wrong-start**: a read from a time begins behind a message at or after that time.
"""

from __future__ import annotations

import trio

import lanyinglog
from lanyinglog.errors import LanyingError
from suite.messages import NAMES
from suite.session import Session

WRITES = False
WORKERS = 1
LANES = 1
STRETCH = 3_000
PATIENCE_S = 3.0


async def run(session: Session) -> None:
    """A stretch after another, in no order."""
    newest, number = 1, 0
    while not session.stopping:
        server = session.source.choice(list(session.servers.values()))
        number += 1
        with trio.move_on_after(PATIENCE_S):
            try:
                async with lanyinglog.connect(server, timeout=PATIENCE_S) as client:
                    statuses = [row.get("last_seq") or 0 for row in await client.status()]
                    newest = max([newest, *statuses])
                    await _read(session, client, number, newest)
            except LanyingError:
                await session.sleep(0.2)
        await session.sleep(0.5)


async def _read(session: Session, client: lanyinglog.Client, number: int, newest: int) -> None:
    start = session.source.randrange(1, newest + 1)
    topic = session.source.choice((-1, session.source.randrange(len(NAMES))))
    until = min(newest, start + STRETCH)
    began = session.now()
    async with client.subscribe(">" if topic < 0 else NAMES[topic], start=start, until=until) as subscription:
        after = start - 1
        async for batch in subscription.batches():
            through = subscription.next_seq - 1
            server = str(subscription.server)
            session.polled(began, batch, subscription=number, server=server, topic=topic, after=after, through=through)
            after, began = through, session.now()
