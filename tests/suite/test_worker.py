"""The workloads' clients go through the relays, in whichever way the client opens its streams."""

from __future__ import annotations

import anyio
import pytest
from client.loopback import loopback
from suite.worker import connect_through

import lanyinglog
from lanyinglog.client import link


def test_a_client_reaches_a_node_through_its_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_open_stream", link._open_stream)  # put back afterwards

    async def main(relayed: str) -> None:
        with anyio.fail_after(10):
            async with lanyinglog.connect(relayed) as client:
                assert (await client.publish("a", b"x")).seq == 1

    with loopback() as cluster:
        connect_through({"127.0.0.1:1": cluster.servers[0]})
        anyio.run(main, "127.0.0.1:1")
        assert cluster.log.last_seq == 1
