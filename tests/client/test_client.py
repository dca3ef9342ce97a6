"""The async client against real sessions on loopback, under asyncio and trio: what users do, and how it ends."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from client.loopback import QUICK, Loopback
from memory_service import MemoryTicket

import lanyinglog
from lanyinglog.client.acks import Pending
from lanyinglog.client.outbox import Batch
from lanyinglog.client.publisher import PublisherSettings
from lanyinglog.client.subscription import CREDIT_BYTES
from lanyinglog.errors import (
    BadBatch,
    BadRequest,
    BadTopic,
    ConfigError,
    LanyingError,
    NotSent,
    Outcome,
    OutcomeUnknown,
    StorageFull,
    TooManyTopics,
    Trimmed,
    Unavailable,
    UnknownLog,
)
from lanyinglog.record import BatchView


def go(backend: str, function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Run ``function`` under ``backend``; a test that hangs fails."""

    async def limited() -> Any:
        with anyio.fail_after(20):
            return await function(*arguments)

    return anyio.run(limited, backend=backend)


def connect(cluster: Loopback, *places: int, timeout: float = 10.0, **options: Any) -> Any:
    servers = [cluster.servers[place] for place in places] or cluster.servers
    return lanyinglog.connect(servers, timeout=timeout, timing=QUICK, **options)


async def ending(pending: Awaitable[object]) -> type[Exception] | None:
    """How ``pending`` failed, if it did."""
    try:
        await pending
    except LanyingError as error:
        return type(error)
    return None


async def read_all(client: lanyinglog.Client, filter: str = ">", **options: Any) -> list[lanyinglog.Message]:
    async with client.subscribe(filter, **{"until": "last", **options}) as messages:
        return [message async for message in messages]


