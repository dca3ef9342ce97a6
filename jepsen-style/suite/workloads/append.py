"""Clients append messages, alone and a few at a time, each lane to one topic, and note where the log put them.

What could go wrong:

- **lost-write**: a message was acknowledged and is not in the log.
- **duplicate**: a message is in the log twice.
- **aborted-read** (G1a): an error said that the message was not stored, and it is in the log.
- **inconsistent-offsets**: a message was acknowledged at one seq and stands at another.
- **reordered**: a lane's messages are not in the order in which it sent them (P5).
- **realtime-order**: a message was sent after another one had been acknowledged, and stands before it.
"""

from __future__ import annotations

import trio

import lanyinglog
from suite.session import OPERATION_S_MAX, Session

WRITES = True
WORKERS = 5
LANES = 96
SIZES = (1, 1, 1, 1, 1, 1, 1, 2, 4, 8)


async def run(session: Session) -> None:
    """One client for all lanes of the worker; now and then a new one, which has everything to learn again."""
    while not session.stopping:
        connecting = lanyinglog.connect(session.server_list(), timeout=OPERATION_S_MAX)
        async with connecting as client, trio.open_nursery() as nursery:
            ends = trio.current_time() + session.source.uniform(10, 60)
            for lane in session.lanes:
                nursery.start_soon(_publish_until, lane, client, ends)


async def _publish_until(session: Session, client: lanyinglog.Client, ends: float) -> None:
    while trio.current_time() < ends and await session.pace():
        await session.publish(client, session.source.choice(SIZES))
