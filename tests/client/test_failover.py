"""Connections that break, nodes that freeze, leaders that change: everything once, in order (P2, P4, P5, P9)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import anyio
import pytest
import trio
from client.loopback import QUICK, Loopback, cutting, loopback
from client.test_client import connect, go, read_all

import lanyinglog
from lanyinglog.errors import OutcomeUnknown, Unavailable


@pytest.mark.parametrize("seed", range(2))
def test_a_publisher_whose_connections_keep_breaking_stores_everything_once(
    three: Loopback, backend: str, seed: int
) -> None:
    lines = [b"%06d" % place * (1 + place % 9) for place in range(8_000)]

    async def main() -> None:
        async with connect(three) as client:
            async with cutting(three, seed, 1, 40_000), client.publisher(batch_bytes=4_000) as publisher:
                for at in range(0, len(lines), 50):
                    await publisher.send_many("t", lines[at : at + 50])
            assert publisher.acknowledged == len(lines)
            assert [message.payload for message in await read_all(client)] == lines
        assert sum(proxy.connections for proxy in three.proxies) > 5, "they did break"

    go(backend, main)


@pytest.mark.parametrize("seed", range(2))
def test_a_subscription_whose_connections_keep_breaking_sees_everything_once(
    three: Loopback, backend: str, seed: int
) -> None:
    async def main() -> None:
        async with connect(three) as client:
            async with client.publisher(batch_bytes=3_000) as publisher:
                await publisher.send_many("t.a", [b"%06d" % place * 60 for place in range(6_000)])
                await publisher.send_many("t.b", [b"%06d" % place for place in range(3_000)])
            async with cutting(three, seed, 100_000, 700_000):
                everything = [message.seq for message in await read_all(client)]
                some = [message.seq for message in await read_all(client, "*.b")]
                each: list[int] = []
                async with client.subscribe("t.>", start=7_001, until="last") as messages:
                    async for message in messages:
                        each.append(message.seq)
                        assert messages.next_seq == message.seq + 1 or message.seq == 9_000
            assert everything == list(range(1, 9_001))
            assert some == list(range(6_001, 9_001))
            assert each == list(range(7_001, 9_001))
        assert sum(proxy.connections for proxy in three.proxies) > 6, "they did break"

    go(backend, main)


def test_publishes_follow_the_leader(three: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(three, 2) as client:
            for place in (0, 1, 2, 1, 0):
                three.lead(place)
                await client.publish("t", b"%d" % place)
            assert [message.payload for message in await read_all(client)] == [b"0", b"1", b"2", b"1", b"0"]

    go(backend, main)


@pytest.mark.parametrize("stored", [False, True], ids=["it was lost", "it was stored"])
def test_a_batch_whose_leader_was_deposed_is_stored_once(three: Loopback, backend: str, stored: bool) -> None:
    async def main() -> None:
        three.log.held = True
        acks: list[lanyinglog.Ack] = []

        async def publish(client: lanyinglog.Client) -> None:
            acks.append(await client.publish("t", b"x"))

        async with connect(three) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish, client)
                await three.wait_submitted()
                if stored:
                    # Its answer stays in the proxy, which is then cut.
                    three.do(three.proxies[0].freeze)
                    three.do(three.log.release)
                    three.lead(1)
                    three.do(three.proxies[0].cut)
                else:
                    three.depose(1, OutcomeUnknown("deposed"))
                    three.do(three.log.release)
            assert acks[0].duplicate == stored
            assert [message.payload for message in await read_all(client)] == [b"x"]

    go(backend, main)


def test_a_leader_that_freezes_is_given_up(three: Loopback, backend: str) -> None:
    async def main() -> None:
        timing = replace(QUICK, stall_s=60.0)
        async with lanyinglog.connect(three.servers, timing=timing) as client:
            await client.publish("t", b"1")
            three.do(three.proxies[0].freeze)
            three.lead(1)
            assert (await client.publish("t", b"2", timeout=5)).seq == 2
            assert [message.payload for message in await read_all(client)] == [b"1", b"2"]

    go(backend, main)


def test_an_error_tells_of_no_problem_that_is_over(three: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(three, 1) as client, anyio.create_task_group() as tasks:
            three.log.held = True
            tasks.start_soon(client.publish, "t", b"1")
            await three.wait_submitted()  # the other node said that this one leads
            assert client._servers.last_problem == f"{three.servers[0]}, which leads, has not answered"
            three.do(three.log.release)
            await client.publish("t", b"2")
            assert client._servers.last_problem == "no server said why"

    go(backend, main)


def test_a_leader_that_answers_pings_and_nothing_else_is_given_up(three: Loopback, backend: str) -> None:
    async def main() -> None:
        three.log.held = True
        async with connect(three) as client:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.publish, "t", b"1")
                await three.wait_submitted()
                before = three.proxies[0].connections
                # The next try of the same batch: on a new connection, after `stall_s`.
                await three.wait_submitted()
                assert three.proxies[0].connections > before
                three.do(three.log.release)
            assert len(await read_all(client)) == 1

    go(backend, main)


def test_a_leader_that_freezes_while_it_changes_a_limit_is_given_up(
    three: Loopback, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer may come as late as it likes, but not its signs of life; its successor is asked then."""

    async def never(limits: object) -> None:
        three.submitted.release()
        await trio.sleep_forever()

    async def at_once(limits: object) -> None: ...

    for node in three.nodes:
        monkeypatch.setattr(node, "set_retention", at_once, raising=False)
        monkeypatch.setattr(node, "log_info", lambda: {"max_messages": 5}, raising=False)
    monkeypatch.setattr(three.nodes[0], "set_retention", never, raising=False)
    answers: list[object] = []

    async def change(client: lanyinglog.Client) -> None:
        answers.append(await client.set_retention(messages=5))

    async def main() -> None:
        async with connect(three, timeout=60) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(change, client)
            await three.wait_submitted()
            three.do(three.proxies[0].freeze)
            three.lead(1)
        assert answers == [{"max_messages": 5}]

    go(backend, main)


