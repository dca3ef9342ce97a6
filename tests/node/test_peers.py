"""Links between nodes: who is let in, and what bad input costs."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from certificates import Authority
from structlog.testing import capture_logs

from lanyinglog.config import Address
from lanyinglog.raft import peers as peers_module
from lanyinglog.raft.handshake import PEER_VERSIONS, PeerIdentity
from lanyinglog.raft.messages import Alive, Append, PeerMessage, to_parts
from lanyinglog.raft.peers import LARGE_BYTES, Outbox, PeerNetwork
from lanyinglog.store.log_store import Entry, entry_crc
from lanyinglog.tls import Tls, TlsFiles
from lanyinglog.wire.frames import encode_frame


class Node:
    """A `PeerNetwork` on a loopback port, with what it heard."""

    def __init__(self, name: str, listener: trio.SocketListener) -> None:
        self.name = name
        self.listener = listener
        self.address = Address("127.0.0.1", listener.socket.getsockname()[1])
        self.heard: list[tuple[str, PeerMessage]] = []
        self.connected = trio.Event()
        self.network: PeerNetwork
        self._arrival = trio.Event()

    def build(
        self,
        members: dict[str, Address],
        secret: bytes | None,
        cluster: str,
        versions: tuple[int, int] = PEER_VERSIONS,
        tls: Tls | None = None,
    ) -> None:
        self.network = PeerNetwork(
            identity=PeerIdentity(self.name, cluster, f"{self.name}:1", str(self.address), secret, versions),
            peers=members,
            outbox_bytes_max=1 << 20,
            receive=self._receive,
            link_changed=lambda peer, up: up and self.connected.set(),
            tls=tls,
        )

    def _receive(self, sender: str, message: PeerMessage) -> None:
        self.heard.append((sender, message))
        self._arrival.set()

    async def wait_heard(self, count: int) -> None:
        while len(self.heard) < count:
            self._arrival = trio.Event()
            await self._arrival.wait()


@asynccontextmanager
async def cluster(
    *,
    secrets: tuple[bytes | None, ...],
    names: tuple[str, ...] = ("n1", "n2"),
    clusters: tuple[str, ...] = ("c", "c"),
    versions: tuple[tuple[int, int], ...] = (PEER_VERSIONS, PEER_VERSIONS),
    tls: tuple[Tls | None, ...] = (None, None),
) -> AsyncIterator[list[Node]]:
    nodes = [Node(name, (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]) for name in names]
    members = {node.name: node.address for node in nodes}
    async with trio.open_nursery() as nursery:
        for node, secret, name, spoken, secured in zip(nodes, secrets, clusters, versions, tls, strict=True):
            node.build(members, secret, name, spoken, secured)
            nursery.start_soon(node.network.run, [node.listener])
        yield nodes
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_messages_arrive_in_order_from_whom_they_came() -> None:
    with trio.fail_after(10):
        async with cluster(secrets=(b"s" * 32, b"s" * 32)) as (one, two):
            await one.connected.wait()
            entry = Entry(2, 1, b"command", entry_crc(2, 1, b"command"))
            sent = [Append(1, n, 1, 0, 0, (entry,)) if n % 2 else Alive(n) for n in range(1, 200)]
            for message in sent:
                one.network.send("n2", message)
            await two.wait_heard(len(sent))
            assert two.heard == [("n1", message) for message in sent]
            assert one.network.clients == {"n2": "n2:1"}


@pytest.mark.trio
@pytest.mark.parametrize(
    ("secrets", "clusters"),
    [
        pytest.param((b"s" * 32, b"t" * 32), ("c", "c"), id="another-secret"),
        pytest.param((b"s" * 32, None), ("c", "c"), id="no-secret-at-the-listener"),
        pytest.param((None, b"s" * 32), ("c", "c"), id="no-secret-at-the-dialler"),
        pytest.param((None, None), ("c", "d"), id="another-cluster"),
    ],
)
async def test_a_stranger_is_not_heard(secrets: tuple[bytes | None, ...], clusters: tuple[str, ...]) -> None:
    refused = trio.Event()
    with trio.fail_after(10):
        async with cluster(secrets=secrets, clusters=clusters) as (one, two):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(peers_module.log, "warning", lambda *_, **__: refused.set(), raising=False)
                await refused.wait()
            assert not one.connected.is_set() and not two.connected.is_set()
            assert not one.network.is_connected("n2")


@pytest.mark.trio
@pytest.mark.parametrize(
    ("hello", "why"),
    [
        pytest.param({"cluster": "d"}, "n1 belongs to cluster d, n2 to cluster c", id="another-cluster"),
        pytest.param({"to": "n3"}, "n1 looks for n3 at the address of n2", id="another-node"),
        pytest.param({"node": "n2"}, "two nodes are called n2", id="itself"),
    ],
)
async def test_who_is_not_meant_to_be_here_is_told_why(hello: dict[str, str], why: str) -> None:
    with trio.fail_after(10):
        async with cluster(secrets=(None, None)) as (_, second), await trio.open_tcp_stream(*second.address) as stream:
            await stream.send_all(encode_frame(128, 0, {**HELLO, **hello}))
            assert why.encode() in await stream.receive_some(4096)
            assert await stream.receive_some(4096) == b""


@pytest.mark.trio
async def test_both_say_why_there_is_no_link_between_them() -> None:
    down, refused = trio.Event(), trio.Event()
    with trio.fail_after(10), capture_logs() as said:
        async with cluster(secrets=(None, None), clusters=("c", "d")):
            with pytest.MonkeyPatch.context() as patch:
                info, warning = peers_module.log.info, peers_module.log.warning
                patch.setattr(peers_module.log, "info", lambda *a, **k: (info(*a, **k), down.set()), raising=False)
                patch.setattr(
                    peers_module.log, "warning", lambda *a, **k: (warning(*a, **k), refused.set()), raising=False
                )
                await down.wait()
                await refused.wait()
    whys = {one["why"] for one in said}
    assert whys & {"n1 belongs to cluster c, n2 to cluster d", "n2 belongs to cluster d, n1 to cluster c"}
    assert any("refuses this node: " in why for why in whys)


@pytest.mark.trio
async def test_links_go_through_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = tuple(Tls(authority.issue(name, "127.0.0.1")) for name in ("n1", "n2"))
    with trio.fail_after(10):
        async with cluster(secrets=(b"s" * 32, b"s" * 32), tls=tls) as (one, two):
            await one.connected.wait()
            large = bytes(range(256)) * 2_000
            entry = Entry(2, 1, large, entry_crc(2, 1, large))
            sent = [Append(1, n, 1, 0, 0, (entry,)) if n == 50 else Alive(n) for n in range(1, 100)]
            for message in sent:
                one.network.send("n2", message)
                await trio.lowlevel.checkpoint()
            await two.wait_heard(len(sent))
            assert two.heard == [("n1", message) for message in sent]


@pytest.mark.trio
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda ours, theirs: None, id="plain"),
        pytest.param(lambda ours, theirs: theirs.issue("n2", "127.0.0.1"), id="another-authority"),
        pytest.param(lambda ours, theirs: ours.issue("n2", "elsewhere.invalid"), id="another-host"),
    ],
)
async def test_who_has_no_such_certificate_is_no_node(
    tmp_path: Path, other: Callable[[Authority, Authority], TlsFiles | None]
) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    files = other(ours, theirs)
    tls = (Tls(ours.issue("n1", "127.0.0.1")), None if files is None else Tls(files))
    refused = trio.Event()
    with trio.fail_after(10):
        async with cluster(secrets=(b"s" * 32, b"s" * 32), tls=tls) as (one, _):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    peers_module.log, "info", lambda event, **_: event == "link_down" and refused.set(), raising=False
                )
                await refused.wait()
            assert not one.connected.is_set()
            assert not one.network.is_connected("n2")


@pytest.mark.trio
async def test_who_is_no_member_any_more_is_answered_as_long_as_it_speaks() -> None:
    """A node that lost its disk gets a log in which others were members once; who leads now is none of them for a
    while, and must be answered all the same."""
    with trio.fail_after(10):
        async with cluster(secrets=(None, None)) as (one, two):
            await one.connected.wait()
            await two.connected.wait()
            one.network.send("n2", Alive(1))
            await two.wait_heard(1)
            two.network.set_peers({"n7": Address("127.0.0.1", 1)}, frozenset())
            await trio.testing.wait_all_tasks_blocked()  # a link that is given up is down by now
            two.network.send("n1", Alive(2))
            await one.wait_heard(1)
            assert one.heard == [("n2", Alive(2))]


@pytest.mark.trio
async def test_a_newer_link_replaces_the_older_one() -> None:
    with trio.fail_after(10):
        async with cluster(secrets=(None, None)) as (one, two):
            await one.connected.wait()
            one.network.send("n2", Alive(1))
            await two.wait_heard(1)
            first = two.network._inbound["n1"]
            stream = await trio.open_tcp_stream(*two.address)
            await introduce(stream, two)
            await stream.send_all(encode_frame(Alive.kind, 0, {"term": 7}))
            await two.wait_heard(2)
            assert two.heard[-1] == ("n1", Alive(7))
            assert first.cancel_called
            await stream.aclose()


@pytest.mark.trio
@pytest.mark.parametrize("host", ["10.0.0.4..lan", ".local", "a" * 64])
async def test_an_address_that_no_resolver_can_be_asked_for_ends_no_node(host: str) -> None:
    """It may have come by the log: then every node would end, again at each start."""
    with trio.fail_after(10), capture_logs() as said:
        async with cluster(secrets=(None, None)) as (one, two):
            one.network.set_peers({"n2": two.address, "n4": Address(host, 7520)}, frozenset())
            one.network.send("n2", Alive(1))
            while not [each for each in said if each.get("peer") == "n4"]:
                await trio.testing.wait_all_tasks_blocked(0.01)
            while not two.heard:
                one.network.send("n2", Alive(1))
                await trio.sleep(0.01)
    assert f"{Address(host, 7520)} can't be dialled" in next(one["why"] for one in said if one.get("peer") == "n4")


@pytest.mark.trio
async def test_who_can_not_speak_tls_is_told_of_once_a_minute(tmp_path: Path) -> None:
    tls = Tls(Authority(tmp_path).issue("n1", "127.0.0.1"))
    with trio.fail_after(10), capture_logs() as said:
        async with cluster(secrets=(None, None), tls=(tls, tls)) as (one, _):
            for _ in range(5):
                async with await trio.open_tcp_stream(*one.address) as stream:
                    await stream.send_all(b"no TLS at all")
                    with contextlib.suppress(trio.BrokenResourceError):
                        while await stream.receive_some(4096):
                            pass
    assert len([each for each in said if each["event"] == "link_refused" and each["peer"] == "unknown"]) == 1
    assert not [each for each in said if each["event"] == "link_lost" and each["peer"] == "unknown"]


@pytest.mark.trio
async def test_a_link_that_breaks_under_a_write_is_dialled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused peer's link is ended by the system while bytes wait in it: that must not end the node (P9)."""
    broken = False

    async def break_once(self: PeerNetwork, stream: trio.SocketStream, outbox: Outbox) -> None:
        nonlocal broken
        if not broken:
            broken = True
            raise trio.BrokenResourceError("connection timed out")
        await real(self, stream, outbox)

    real = PeerNetwork._write
    monkeypatch.setattr(PeerNetwork, "_write", break_once)
    with trio.fail_after(10):
        async with cluster(secrets=(None, None)) as (one, two):
            while not two.heard:
                one.network.send("n2", Alive(1))
                await trio.sleep(0.01)
    assert broken


