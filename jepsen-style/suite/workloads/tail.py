"""Subscribers follow the whole log as it grows, and go over to another node now and then, at the seq where they were.

What could go wrong:

- **poll-skip**: a subscription goes past a message without handing it out.
- **nonmonotonic-poll**: a subscription hands out a seq again, or goes back.
- **inconsistent-read**: a seq is one message to this reader and another one in the log.
- **dirty-read**: a reader saw a message that the log does not keep.
- **garbled-message**: a message is not, byte for byte, one that was sent.
"""

from __future__ import annotations

import trio

import lanyinglog
from lanyinglog.errors import Unavailable
from suite.session import Session

WRITES = False
WORKERS = 2
LANES = 1
PATIENCE_S = 3.0


async def run(session: Session) -> None:
    """From the beginning of the log; the place is kept here, for the next node."""
    session.place = 1
    subscription = 0
    while not session.stopping:
        server = session.source.choice(list(session.servers.values()))
        subscription += 1
        with trio.move_on_after(session.source.uniform(1, 12)):
            async with lanyinglog.connect(server, timeout=PATIENCE_S) as client:
                await follow(session, client, subscription)


async def follow(session: Session, client: lanyinglog.Client, subscription: int) -> None:
    """Follow until the run stops, or the caller has had enough. Whatever is handed out is written down."""
    try:
        async with client.subscribe(">", start=session.place) as messages:
            while not session.stopping:
                began = session.now()
                batch = await messages.next_batch()
                session.polled(
                    began,
                    batch,
                    subscription=subscription,
                    server=str(messages.server),
                    topic=-1,
                    after=session.place - 1,
                    through=messages.next_seq - 1,
                )
                session.place = messages.next_seq
    except Unavailable:
        return  # no node was of use for a while: the next subscription goes on here
