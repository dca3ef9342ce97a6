"""Which servers a client keeps in mind: a bounded number, those of use, and always what the user named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from client.loopback import QUICK, Loopback
from client.test_client import connect, go

from lanyinglog.client import leader
from lanyinglog.client.leader import SERVERS_MAX, Refusals, Servers
from lanyinglog.client.link import Link, LinkLost
from lanyinglog.config import Address


def at(port: int) -> Address:
    return Address("127.0.0.1", port)


def learn(servers: Servers, *ports: int) -> None:
    for port in ports:
        assert servers.learn(f"127.0.0.1:{port}") == at(port)


async def tried(servers: Servers, *ports: int, up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of ``ports`` was tried, in this order: all of them are ``up``, or none is."""

    async def open_link(address: Address, *_: object) -> Any:
        if not up:
            raise LinkLost(f"{address} can't be reached")
        return SimpleNamespace(welcome=SimpleNamespace(leader_client=None))

    monkeypatch.setattr(Link, "open", open_link)
    for port in ports:
        await servers.try_open(at(port))


def test_those_that_failed_longest_make_room_then_untried_ones_and_last_those_that_were_reached(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "SERVERS_MAX", 6)

    async def main() -> None:
        servers = Servers([at(1)], log="main", timing=QUICK)
        learn(servers, 2, 3, 4, 5, 6)  # nobody tries 5
        servers.leader = at(4)
        await tried(servers, 4, 6, up=True, monkeypatch=monkeypatch)
        await tried(servers, 1, 2, 3, up=False, monkeypatch=monkeypatch)
        await tried(servers, 2, up=True, monkeypatch=monkeypatch)
        await tried(servers, 1, 2, 3, up=False, monkeypatch=monkeypatch)  # 2 has failed less long than 3
        gone = []
        for port in range(11, 16):
            before = set(servers.addresses)
            learn(servers, port)
            await tried(servers, port, up=True, monkeypatch=monkeypatch)
            gone += [address.port for address in before - set(servers.addresses)]
        assert gone == [3, 2, 5, 6, 11], "the user named 1, and 4 leads"
        assert [address.port for address in servers.addresses] == [1, 4, 12, 13, 14, 15]

    go(backend, main)


def test_what_the_user_named_is_never_forgotten() -> None:
    named = [at(port) for port in range(1, SERVERS_MAX + 1)]
    servers = Servers(named, log="main", timing=QUICK)
    assert servers.learn("127.0.0.1:100") is None
    assert servers.addresses == named


async def asked(servers: Servers, refusals: Refusals, *, down: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> int:
    """Who is asked next where the servers ``down`` can't be reached; it is of no use either."""

    async def open_link(address: Address, *_: object) -> Any:
        if address.port in down:
            raise LinkLost(f"{address} can't be reached")
        return SimpleNamespace(welcome=SimpleNamespace(leader_client=None), address=address)

    monkeypatch.setattr(Link, "open", open_link)
    link = await servers.open_any(refusals)
    refusals.note(link.address)
    return link.address.port


def test_who_refused_or_failed_is_asked_again_when_all_have(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        servers, refusals = Servers([at(1), at(2)], log="main", timing=QUICK), Refusals()
        learn(servers, 3, 4)
        order = [await asked(servers, refusals, down=(2,), monkeypatch=monkeypatch) for _ in range(3)]
        assert (order[0], set(order)) == (1, {1, 3, 4}), "the user named 1 and 2, which is down"
        again = [await asked(servers, refusals, down=(), monkeypatch=monkeypatch) for _ in range(8)]
        assert again[:4] == again[4:] and set(again) == {1, 2, 3, 4}, "in turn"
        assert [port for port in again[:4] if port != 2] == order
        refusals.clear()
        assert {await asked(servers, refusals, down=(), monkeypatch=monkeypatch) for _ in range(2)} == {1, 2}

    go(backend, main)


def test_refusals_of_servers_that_are_forgotten_are_forgotten() -> None:
    refusals = Refusals()
    for port in (1, 2, 3, 1):
        refusals.note(at(port))
    assert refusals.ranks([at(1), at(3), at(4)]) == {at(1): 2, at(3): 1, at(4): 0}
    assert refusals.ranks([at(2)]) == {at(2): 0}


def test_a_client_that_knows_many_dead_servers_follows_the_leader_to_a_new_one(three: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(three, 0, timeout=60) as client:
            learn(client._servers, *range(1, 70))
            three.lead(2)
            await client.publish("t", b"x")
            assert len(client._servers.addresses) == SERVERS_MAX

    go(backend, main)