@pytest.mark.trio
@pytest.mark.parametrize(
    ("one", "two", "spoken"), [((1, 2), (2, 3), 2), ((2, 2), (1, 4), 2), ((1, 3), (1, 3), 3), ((2, 2), (2, 2), 2)]
)
async def test_nodes_of_two_versions_speak_the_highest_that_both_know(
    one: tuple[int, int], two: tuple[int, int], spoken: int
) -> None:
    with trio.fail_after(10):
        async with cluster(secrets=(None, None), versions=(one, two)) as (first, second):
            await first.connected.wait()
            first.network.send("n2", Alive(1))
            await second.wait_heard(1)
            assert first.network.versions == {"n2": spoken}


@pytest.mark.trio
@pytest.mark.parametrize("other", [[3, 4], [1, 1], [2], "2", None, 2, [True, 2], [2.0, 2.0]], ids=repr)
async def test_who_shares_no_version_is_told_so_and_heard_no_further(other: object) -> None:
    with trio.fail_after(10), capture_logs() as said:
        async with cluster(secrets=(None, None), versions=((2, 2), (2, 2))) as (_, second):
            stream = await trio.open_tcp_stream(*second.address)
            async with stream:
                await stream.send_all(encode_frame(128, 0, {**HELLO, "versions": other}))
                assert b"peer versions" in await stream.receive_some(4096)
                assert await stream.receive_some(4096) == b""
    assert any(one["event"] == "link_refused" and "peer versions" in one["why"] for one in said)


