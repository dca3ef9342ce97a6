"""Links that the suite can hurt: what goes in comes out, and what was ordered happens to it."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from suite import relay
from suite.links import GOOD, Condition, Layers, Link, Links, worst

from lanyinglog.cli.processes import free_port

SILENCE_S = 0.3


class Ends:
    """A framed link and an unframed one, each leading to a listener of this test."""

    def __init__(self, directory: Path) -> None:
        port = free_port(nodes=4)
        host = "127.0.0.1"
        self.listeners = [socket.create_server((host, port)), socket.create_server((host, port + 1))]
        names = ("n1>n2", "client>n1")
        links = [Link(name, (host, port + 2 + i), (host, port + i), framed=i == 0) for i, name in enumerate(names)]
        self.links = Links(links, seed=1, log=directory / "relay.log")
        self._open: list[socket.socket] = []

    def connect(self, name: str) -> tuple[socket.socket, socket.socket]:
        """The two ends of a connection on the link ``name``."""
        near = socket.create_connection(self.links.links[name].listen, timeout=5)
        listener = self.listeners[list(self.links.links).index(name)]
        listener.settimeout(5)
        far, _ = listener.accept()
        far.settimeout(5)
        self._open += [near, far]
        return near, far

    def close(self) -> None:
        self.links.close()
        for one in (*self._open, *self.listeners):
            one.close()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    made = Ends(tmp_path)
    yield made
    made.close()


def _frame(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def _take(far: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := far.recv(count - len(data))):
        data += piece
    return data


def _is_silent(far: socket.socket) -> bool:
    far.settimeout(SILENCE_S)
    try:
        return not far.recv(1)
    except TimeoutError:
        return True
    finally:
        far.settimeout(5)


@pytest.mark.parametrize("name", ["n1>n2", "client>n1"])
def test_a_good_link_carries_what_it_is_given_both_ways(ends: Ends, name: str) -> None:
    near, far = ends.connect(name)
    near.sendall(_frame(b"there"))
    assert _take(far, 9) == _frame(b"there")
    far.sendall(_frame(b"back"))
    assert _take(near, 8) == _frame(b"back")


def test_what_is_sent_on_a_cut_link_waits_until_it_is_mended(ends: Ends) -> None:
    near, far = ends.connect("client>n1")
    ends.links.set(["client>n1"], Condition(cut=True))
    near.sendall(b"late")
    assert _is_silent(far)
    ends.links.set(["client>n1"], GOOD)
    assert _take(far, 4) == b"late"


def test_a_reset_ends_connections_and_the_link_takes_new_ones(ends: Ends) -> None:
    near, _ = ends.connect("client>n1")
    ends.links.reset(["client>n1"])
    with pytest.raises(ConnectionResetError):
        near.recv(1)
    near, far = ends.connect("client>n1")
    near.sendall(b"again")
    assert _take(far, 5) == b"again"


@pytest.mark.parametrize(
    ("condition", "arrives"),
    [
        pytest.param(Condition(lose=1.0), b"", id="lost"),
        pytest.param(Condition(double=1.0), _frame(b"one") * 2, id="doubled"),
    ],
)
def test_whole_frames_are_lost_and_doubled_behind_the_handshake(
    ends: Ends, condition: Condition, arrives: bytes
) -> None:
    near, far = ends.connect("n1>n2")
    ends.links.set(["n1>n2"], condition)
    hello = _frame(b"hello") + _frame(b"proof")
    near.sendall(hello)
    assert _take(far, len(hello)) == hello
    near.sendall(_frame(b"one"))
    assert _take(far, len(arrives)) == arrives
    assert _is_silent(far)


def test_a_flip_changes_one_bit(ends: Ends) -> None:
    near, far = ends.connect("client>n1")
    ends.links.set(["client>n1"], Condition(flip=1.0))
    near.sendall(bytes(64))
    assert sum(byte.bit_count() for byte in _take(far, 64)) == 1


def test_the_worst_of_all_conditions_holds_and_lifting_one_leaves_the_others(ends: Ends) -> None:
    near, far = ends.connect("client>n1")
    layers = Layers(ends.links)
    first = layers.put(["client>n1"], Condition(cut=True))
    second = layers.put(["client>n1"], Condition(cut=True))
    layers.lift(first)
    near.sendall(b"x")
    assert _is_silent(far)
    layers.lift(second)
    assert _take(far, 1) == b"x"


@pytest.mark.parametrize("slow", [Condition(bytes_s=10), Condition(delay_ms=60_000)], ids=["rate", "delay"])
def test_a_link_that_was_slow_owes_nothing_when_that_is_over(ends: Ends, slow: Condition) -> None:
    near, far = ends.connect("client>n1")
    ends.links.set(["client>n1"], slow)
    if slow.bytes_s:  # the first that comes finds the line free
        near.sendall(b"y")
        assert _take(far, 1) == b"y"
    for _ in range(20):
        near.sendall(bytes(100))
    assert _is_silent(far)
    ends.links.set(["client>n1"], GOOD)
    near.sendall(b"x")
    assert _take(far, 2_001) == bytes(2_000) + b"x", "it would have taken minutes"


def test_what_was_wrong_with_links_is_noted_when_it_is_over(ends: Ends) -> None:
    layers = Layers(ends.links)
    before = time.monotonic_ns()
    number = layers.put(["n1>n2"], Condition(cut=True))
    layers.put(["client>n1"], Condition(delay_ms=1))
    layers.reset(["n1>n2"])
    assert [(t0 == t1, links) for t0, t1, links in layers.troubled] == [(True, {"n1>n2"})]
    layers.lift(number)
    layers.clear()
    after = time.monotonic_ns()
    assert [links for _, _, links in layers.troubled] == [{"n1>n2"}, {"n1>n2"}, {"client>n1"}]
    assert all(before <= t0 <= t1 <= after for t0, t1, _ in layers.troubled)


def test_conditions_add_up() -> None:
    both = worst([Condition(delay_ms=10, bytes_s=500, lose=0.1), Condition(delay_ms=5, bytes_s=100, cut=True)])
    assert both == Condition(cut=True, delay_ms=15, bytes_s=100, lose=0.1)
    assert worst([]) == GOOD


def test_the_relay_ends_with_the_suite(tmp_path: Path) -> None:
    made = Ends(tmp_path)
    process = made.links._process
    made.close()
    assert process.returncode is not None


def test_what_waited_for_a_cut_link_may_be_sent_by_who_brings_more() -> None:
    async def run() -> bytes:
        link = relay.RelayedLink({"name": "a", "target": ["", 0], "listen": ["", 0], "framed": False}, random.Random(1))
        near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(one)) for one in socket.socketpair())
        flow = relay.Flow(link, far, framed=False)
        link.set({"cut": True})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flow.send)
            await flow.take(b"one ")
            await trio.testing.wait_all_tasks_blocked()  # the sender waits for the link
            link.set({})
            await flow.take(b"two")  # before the sender has its turn
            await flow.end()
        return bytes(await near.receive_some())

    assert trio.run(run) == b"one two"
