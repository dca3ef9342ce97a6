"""A disk that stalls costs its own node's progress and never its memory: what peers send waits with them (P8)."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing
from node.test_peers import HELLO, Node, introduce

from lanyinglog import commit_loop
from lanyinglog.commit_loop import CommitLoop
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.raft.handshake import PEER_VERSIONS
from lanyinglog.raft.messages import Append, Appended, Heartbeat, PeerMessage, to_parts
from lanyinglog.raft.timing import Timing
from lanyinglog.store.log_store import Entry, Writes, entry_crc
from lanyinglog.store.memory import MemoryStore
from lanyinglog.wire.frames import encode_frame

COMMAND = b"\x00" + b"x" * 9_999
ROOM_BYTES = 100_000
FLOOD_BYTES = 4 << 20
SOCKETS_BYTES_MAX = 8 << 20
"""What the system's buffers of a loopback connection may swallow beside the node."""


class StallingStore(MemoryStore):
    """Its disk answers while ``moving`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.moving = threading.Event()
        self.moving.set()

    def write(self, writes: Writes) -> None:
        assert self.moving.wait(30)
        super().write(writes)


def append(number: int, prev_index: int) -> bytes:
    entry = Entry(prev_index + 1, 1, COMMAND, entry_crc(prev_index + 1, 1, COMMAND))
    kind, header, body = to_parts(Append(1, number, prev_index, int(prev_index > 1), 1, (entry,)))
    return encode_frame(kind, 0, header, body)


class Follower:
    """A real loop behind real links, led by a leader that keeps to no window."""

    def __init__(self) -> None:
        self.store = StallingStore()
        self.answers: list[PeerMessage] = []
        self.core = LogCore(
            node="n2",
            members=Members.of({"n1": "n1:1", "n2": "n2:1"}),
            store=self.store,
            timing=Timing(election_timeout_s=1e6),
            uniform=lambda low, high: high,
            now=trio.current_time(),
        )
        self.loop = CommitLoop(core=self.core, store=self.store, send=lambda to, message: self.answers.append(message))

    async def wait_last_index(self, index: int) -> None:
        while self.core.replica.journal.last_index < index:
            await self.loop.wait_turn()


@pytest.mark.trio
async def test_no_more_is_read_from_peers_than_the_disk_will_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_loop, "UNWRITTEN_BYTES_MAX", ROOM_BYTES)
    assert HELLO["versions"] == list(PEER_VERSIONS)
    follower = Follower()
    journal = follower.core.replica.journal
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    node = Node("n2", listener)
    node.build({"n1": node.address, "n2": node.address}, None, "c")
    node.network._receive = follower.loop.receive
    node.network._heard = follower.loop.heard
    node.network._wait_room = follower.loop.wait_unwritten
    entries = (FLOOD_BYTES + SOCKETS_BYTES_MAX) // len(COMMAND)
    highest = 0

    async def flood(stream: trio.SocketStream) -> None:
        for number in range(entries):
            await stream.send_all(append(number + 1, number + 1))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.loop.run)
            nursery.start_soon(node.network.run, [listener])
            stream = await trio.open_tcp_stream(*node.address)
            await introduce(stream, node)
            await follower.loop.wait_turn()
            follower.store.moving.clear()
            nursery.start_soon(flood, stream)
            while journal.unwritten_bytes <= ROOM_BYTES:
                await follower.loop.wait_turn()
            for _ in range(100):
                await trio.testing.wait_all_tasks_blocked()
                highest = max(highest, journal.unwritten_bytes)
            follower.store.moving.set()
            assert highest < ROOM_BYTES + 2 * 262_144, "one read and one frame over the bound, not the whole flood"
            await follower.wait_last_index(entries + 1)
            while journal.durable_index < entries + 1:
                await follower.loop.wait_turn()
            assert journal.unwritten_bytes == 0
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_leader_that_repeats_itself_fills_nothing_while_the_disk_stalls() -> None:
    follower = Follower()
    core = follower.core
    core.advance(0.0, 0)
    entry = Entry(2, 1, COMMAND, entry_crc(2, 1, COMMAND))
    for number in range(1, 1_001):
        core.receive("n1", Append(1, number, 1, 0, 1, (entry,)), 0.0)
        core.receive("n1", Append(1, number, 5, 1, 1), 0.0)
        core.receive("n1", Heartbeat(1, 1), 0.0)
        core.advance(0.0, 0)
    waiting = [outgoing.message for outgoing in core.replica.guard.outbox]
    assert len(waiting) == 3
    writes = core.begin_write()
    follower.store.write(writes)
    core.end_write(writes, 0.0)
    sent = [outgoing.message for outgoing in core.take_outbox()]
    assert sent == waiting
    assert Appended(1, 1_000, True, 2, 3) in sent, "the newest answer says all that the older ones did"