def test_a_subscription_leaves_a_node_that_freezes(three: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(three, 2) as client, client.subscribe("t") as messages:
            await client.publish("t", b"1")
            assert (await anext(messages)).payload == b"1"
            frozen = messages.server
            three.do(three.proxies[2].freeze)
            await client.publish("t", b"2")
            assert (await anext(messages)).payload == b"2"
            assert messages.server != frozen

    go(backend, main)


def test_an_idle_subscription_stays_where_it_is(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client, client.subscribe("t") as messages:
            before = cluster.proxies[0].connections
            with anyio.move_on_after(2.5 * QUICK.silence_s):
                await anext(messages)
            assert cluster.proxies[0].connections == before
            await client.publish("t", b"1")
            assert (await anext(messages)).payload == b"1"

    go(backend, main)


def test_a_damaged_entry_is_read_from_another_node(three: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(three, 1) as client:
            await client.publish("t", b"1")
            await client.publish("t", b"2")
            three.nodes[1].damaged = 2
            assert [message.payload for message in await read_all(client)] == [b"1", b"2"]

    go(backend, main)


def test_with_no_node_left_a_subscription_fails_in_time_and_can_go_on(three: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(three) as client, client.subscribe("t", timeout=0.3) as messages:
            await client.publish("t", b"1")
            assert (await anext(messages)).seq == 1
            for proxy in three.proxies:
                proxy.refuses = True
                three.do(proxy.cut)
            with pytest.raises(Unavailable, match=r"within 0\.3 s"):
                await anext(messages)
            for proxy in three.proxies:
                proxy.refuses = False
            await client.publish("t", b"2")
            assert (await anext(messages)).seq == 2

    go(backend, main)


@pytest.mark.parametrize("moved", [True, False], ids=["it waits there", "it comes"])
def test_a_subscription_leaves_a_node_that_is_cut_off_from_the_others(
    three: Loopback, backend: str, moved: bool
) -> None:
    async def main() -> None:
        lone = three.nodes[2]
        async with connect(three) as client:
            await client.publish("t", b"1")
            if not moved:
                three.do(three.cut_off, 2)
            async with connect(three, 2) as reader, reader.subscribe("t") as messages:
                assert (await anext(messages)).payload == b"1"
                assert (str(messages.server) == lone.address) or not moved
                if moved:
                    three.do(three.cut_off, 2)
                await client.publish_many("t", [b"2", b"3"])
                assert [(await anext(messages)).payload for _ in range(2)] == [b"2", b"3"]
                assert str(messages.server) != lone.address

    go(backend, main)


@pytest.mark.parametrize("given", [(3, 4), (3, 4, 2)], ids=["only those", "and a healthy one"])
def test_a_subscription_leaves_two_given_nodes_that_are_cut_off_from_the_others(
    given: tuple[int, ...], backend: str
) -> None:
    """Neither for the other, again and again: for the majority, which it learnt of from them."""

    async def main(five: Loopback) -> None:
        async with connect(five) as client:
            await client.publish("t", b"1")
            for place in (3, 4):
                five.do(five.cut_off, place)
            await client.publish("t", b"2")
            before = sum(proxy.connections for proxy in five.proxies)
            async with connect(five, *given) as reader, reader.subscribe("t", start="first") as messages:
                assert [(await anext(messages)).payload for _ in range(2)] == [b"1", b"2"]
            tries = sum(proxy.connections for proxy in five.proxies) - before
            assert tries <= 3, "one gives what it has, the other refuses"

    with loopback(5) as five:
        go(backend, partial(main, five))


def test_where_no_node_hears_a_leader_a_subscription_fails_in_time_and_can_go_on(three: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(three) as client, client.subscribe("t", timeout=1.0) as messages:
            await client.publish("t", b"1")
            assert (await anext(messages)).seq == 1
            for place in range(3):
                three.do(three.cut_off, place)
            before = sum(proxy.connections for proxy in three.proxies)
            with pytest.raises(Unavailable, match="no leader"):
                await anext(messages)
            tries = sum(proxy.connections for proxy in three.proxies) - before
            assert 3 <= tries <= 7 + 1.0 / (QUICK.refused_max_s / 2), "it asks all of them, and does not spin"
            with pytest.raises(Unavailable, match="no leader"):
                async with client.subscribe("t", start=2, timeout=0.2):
                    pass
            for place in range(3):
                three.do(three.heal, place)
            await client.publish_many("t", [b"2", b"3"])
            assert [(await anext(messages)).seq for _ in range(2)] == [2, 3]

    go(backend, main)


@pytest.mark.parametrize("lag", [60, 100], ids=["behind", "empty"])
def test_last_is_what_the_next_leader_has_wherever_one_reads(three: Loopback, backend: str, lag: int) -> None:
    async def main() -> None:
        async with connect(three) as client:
            await client.publish_many("t", [b"x"] * 100)
        three.do(setattr, three.nodes[2], "lag", lag)
        three.lead(None)
        read: list[int] = []

        async def read_until_last() -> None:
            async with connect(three, 2) as reader, reader.subscribe("t", until="last") as messages:
                assert messages.until == 100
                three.do(setattr, three.nodes[2], "lag", 0)
                async with connect(three) as client:
                    await client.publish("t", b"one more, so that nodes hear of something new")
                read.extend([message.seq async for message in messages])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_until_last)
            await anyio.sleep(1.5 * QUICK.connect_s)  # longer than any one try
            three.lead(1)
        assert read == list(range(1, 101))

    go(backend, main)


@pytest.mark.parametrize("place", [{"until": "last"}, {"start": "new"}], ids=str)
def test_without_a_leader_nobody_guesses_what_is_the_newest(
    three: Loopback, backend: str, place: dict[str, str]
) -> None:
    async def main() -> None:
        async with connect(three) as client:
            await client.publish("t", b"x")
            three.lead(None)
            with pytest.raises(Unavailable, match=r"within 0\.7 s"):
                async with client.subscribe("t", timeout=0.7, **place):
                    pass

    go(backend, main)


def test_a_start_by_time_holds_at_a_node_that_is_behind(three: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(three) as client:
            await client.publish_many("t", [b"1", b"2"])
            three.do(setattr, three.nodes[2], "lag", 2)
            third = await client.publish("t", b"3")
            start = third.timestamp
            async with connect(three, 2) as reader, reader.subscribe("t", start_timestamp=start) as messages:
                assert messages.next_seq == 2, "the node has one message, and begins behind it"
                three.do(setattr, three.nodes[2], "lag", 0)
                await client.publish("t", b"4")
                assert [(await anext(messages)).seq for _ in range(2)] == [3, 4]

    go(backend, main)


def test_one_server_that_is_up_is_enough(three: Loopback, backend: str) -> None:
    async def main() -> None:
        servers = ["127.0.0.1:1", "127.0.0.1:2", three.servers[1]]
        async with lanyinglog.connect(servers, timing=QUICK, timeout=5) as client:
            assert (await client.publish("t", b"1")).seq == 1
            assert len(await read_all(client)) == 1

    go(backend, main)
