"""Through TLS a client does what it does without, and who has no certificate of the cluster's does nothing (P10)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest
from certificates import Authority
from client.loopback import LIMITS, Loopback, loopback

import lanyinglog
from lanyinglog.errors import NotSent, Unavailable
from lanyinglog.tls import Tls, TlsFiles, client_context


@dataclass
class Secured:
    cluster: Loopback
    ours: Authority
    theirs: Authority
    node: TlsFiles


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    """Three nodes that speak TLS, and an authority that is not theirs."""
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    files = ours.issue("node", "127.0.0.1")
    with loopback(3, tls=Tls(files)) as running:
        yield Secured(running, ours, theirs, files)


def test_a_client_publishes_and_reads(secured: Secured, backend: str) -> None:
    context = client_context(secured.ours.issue("client"))
    large = bytes(range(256)) * 3_000

    async def main() -> None:
        with anyio.fail_after(20):
            async with lanyinglog.connect(secured.cluster.servers[1], tls=context) as client:
                ack = await client.publish("a.b", b"one", key=b"k")
                await client.publish_many("a.b", [large, b"", large])
                async with client.subscribe("a.>", start=ack.seq, until="last") as messages:
                    assert [one.payload async for one in messages] == [b"one", large, b"", large]
                assert {node["role"] for node in await client.status()} <= {"leader", "follower"}

    anyio.run(main, backend=backend)


def test_a_subscriber_goes_on_when_its_connection_breaks(secured: Secured, backend: str) -> None:
    context = client_context(secured.ours.issue("client"))

    async def main() -> None:
        with anyio.fail_after(20):
            async with (
                lanyinglog.connect(secured.cluster.servers, tls=context) as client,
                client.subscribe("a.>", start="first") as messages,
            ):
                for number in range(3):
                    await client.publish("a.b", b"%d" % number)
                    assert (await anext(messages)).payload == b"%d" % number
                    for proxy in secured.cluster.proxies:
                        secured.cluster.do(proxy.cut)

    anyio.run(main, backend=backend)


def test_a_program_without_a_loop(secured: Secured) -> None:
    context = client_context(secured.ours.issue("client"))
    with lanyinglog.sync.connect(secured.cluster.servers, tls=context) as client:
        assert client.publish("a", b"x").seq == 1


def _without_certificate(secured: Secured) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(secured.ours.file))


def _of_another_authority(secured: Secured) -> ssl.SSLContext:
    return client_context(replace(secured.theirs.issue("client"), ca=secured.ours.file))


def _that_trusts_another(secured: Secured) -> ssl.SSLContext:
    return client_context(replace(secured.ours.issue("client"), ca=secured.theirs.file))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(_without_certificate, "without a word, as a node with tls does", id="no-certificate"),
        pytest.param(_of_another_authority, "without a word, as a node with tls does", id="of-another-authority"),
        pytest.param(_that_trusts_another, "certificate verify failed", id="that-trusts-another"),
        pytest.param(lambda _: None, "without a word, as a node with tls does", id="plain"),
    ],
)
def test_a_client_that_is_not_the_clusters_is_not_heard(
    secured: Secured, make: object, words: str, backend: str
) -> None:
    context = make(secured)  # type: ignore[operator]

    async def main() -> None:
        with anyio.fail_after(20):
            async with lanyinglog.connect(secured.cluster.servers[0], tls=context, timeout=1) as client:
                with pytest.raises((NotSent, Unavailable)) as caught:
                    await client.publish("a.b", b"x")
                assert words in caught.value.message.lower().replace("_", " ")

    anyio.run(main, backend=backend)
    assert secured.cluster.log.last_seq == 0


def test_a_node_must_be_named_by_its_certificate(secured: Secured, backend: str) -> None:
    context = client_context(secured.ours.issue("client"))
    elsewhere = secured.cluster.servers[0].replace("127.0.0.1", "localhost")

    async def main() -> None:
        with anyio.fail_after(20):
            async with lanyinglog.connect(elsewhere, tls=context, timeout=1) as client:
                with pytest.raises(NotSent, match=r"(?i)hostname mismatch"):
                    await client.publish("a.b", b"x")

    anyio.run(main, backend=backend)


def test_a_renewed_certificate_is_shown_to_the_next_client(secured: Secured) -> None:
    """Here by its being one of another authority: who trusts that gets in, who trusts the old one does not."""
    other = secured.theirs.issue("node", "127.0.0.1")
    for new, old in zip(other.paths, secured.node.paths, strict=True):
        old.write_bytes(new.read_bytes())
    context = client_context(secured.theirs.issue("client"))
    with lanyinglog.sync.connect(secured.cluster.servers, tls=context) as client:
        assert client.publish("a", b"x").seq == 1


def test_who_is_silent_before_a_certificate_takes_no_clients_place(secured: Secured) -> None:
    context = client_context(secured.ours.issue("client"))

    async def main() -> None:
        host, port = secured.cluster.servers[0].split(":")
        with anyio.fail_after(20):
            silent = [await anyio.connect_tcp(host, int(port)) for _ in range(LIMITS.connections_max + 1)]
            async with lanyinglog.connect(secured.cluster.servers[0], tls=context, timeout=5) as client:
                assert (await client.publish("a", b"x")).seq == 1
            for stream in silent:
                await stream.aclose()

    anyio.run(main)


def test_silence_and_junk_cost_their_own_connection(secured: Secured) -> None:
    async def main() -> None:
        with anyio.fail_after(20):
            address = secured.cluster.servers[0].split(":")
            async with await anyio.connect_tcp(address[0], int(address[1])) as stream:
                await stream.send(b"\x16\x03\x01" + b"junk" * 100)
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    while True:
                        await stream.receive()

    anyio.run(main)
    with lanyinglog.sync.connect(secured.cluster.servers, tls=client_context(secured.ours.issue("client"))) as client:
        assert client.publish("a", b"x").seq == 1
