"""Clients publish batches over several topics at once: all of a batch is to appear, in one piece, or nothing (P3).

What could go wrong:

- **torn-batch**: a part of a batch is in the log and another part is not, or something stands between them.
- **torn-read**: a read up to the newest message ends inside a batch.
"""

from __future__ import annotations

import trio

import lanyinglog
from suite.session import OPERATION_S_MAX, Session

WRITES = True
WORKERS = 2
LANES = 6
SIZES = (2, 3, 4, 6, 10, 30)


async def run(session: Session) -> None:
    """Batches of up to 30 messages, neighbours in different topics; lanes share a client, now and then a new one."""
    while not session.stopping:
        connecting = lanyinglog.connect(session.server_list(), timeout=OPERATION_S_MAX)
        async with connecting as client, trio.open_nursery() as nursery:
            ends = trio.current_time() + session.source.uniform(10, 60)
            for lane in session.lanes:
                nursery.start_soon(_publish_until, lane, client, ends)


async def _publish_until(session: Session, client: lanyinglog.Client, ends: float) -> None:
    while trio.current_time() < ends and await session.pace():
        await session.publish(client, session.source.choice(SIZES))
