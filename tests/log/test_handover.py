"""Leadership is handed to a node that can follow; one that can't holds nobody up."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from log.writers import WriterAtOnce

from lanyinglog import record
from lanyinglog.commit_loop import CommitLoop
from lanyinglog.errors import HandoverFailed
from lanyinglog.hosted_log import HostedLog
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.raft.messages import PeerMessage
from lanyinglog.raft.timing import Timing
from lanyinglog.service import Ack, Ticket
from lanyinglog.store.memory import MemoryDisk, MemoryStore

pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("autojump_clock")]

NAMES = ("n1", "n2", "n3")
TIMING = Timing(election_timeout_s=1.0, heartbeat_s=0.05)


def log_of(
    name: str, *, send: Callable[[str, PeerMessage], None], newcomer: bool = False
) -> tuple[CommitLoop, HostedLog, WriterAtOnce]:
    """One of three nodes; the first of `NAMES` is the first to ask for an election."""
    store = MemoryStore(MemoryDisk())
    writer = WriterAtOnce(store)
    share = NAMES.index(name) / 2
    core = LogCore(
        node=name,
        members=Members.of({one: f"{one}:1" for one in NAMES}),
        store=store,
        timing=TIMING,
        uniform=lambda low, high: low + (high - low) * share,
        now=trio.current_time(),
        newcomer=newcomer,
    )
    loop = CommitLoop(core=core, store=store, send=send, writer=writer)
    log = HostedLog(
        "main",
        loop=loop,
        store=store,
        client_of=lambda name: None,
        connected=lambda name: True,
        own_addresses=("x:1", "x:2"),
    )
    return loop, log, writer


class Trio:
    """Three nodes' loops whose messages pass through memory, but for those of ``mute``, to ``deaf``, and of kinds that
    are ``lost``."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.mute: set[str] = set()
        self.deaf: set[str] = set()
        self.lost: tuple[type[PeerMessage], ...] = ()
        self.writers: dict[str, WriterAtOnce] = {}
        self.loops: dict[str, CommitLoop] = {}
        self.logs: dict[str, HostedLog] = {}
        for name in NAMES:
            outbox, inbox = trio.open_memory_channel[tuple[str, str, PeerMessage]](10_000)
            self.loops[name], self.logs[name], self.writers[name] = log_of(
                name, send=lambda to, message, sender=name, way=outbox: way.send_nowait((sender, to, message))
            )
            nursery.start_soon(self._carry, inbox)
            nursery.start_soon(self.loops[name].run)

    async def _carry(self, inbox: trio.MemoryReceiveChannel[tuple[str, str, PeerMessage]]) -> None:
        async for sender, to, message in inbox:
            if sender not in self.mute and to not in self.deaf and not isinstance(message, self.lost):
                self.loops[to].receive(sender, message)
                self.loops[to].heard()

    async def until_led_by(self, name: str) -> None:
        while self.loops[name].core.replica.engine.leader != name or not self.loops[name].core.replica.leads:
            await self.loops[name].wait_turn()

    def submit(self, name: str) -> Ticket:
        batch = record.encode_batch(os.urandom(16), 1, [record.encode_columns("t", [b"x"])])
        return self.logs[name].submit(record.parse_batch(batch), received=trio.current_time())

    async def publish(self, name: str) -> Ack:
        return await self.submit(name).wait()


@asynccontextmanager
async def cluster(*, mute: set[str]) -> AsyncIterator[Trio]:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nodes = Trio(nursery)
            nodes.mute = mute
            await nodes.until_led_by("n1")
            yield nodes
            nursery.cancel_scope.cancel()


async def test_who_follows_takes_over() -> None:
    async with cluster(mute=set()) as nodes:
        assert await nodes.logs["n1"].transfer("n3") == "n3"
        await nodes.until_led_by("n3")
        assert (await nodes.publish("n3")).first_seq == 1


async def test_who_never_answered_this_leader_does_not_and_publishes_go_on_meanwhile() -> None:
    async with cluster(mute={"n3"}) as nodes:
        failed: list[HandoverFailed] = []

        async def hand_over() -> None:
            with pytest.raises(HandoverFailed, match="n3") as caught:
                await nodes.logs["n1"].transfer("n3")
            failed.append(caught.value)

        async with trio.open_nursery() as asking:
            asking.start_soon(hand_over)
            await nodes.loops["n1"].wait_turn()
            await nodes.loops["n1"].wait_turn()
            for seq in range(1, 6):
                assert (await nodes.publish("n1")).first_seq == seq
            assert not failed, "publishes had to wait for it"
        assert failed
        assert nodes.loops["n1"].core.replica.leads


async def test_who_answers_late_takes_over_then() -> None:
    async with cluster(mute={"n3"}) as nodes, trio.open_nursery() as asking:
        asking.start_soon(nodes.logs["n1"].transfer, "n3")
        await nodes.loops["n1"].wait_turn()
        assert (await nodes.publish("n1")).first_seq == 1
        nodes.mute.clear()
        nodes.loops["n1"].peer_link_changed("n3", True)  # a new link: what was said on the old one is said again
        await nodes.until_led_by("n3")
