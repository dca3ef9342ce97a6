"""Clients publish and then read up to the newest message: their own must be there, whichever node they ask (session
guarantee "read your writes").

What could go wrong:

- **stale-read**: a client's read up to the newest message ends before a message that this client had seen acknowledged.
- **torn-read**: such a read ends inside a batch.
"""

from __future__ import annotations

import lanyinglog
from lanyinglog.errors import LanyingError
from suite.session import OPERATION_S_MAX, Session

WRITES = True
WORKERS = 4
LANES = 1
SLOWER = 6
"""Times the pace of other writers: a read of this kind opens connections."""


async def run(session: Session) -> None:
    """Publish, read back, through a client that prefers one node, another one each time."""
    while not session.stopping:
        server = session.source.choice(list(session.servers.values()))
        async with lanyinglog.connect(server, timeout=OPERATION_S_MAX) as client:
            for _ in range(20):
                for _ in range(SLOWER):
                    if not await session.pace():
                        return
                acked = await session.publish(client, session.source.choice((1, 3)))
                if acked is not None:
                    await _read_latest(session, client, acked)


async def _read_latest(session: Session, client: lanyinglog.Client, acked: int) -> None:
    began = session.now()
    messages: list[lanyinglog.Message] = []
    server = ""
    try:
        async with client.subscribe(">", start=acked, until="last") as subscription:
            until = subscription.until
            async for batch in subscription.batches():
                messages += batch
                server = str(subscription.server)
    except LanyingError:
        return  # it did not get to the end: nothing can be said of where that is
    session.read_latest(began, messages, server=server, acked=acked, until=until or 0)