# ---------------------------------------------------------------------------------------------------- publishing
def test_what_is_published_comes_back_in_order(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            one = await client.publish("orders.eu", b"one", key=b"42", headers={"k": "v"})
            many = await client.publish_many("orders.us", [b"two", b"three"])
            async with client.batch() as batch:
                batch.add("a", b"four")
                batch.add("b", b"five", key=b"")
                batch.add("a", b"six", headers={"x": "y"})
            async with client.publisher() as publisher:
                pending = await publisher.send("orders.eu", b"seven")
                await publisher.send_many("orders.eu", [b"eight", b"nine"])
            acks = [one, *many, *batch.acks, await pending]
            messages = await read_all(client)
            assert [message.payload for message in messages] == b"one two three four five six seven eight nine".split()
            assert [message.seq for message in messages] == list(range(1, 10))
            assert [(ack.seq, ack.timestamp) for ack in acks] == [(m.seq, m.timestamp) for m in messages[:7]]
            assert (messages[0].topic, messages[0].key, messages[0].headers) == ("orders.eu", b"42", {"k": "v"})
            assert [(m.topic, m.key, m.headers) for m in messages[3:6]] == [
                ("a", None, {}), ("b", b"", {}), ("a", None, {"x": "y"}),
            ]  # fmt: skip
            assert (publisher.acknowledged, publisher.first_seq, publisher.last_seq) == (3, 7, 9)

    go(backend, main)


def test_what_tasks_publish_at_the_same_time_travels_together(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        seqs: list[int] = []

        async def one(client: lanyinglog.Client, place: int) -> None:
            seqs.append((await client.publish("t", b"%d" % place)).seq)

        async with connect(cluster) as client:
            async with anyio.create_task_group() as tasks:
                for place in range(200):
                    tasks.start_soon(one, client, place)
            assert sorted(seqs) == list(range(1, 201))
            assert len(cluster.log._items) < 50, "batches"

    go(backend, main)


def test_a_batch_is_whole_or_not_at_all(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            acks = await client.publish_batch([("a", b"1"), ("b", b"2", b"key"), ("a", b"3", None, {"h": "1"})])
            assert len(acks.batches) == 1 and (acks.first_seq, acks.last_seq) == (1, 3)
            with pytest.raises(BadBatch):
                await client.publish_batch([("a", bytes(600_000)), ("b", bytes(600_000))])
            with pytest.raises(RuntimeError, match="changed my mind"):
                async with client.batch() as batch:
                    batch.add("a", b"4")
                    raise RuntimeError("changed my mind")
            assert len(await client.publish_batch([])) == 0
            assert cluster.log.last_seq == 3

    go(backend, main)


def test_a_publish_behind_many_of_all_sizes_keeps_its_place(cluster: Loopback, backend: str) -> None:
    payloads = [bytes([place % 251]) * (1 << (place % 18)) for place in range(400)]

    async def main() -> None:
        async with connect(cluster) as client:
            acks = await client.publish_many("t", payloads)
            assert [ack.seq for ack in acks] == list(range(1, 401))
            assert len(acks.batches) > 5
            assert [message.payload for message in await read_all(client)] == payloads

    go(backend, main)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_a_publisher_batches_compresses_and_keeps_order(
    cluster: Loopback, backend: str, compression: str | None
) -> None:
    lines = [b"a line that repeats itself %d" % (place // 3) for place in range(30_000)]
    acks: list[int] = []

    async def main() -> None:
        async with connect(cluster) as client:
            settings: dict[str, Any] = {"batch_bytes": 20_000, "buffer_bytes": 100_000, "compression": compression}
            async with client.publisher(**settings, on_ack=lambda ack: acks.append(ack.count)) as publisher:
                for at in range(0, len(lines), 1_000):
                    await publisher.send_many("t", lines[at : at + 1_000])
                await publisher.flush()
                assert publisher.acknowledged == sum(acks) == len(lines)
            assert [message.payload for message in await read_all(client)] == lines
            size = sum(len(item.run) for _, item in cluster.log._items)
            assert (size < 400_000) == (compression is not None)

    go(backend, main)


def test_linger_waits_for_more_and_flush_does_not(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client, client.publisher(linger=30.0) as publisher:
            pending = [await publisher.send("t", b"%d" % place) for place in range(100)]
            await anyio.wait_all_tasks_blocked()
            assert not any(one.done for one in pending)
            await publisher.flush()
            assert [(await one).seq for one in pending] == list(range(1, 101))
            assert len(cluster.log._items) == 1

    go(backend, main)


def test_what_lingers_uses_up_no_patience(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client, client.publisher(linger=0.8, timeout=0.4) as publisher:
            assert (await (await publisher.send("t", b"x"))).seq == 1

    go(backend, main)


def test_senders_wait_while_the_buffer_is_full(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        cluster.log.held = True
        async with connect(cluster) as client:
            async with client.publisher(linger=30, buffer_bytes=50_000, batch_bytes=10_000) as publisher:
                queued = 0
                with anyio.move_on_after(0.3):
                    while True:
                        await publisher.send_many("t", [bytes(1_000)])
                        queued += 1
                # 16 batches under way, 50,000 bytes behind them, and some for headers and the last call
                assert 150 < queued < 230
                cluster.do(cluster.log.release)
            assert publisher.acknowledged == queued

    go(backend, main)


BAD_MESSAGES: dict[str, tuple[type[Exception], tuple[Any, ...], dict[str, Any]]] = {
    "topic with a space": (BadTopic, ("a b", b""), {}),
    "topic with a wildcard": (BadTopic, ("a.*", b""), {}),
    "text instead of bytes": (TypeError, ("t", "text"), {}),
    "a key of text": (TypeError, ("t", b"", ), {"key": "k"}),
    "headers of numbers": (BadBatch, ("t", b""), {"headers": {"a": 1}}),
    "too large": (BadBatch, ("t", bytes(1 << 20)), {}),
    "a timeout of nothing": (BadRequest, ("t", b""), {"timeout": 0}),
}  # fmt: skip


@pytest.mark.parametrize(("error", "arguments", "options"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_a_bad_message_is_refused_and_hurts_no_other(
    cluster: Loopback, error: type[Exception], arguments: Any, options: Any
) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            with pytest.raises(error):
                await client.publish(*arguments, **options)
            async with client.publisher() as publisher:
                if "timeout" not in options:
                    with pytest.raises(error):
                        await publisher.send(*arguments, **options)
                    if not options:
                        with pytest.raises(error):
                            await publisher.send_many(arguments[0], [b"fine", arguments[1]])
                await publisher.send("t", b"good")
            assert (await client.publish("t", b"good")).seq == 2

    go("asyncio", main)


def test_the_largest_message_fits(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        payload = bytes((1 << 20) - 100)
        async with connect(cluster) as client:
            await client.publish("t", payload)
            await client.publish_many("t", [b"", payload, payload])
            assert [len(message.payload) for message in await read_all(client)] == [
                len(payload),
                0,
                *[len(payload)] * 2,
            ]

    go(backend, main)


# ------------------------------------------------------------------------------------------------ how it ends (P7)
def test_without_a_leader_a_publish_definitely_failed(three: Loopback, backend: str) -> None:
    async def main() -> None:
        three.lead(None)
        async with connect(three) as client:
            for publish in (
                client.publish("t", b"x", timeout=0.1),
                client.publish_many("t", [bytes(200_000)] * 5, timeout=0.1),
                client.publish_batch([("t", b"x")], timeout=0.1),
            ):
                with pytest.raises(NotSent, match=r"within 0\.1 s") as caught:
                    await publish
                assert caught.value.outcome is Outcome.DEFINITE
            three.lead(1)
            assert (await client.publish("t", b"y")).seq == 1, "what was reported as not sent is not sent later"

    go(backend, main)


def test_without_an_answer_the_outcome_is_unknown(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        cluster.log.held = True
        async with connect(cluster) as client:
            with pytest.raises(OutcomeUnknown):
                await client.publish("t", b"x", timeout=0.2)
            cluster.do(cluster.log.release)
            assert (await client.publish("t", b"y")).seq == 2

    go(backend, main)


def test_where_nobody_listens_every_call_says_so(backend: str) -> None:
    async def main() -> None:
        async with lanyinglog.connect("127.0.0.1:1", timeout=0.2, timing=QUICK) as client:
            with pytest.raises(NotSent, match=r"127[.]0[.]0[.]1:1"):
                await client.publish("t", b"x")
            for call in (client.topics(), client.status(), client.subscribe(">").__aenter__()):
                with pytest.raises(Unavailable, match=r"127[.]0[.]0[.]1:1"):
                    await call
            with pytest.raises(NotSent):
                async with client.publisher() as publisher:
                    await publisher.send("t", b"x")

    go(backend, main)


def test_a_cancelled_publish_is_withdrawn(three: Loopback, backend: str) -> None:
    async def main() -> None:
        three.lead(None)
        async with connect(three) as client:
            with anyio.move_on_after(0.05):
                await client.publish("t", b"cancelled")
            with anyio.move_on_after(0.05):
                await client.publish_many("t", [bytes(100_000)] * 7)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.publish, "t", b"patient")
                await anyio.wait_all_tasks_blocked()
                three.lead(2)
            assert [message.payload for message in await read_all(client)] == [b"patient"]

    go(backend, main)


def test_who_waits_for_room_goes_on_when_what_filled_the_buffer_is_withdrawn(three: Loopback, backend: str) -> None:
    async def main() -> None:
        three.lead(None)
        async with connect(three, timeout=60) as client, anyio.create_task_group() as tasks:
            filler = anyio.CancelScope()

            async def fill() -> None:
                with filler:
                    await client.publish_many("t", [bytes(500_000)] * 20)

            tasks.start_soon(fill)
            await anyio.wait_all_tasks_blocked()
            assert client._shared.is_full
            tasks.start_soon(client.publish, "t", b"patient")
            await anyio.wait_all_tasks_blocked()
            filler.cancel()
            await anyio.wait_all_tasks_blocked()
            three.lead(0)
        assert three.log.last_seq == 1

    go(backend, main)


def test_a_publisher_stops_at_its_first_failure(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            with pytest.raises(TooManyTopics):
                async with client.publisher() as publisher:
                    await publisher.send("t", b"stored")
                    await publisher.flush()
                    cluster.log.refusal = TooManyTopics("no room for it")
                    refused = await publisher.send("u", b"refused")
                    with pytest.raises(TooManyTopics):
                        await refused
                    cluster.log.refusal = None
                    await publisher.send("t", b"not any more")
            assert [message.payload for message in await read_all(client)] == [b"stored"]
            assert (await client.publish("t", b"the client goes on")).seq == 2

    go(backend, main)


@pytest.mark.parametrize("refusal", [TooManyTopics, StorageFull])
def test_nothing_behind_a_refused_batch_is_stored_however_much_is_queued(
    cluster: Loopback, backend: str, refusal: type[LanyingError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the next batch would have been taken: a full disk may have room again in a moment."""
    submit = cluster.log.submit

    def refusing(batch: BatchView, *, received: float) -> MemoryTicket:
        if any(run.topic == "u" for run in batch.runs):
            raise refusal("no room for it")
        return submit(batch, received=received)

    monkeypatch.setattr(cluster.log, "submit", refusing)

    async def main() -> None:
        async with connect(cluster) as client:
            cluster.lead(None)
            with pytest.raises(refusal):
                async with client.publisher(batch_messages=1) as publisher:
                    first = await publisher.send("t", b"first")
                    refused = await publisher.send("u", b"refused")
                    behind = [await publisher.send("t", b"%d" % place) for place in range(40)]
                    cluster.lead(0)
                    assert (await first).seq == 1
                    with pytest.raises(refusal):
                        await refused
                    for pending in behind:
                        with pytest.raises(NotSent, match="no room for it"):
                            await pending
            assert [message.payload for message in await read_all(client)] == [b"first"]

    go(backend, main)


def test_what_on_ack_raises_comes_out_of_its_publisher_and_harms_nobody_else(cluster: Loopback, backend: str) -> None:
    told: list[object] = []

    def broken(ack: object) -> None:
        told.append(ack)
        raise ValueError("mine")

    async def main() -> None:
        cluster.log.held = True
        async with connect(cluster) as client, client.publisher() as other:
            with pytest.raises(ValueError, match="mine"):
                async with client.publisher(on_ack=broken, batch_messages=1) as publisher:
                    pendings = [await publisher.send("t", b"%d" % place) for place in range(20)]
                    for _ in range(16):
                        await cluster.wait_submitted()
                    cluster.do(cluster.log.release)
                    assert (await pendings[0]).seq == 1, "acknowledged all the same"
                    ends = [await ending(pending) for pending in pendings]
                    assert set(ends[-4:]) == {NotSent}
                    with pytest.raises(ValueError, match="mine"):
                        await publisher.send("t", b"later")
            assert len(told) == 1 and publisher.acknowledged == ends.count(None)
            await (await other.send("t", b"x"))
            await client.publish("t", b"y")

    go(backend, main)


def test_a_defect_in_one_publisher_comes_out_of_it_and_harms_nobody_else(
    cluster: Loopback, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect() -> None:
        raise ZeroDivisionError("a defect")

    async def main() -> None:
        async with connect(cluster) as client:
            with pytest.raises(ZeroDivisionError):
                async with client.publisher() as publisher:
                    monkeypatch.setattr(publisher._producer, "next_send", defect)
                    pending = await publisher.send("t", b"x")
                    with pytest.raises(NotSent, match="a defect"):
                        await pending
            assert (await client.publish("t", b"y")).seq == 1

    go(backend, main)


def test_a_batch_that_can_not_be_encoded_fails_alone(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            broken = Pending(1)
            client._shared._outbox.add_whole(Batch((), 1, 1, ((broken, 0, 1),)))
            assert (await client.publish("t", b"x")).seq == 1
            with pytest.raises(BadBatch):
                await broken

    go(backend, main)


def test_a_refused_publish_fails_alone(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            cluster.log.refusal = TooManyTopics("no room for it")
            with pytest.raises(TooManyTopics):
                await client.publish("u", b"refused")
            cluster.log.refusal = None
            assert (await client.publish("t", b"fine")).seq == 1

    go(backend, main)


def test_closing_ends_what_is_under_way(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        cluster.log.held = True
        ends: list[type[Exception]] = []

        async def wait(pending: Awaitable[object]) -> None:
            try:
                await pending
            except LanyingError as error:
                ends.append(type(error))

        async with anyio.create_task_group() as tasks, connect(cluster) as client:
            publisher = await client.publisher().__aenter__()
            pending = await publisher.send("t", b"x")
            tasks.start_soon(wait, pending)
            tasks.start_soon(wait, client.publish("t", b"y"))
            tasks.start_soon(wait, publisher.flush())
            for _ in range(2):
                await cluster.wait_submitted()
        assert ends == [OutcomeUnknown] * 3
        with pytest.raises(NotSent, match="closed"):
            await publisher.send("t", b"z")
        with pytest.raises(NotSent, match="closed"):
            await client.publish("t", b"z")

    go(backend, main)


@pytest.mark.parametrize(
    ("leader", "expected"), [(0, OutcomeUnknown), (None, NotSent)], ids=["it was sent", "it can't have been sent"]
)
def test_flush_of_a_publisher_that_is_closed_meanwhile_says_whether_it_may_be_stored(
    cluster: Loopback, backend: str, leader: int | None, expected: type[Exception]
) -> None:
    async def main() -> None:
        cluster.log.held = True
        cluster.lead(leader)
        ends: list[type[Exception] | None] = []
        async with connect(cluster) as client:
            publisher = await client.publisher().__aenter__()

            async def flush() -> None:
                ends.append(await ending(publisher.flush()))

            pending = await publisher.send("t", b"x")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(flush)
                if leader is not None:
                    await cluster.wait_submitted()
                await anyio.lowlevel.checkpoint()
                await publisher.aclose()
            ends += [await ending(publisher.flush()), await ending(pending), await ending(publisher.send("t", b"y"))]
        assert ends == [expected, expected, expected, NotSent]

    go(backend, main)


def test_a_publisher_closed_when_all_is_acknowledged_did_not_fail(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client, client.publisher() as publisher:
            await (await publisher.send("t", b"x"))
            await publisher.aclose()
            await publisher.flush()
            with pytest.raises(NotSent, match="closed"):
                await publisher.send("t", b"y")

    go(backend, main)


def test_a_publisher_that_was_never_open_is_closed_at_once(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            publisher = client.publisher()
            assert publisher._stopped.is_set(), "nothing runs: or else what follows waits for ever"
            await publisher.aclose()
            with pytest.raises(NotSent, match="not open"):
                await publisher.send("t", b"x")
            async with client.publisher() as another:
                await another.send("t", b"x")

    go(backend, main)


def test_a_publisher_of_a_closed_client_says_so(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            publisher = client.publisher()
        with pytest.raises(NotSent, match="the client is closed"):
            await publisher.__aenter__()
        await publisher.aclose()

    go(backend, main)


def test_of_failures_that_come_together_the_one_that_may_be_stored_is_told(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            publisher = await client.publisher().__aenter__()
            for failure in (NotSent("the node was busy"), OutcomeUnknown("it was sent")):
                publisher._producer._settled.append((Batch((), 1, 1, ()), failure))
            publisher._pump.deliver()
            for end in (publisher.flush(), publisher.send("t", b"x")):
                with pytest.raises(OutcomeUnknown, match="it was sent"):
                    await end

    go(backend, main)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()], ids=repr)
def test_an_exception_in_the_block_comes_out_as_it_is(cluster: Loopback, backend: str, error: BaseException) -> None:
    async def main() -> None:
        with pytest.raises(type(error)) as caught:
            async with connect(cluster) as client:
                await client.publish("t", b"x")
                async with client.publisher() as publisher, client.subscribe("t"):
                    await publisher.send("t", b"x")
                    raise error
        assert caught.value is error

    go(backend, main)


# ------------------------------------------------------------------------------------------------ subscribing
def test_a_subscription_begins_and_ends_where_it_is_told(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            acks = await client.publish_many("a", [b"%d" % seq for seq in range(1, 11)])
            await client.publish("b", b"11")
            tenth = acks[9].timestamp
            cases: list[tuple[dict[str, Any], range]] = [
                ({"start": "first"}, range(1, 12)),
                ({"start": 4}, range(4, 12)),
                ({"start": 4, "until": 6}, range(4, 7)),
                ({"start": 6, "until": 5}, range(0)),
                ({"start": 12}, range(0)),
                ({"start": "new"}, range(0)),
                ({"start_timestamp": tenth}, range(10, 12)),
                ({"start_timestamp": tenth + 1}, range(11, 12)),
                ({"start": datetime.now(UTC) - timedelta(hours=1)}, range(1, 12)),
                ({"start": datetime.now() + timedelta(hours=1)}, range(0)),
                ({"filter": "b"}, range(11, 12)),
                ({"filter": "nothing.here"}, range(0)),
                ({"filter": ["b", "a"], "start": 10}, range(10, 12)),
            ]
            for options, expected in cases:
                seqs = [message.seq for message in await read_all(client, **options)]
                assert seqs == list(expected), options

    go(backend, main)


def test_new_is_everything_published_once_inside(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            await client.publish("t", b"old")
            async with client.subscribe("t", start="new") as messages:
                assert messages.next_seq == 2
                await client.publish_many("t", [b"1", b"2"])
                assert (await anext(messages)).payload == b"1"
                assert messages.next_seq == 3
                assert [message.payload for message in await messages.next_batch()] == [b"2"]
                assert messages.next_seq == 4

    go(backend, main)


def test_last_is_what_the_leader_has_even_when_another_node_is_asked(three: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(three) as client:
            await client.publish_many("t", [b"x"] * 10)
        three.nodes[2].lag = 4
        async with connect(three, 2) as client:
            async with client.subscribe("t", until="last") as messages:
                assert (messages.server and str(messages.server), messages.until) == (three.servers[2], 10)
            async with client.subscribe("t", start="new") as messages:
                assert messages.next_seq == 11

    go(backend, main)


def test_a_subscription_reads_from_the_server_that_was_named(three: Loopback, backend: str) -> None:
    async def main() -> None:
        for place in range(3):
            async with connect(three, place) as client:
                await client.publish("t", b"x")
                async with client.subscribe("t") as messages:
                    assert str(messages.server) == three.servers[place]

    go(backend, main)


def test_more_than_the_credit_comes_through_in_batches(cluster: Loopback, backend: str) -> None:
    count = 3 * CREDIT_BYTES // 100_000

    async def main() -> None:
        async with connect(cluster) as client:
            await client.publish_many("t", [bytes(100_000)] * count)
            async with client.subscribe("t", until="last") as messages:
                sizes = [len(batch) async for batch in messages.batches()]
            assert sum(sizes) == count and all(sizes)

    go(backend, main)


def test_cancelling_a_wait_for_messages_loses_none(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        seen: list[int] = []
        async with connect(cluster) as client, client.subscribe("t") as messages:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.publish_many, "t", [bytes(300)] * 20_000)
                for tries in itertools.count():
                    with anyio.move_on_after(0.0001 * (tries % 7)):
                        seen += [message.seq for message in await messages.next_batch()]
                    if len(seen) >= 20_000:
                        break
            assert seen == list(range(1, 20_001))

    go(backend, main)


def test_a_subscription_belongs_to_one_task(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster) as client, client.subscribe("t") as messages:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anext, messages)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(anyio.BusyResourceError):
                    await anext(messages)
                tasks.cancel_scope.cancel()
            await messages.aclose()
            with pytest.raises(BadRequest, match="closed"):
                await anext(messages)

    go(backend, main)


def test_messages_that_retention_took_before_they_were_read_are_missed_loudly(three: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(three, 2) as client, client.subscribe("t") as messages:
            three.do(three.proxies[2].freeze)
            async with connect(three, 0) as other:
                await other.publish_many("t", [b"x"] * 5)
            for node in three.nodes:
                node.first_seq = 4
            three.do(three.proxies[2].cut)
            with pytest.raises(Trimmed, match="messages 1 to 3 are not kept any more"):
                await anext(messages)

    go(backend, main)


@pytest.mark.parametrize(("start", "seen"), [("first", [4, 5]), (1, None)], ids=["the first there is", "a seq"])
def test_who_asks_for_the_first_there_is_begins_with_it_although_it_moves(
    cluster: Loopback, backend: str, start: str | int, seen: list[int] | None
) -> None:
    """Retention may trim between the answer to a subscribe and the first read; who named a seq is told of it."""
    (node,) = cluster.nodes
    read = node.read

    async def trimmed_just_now(**named: Any) -> Any:
        node.read = read  # type: ignore[method-assign]
        node.trim(4)
        raise Trimmed("message 1 is not kept any more", hint="4")

    async def main() -> None:
        async with connect(cluster) as client:
            for _ in range(5):
                await client.publish("t", b"x")
            node.read = trimmed_just_now  # type: ignore[method-assign]
            with pytest.raises(Trimmed) if seen is None else contextlib.nullcontext():
                async with client.subscribe("t", start=start, until="last") as messages:
                    assert [message.seq async for message in messages] == seen

    go(backend, main)


# ------------------------------------------------------------------------------------------------ looking around
def test_topics_and_status_show_the_cluster(three: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(three, 1) as client:
            await client.publish_many("orders.eu", [b"1", b"22"])
            await client.publish("orders.us", b"3")
            assert [(one.topic, one.messages, one.last_seq) for one in await client.topics()] == [
                ("orders.eu", 2, 2), ("orders.us", 1, 3),
            ]  # fmt: skip
            assert [one.topic for one in await client.topics("*.us")] == ["orders.us"]
            three.proxies[2].refuses = True
            rows = await client.status()
            assert [row.get("role") for row in rows] == ["leader", "follower", "unreachable"]
            assert rows[2]["client"] == three.servers[2]

    go(backend, main)


def test_a_list_of_topics_comes_in_pages(cluster: Loopback) -> None:
    async def main() -> None:
        async with connect(cluster) as client:
            names = [f"t.{place:05}" for place in range(2_345)]
            for at in range(0, len(names), 1_000):
                await client.publish_batch([(name, b"") for name in names[at : at + 1_000]])
            assert [one.topic for one in await client.topics("t.*")] == names

    go("trio", main)


def test_an_unknown_log_is_said_to_be_one(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster, log="other", timeout=60) as client:
            with pytest.raises(UnknownLog):
                await client.topics()
            with pytest.raises(UnknownLog):
                await client.log_info()
            with pytest.raises(UnknownLog):
                async with client.subscribe(">"):
                    pass
            with pytest.raises(UnknownLog, match="no log 'other'"):
                await client.publish("t", b"x")
            with pytest.raises(UnknownLog):
                async with client.publisher() as publisher:
                    await publisher.send("t", b"x")

    go(backend, main)


BAD_SETTINGS: list[dict[str, Any]] = [
    {"linger": -1}, {"linger": 61}, {"batch_bytes": 0}, {"batch_bytes": 1 << 20}, {"compression": "lzma"},
    {"batches_in_flight": 17}, {"buffer_bytes": 0}, {"linger": True}, {"linger": "1"},
]  # fmt: skip


@pytest.mark.parametrize("settings", BAD_SETTINGS, ids=str)
def test_a_setting_out_of_bounds_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=next(iter(settings))):
        PublisherSettings(**settings)


@pytest.mark.parametrize(
    "servers", ["", "host:99999", "a b", [], ["x:1", "y:z"], "x:1," * 65], ids=lambda one: str(one)[:12]
)
def test_servers_that_can_not_be_are_refused(servers: Any) -> None:
    async def main() -> None:
        with pytest.raises((ConfigError, BadRequest)):
            async with lanyinglog.connect(servers):
                pass

    go("asyncio", main)


def test_a_client_may_be_as_patient_as_it_likes(cluster: Loopback, backend: str) -> None:
    async def main() -> None:
        async with connect(cluster, timeout=math.inf) as client:
            async with client.publisher() as publisher:
                await publisher.send("t", b"x")
            assert len(await read_all(client)) == 1

    go(backend, main)