@pytest.mark.trio
async def test_the_same_refusal_is_told_once_a_minute() -> None:
    with trio.fail_after(10), capture_logs() as said:
        async with cluster(secrets=(None, None)) as (_, second):
            for other in ([8, 8], [8, 8], [9, 9], [8, 8]):
                async with await trio.open_tcp_stream(*second.address) as stream:
                    await stream.send_all(encode_frame(128, 0, {**HELLO, "versions": other}))
                    assert b"n1 speaks peer versions" in await stream.receive_some(4096)
                    assert await stream.receive_some(4096) == b""
    assert [one["why"][:25] for one in said if one["event"] == "link_refused"] == [
        "n1 speaks peer versions 8",
        "n1 speaks peer versions 9",
    ]


async def introduce(stream: trio.SocketStream, to: Node) -> None:
    hello = {
        "versions": list(PEER_VERSIONS),
        "cluster": "c",
        "node": "n1",
        "to": to.name,
        "client": "x:1",
        "peer": "x:2",
        "nonce": b"n" * 16,
    }
    await stream.send_all(encode_frame(128, 0, hello))
    await stream.receive_some(4096)
    await stream.send_all(encode_frame(140, 0, {"proof": b""}))


HELLO = {
    "versions": list(PEER_VERSIONS),
    "cluster": "c",
    "node": "n1",
    "to": "n2",
    "client": "x:1",
    "peer": "x:2",
    "nonce": b"n" * 16,
}


def _garbage(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 300))


def _mutated_hello(rng: random.Random) -> bytes:
    frame = bytearray(encode_frame(128, 0, HELLO))
    for _ in range(rng.randrange(1, 4)):
        frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
    return bytes(frame)


def _wrong_fields(rng: random.Random) -> bytes:
    header: dict[str, Any] = dict(HELLO)
    key = rng.choice(sorted(header))
    header[key] = rng.choice([None, -1, 1 << 40, "x" * 2000, b"y" * 500, [], {}, 99])
    return encode_frame(rng.choice([128, 128, 129, 1, 255]), 0, header)


def _torn(rng: random.Random) -> bytes:
    frame = encode_frame(128, 0, HELLO)
    return frame[: rng.randrange(len(frame))]


def _hostile_length(rng: random.Random) -> bytes:
    return rng.choice([b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", (1 << 30).to_bytes(4, "little")]) + rng.randbytes(50)


@pytest.mark.trio
@pytest.mark.parametrize("make", [_garbage, _mutated_hello, _wrong_fields, _torn, _hostile_length])
async def test_bad_input_costs_its_own_link_and_nothing_else(make: Callable[[random.Random], bytes]) -> None:
    rng = random.Random(20)
    with trio.fail_after(60):
        async with cluster(secrets=(None, None)) as (one, two):
            await one.connected.wait()
            for _ in range(100):
                stream = await trio.open_tcp_stream(*two.address)
                async with stream:
                    await stream.send_all(make(rng))
                    await stream.send_eof()
                    try:
                        while await stream.receive_some(4096):
                            pass
                    except trio.BrokenResourceError:
                        pass  # the node closed it with bytes unread: a reset
            one.network.send("n2", Alive(5))
            await two.wait_heard(1)
            assert two.heard[-1] == ("n1", Alive(5))
            assert len(two.network._strangers) == 0


@pytest.mark.trio
async def test_damaged_messages_behind_a_valid_handshake_close_the_link() -> None:
    rng = random.Random(21)
    entry = Entry(2, 1, b"command" * 10, entry_crc(2, 1, b"command" * 10))
    kind, header, body_parts = to_parts(Append(1, 1, 1, 0, 0, (entry,)))
    good = encode_frame(kind, 0, header, body_parts)
    with trio.fail_after(60):
        async with cluster(secrets=(None, None)) as (one, two):
            await one.connected.wait()
            for _ in range(60):
                bad = bytearray(good)
                bad[rng.randrange(16, len(bad))] ^= 1 << rng.randrange(8)
                stream = await trio.open_tcp_stream(*two.address)
                async with stream:
                    await introduce(stream, two)
                    await stream.send_all(bad)
                    try:
                        while await stream.receive_some(4096):
                            pass
                    except trio.BrokenResourceError:
                        pass
            assert two.heard == [], "a flipped bit is never delivered"


@pytest.mark.trio
async def test_a_handshake_that_takes_its_time_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    one, other = trio.testing.memory_stream_pair()
    node = Node.__new__(Node)
    node.name, node.heard = "n2", []
    network = PeerNetwork(
        identity=PeerIdentity("n2", "c", "x:1", "x:2", None),
        peers={"n1": Address("127.0.0.1", 1), "n2": Address("127.0.0.1", 2)},
        outbox_bytes_max=1000,
        receive=lambda sender, message: None,
        link_changed=lambda peer, up: None,
    )
    frame = encode_frame(128, 0, HELLO)

    async def trickle() -> None:
        try:
            for byte in frame:
                await one.send_all(bytes([byte]))
                await trio.sleep(1)
        except trio.BrokenResourceError:
            pass

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        with pytest.raises(trio.TooSlowError):
            await network._identify(other, peers_module.FrameDecoder(frame_bytes_max=4096))  # type: ignore[arg-type]
        await other.aclose()
    assert trio.current_time() - started < peers_module.HANDSHAKE_S_MAX + 2


def test_a_full_outbox_drops_what_comes_next_and_keeps_what_it_has() -> None:
    outbox = Outbox(bytes_max=1000)
    entry = Entry(2, 1, b"x" * 800, 0)
    assert outbox.put(Append(1, 1, 1, 0, 0, (entry,)))
    assert not outbox.put(Append(1, 2, 2, 0, 0, (entry,)))
    outbox.clear()
    assert outbox.put(Append(1, 3, 1, 0, 0, (entry,)))


class System:
    """A socket whose buffer takes ``room`` bytes at once, and the rest when it is waited for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""

    def send_now(self, *parts: bytes | memoryview) -> int:
        part = b"".join(parts)[: self.room]
        self.room -= len(part)
        self.taken += part
        return len(part)


@pytest.mark.trio
@pytest.mark.parametrize("size", [200, 2 * LARGE_BYTES], ids=["in one", "in parts"])
@pytest.mark.parametrize("room", [0, 1, 30, 10_000, 1 << 20])
async def test_what_the_system_does_not_take_leaves_before_all_that_comes_later(room: int, size: int) -> None:
    """A message goes out at once when nothing waits; whatever of it stays behind keeps its place in the stream."""
    entry = Entry(2, 1, b"x" * size, entry_crc(2, 1, b"x" * size))
    messages: list[PeerMessage] = [Alive(1), Append(1, 1, 1, 0, 0, (entry,)), Alive(2), Alive(3)]
    frames = [encode_frame(kind, 0, header, body) for kind, header, body in map(to_parts, messages)]
    system, outbox = System(room), Outbox(bytes_max=1 << 20)
    outbox.open(system.send_now)

    async def write() -> None:
        while True:
            parts = await outbox.take(1 << 20)
            system.taken += b"".join(parts)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            assert all(map(outbox.put, messages[:2]))
            assert system.taken == b"".join(frames[:2])[:room], "as much as fits has left before any task ran"
            assert outbox.put(messages[2])
            await trio.testing.wait_all_tasks_blocked()
            system.room = 10_000
            assert outbox.put(messages[3])
            assert system.taken == b"".join(frames), "nothing waited any more"
            nursery.cancel_scope.cancel()


def test_a_new_link_begins_with_a_whole_frame() -> None:
    system, outbox = System(5), Outbox(bytes_max=10_000)
    outbox.open(system.send_now)
    outbox._writer_waits = True
    assert outbox.put(Alive(1))
    assert outbox._rest
    outbox.open(None)
    assert not outbox._rest
