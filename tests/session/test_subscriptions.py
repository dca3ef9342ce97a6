"""Subscriptions: from anywhere, over any filter, history and live log without a seam, as far as credit goes."""

from __future__ import annotations

import random
from functools import partial
from itertools import pairwise

import pytest
import trio
import trio.testing
from memory_service import MemoryLogService
from session.dialogue import FIRST, NEW, PLENTY, batch, fill, house

from lanyinglog import config
from lanyinglog.errors import CorruptEntry
from lanyinglog.record import Message, parse_batch
from lanyinglog.service import Page
from lanyinglog.session.hub import PUSH_BYTES_MAX
from lanyinglog.session.subscription import PROGRESS_S
from lanyinglog.topics import matcher
from lanyinglog.wire.messages import (
    Acked,
    Error,
    Origin,
    Ping,
    Pong,
    Publish,
    Push,
    Start,
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
)

pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("streams")]


TOPICS = ["orders.eu", "orders.us", "orders.eu.paris", "payments"]


def history(batches: int = 20, *, count: int = 3) -> MemoryLogService:
    """A log of ``batches`` with one run for each topic, ``count`` messages a run."""
    service = MemoryLogService()
    fill(service, [batch(number, TOPICS, count=count) for number in range(1, batches + 1)])
    return service


def everything(service: MemoryLogService) -> list[tuple[int, int, str]]:
    """(seq, timestamp, topic) of all messages, read past the session."""
    return [
        (item.first_seq + place, item.timestamp + place, topic)
        for topic, item in service._items
        for place in range(item.count)
    ]


def told(messages: list[Message]) -> list[tuple[int, int, str]]:
    return [(message.seq, message.timestamp, message.topic) for message in messages]


# --------------------------------------------------------------------------------------------------- where it begins
STARTS = {
    "the first": (FIRST, 1),
    "a seq": (Start(Origin.SEQ, 13), 13),
    "a seq inside a run": (Start(Origin.SEQ, 14), 14),
    "the last seq of a run": (Start(Origin.SEQ, 15), 15),
    "the newest": (Start(Origin.SEQ, 240), 240),
    "what comes next": (NEW, 241),
    "the seq behind the newest": (Start(Origin.SEQ, 241), 241),
}


@pytest.mark.parametrize("case", STARTS.values(), ids=STARTS)
async def test_a_subscription_begins_where_it_was_asked_to(case: tuple[Start, int]) -> None:
    start, next_seq = case
    service = history()
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe(start=start)
        assert reader.subscribed == Subscribed(next_seq, 240)
        await trio.testing.wait_all_tasks_blocked()
        fill(service, [batch(21, TOPICS)])
        assert told(await reader.until(244)) == everything(service)[next_seq - 1 :]


@pytest.mark.parametrize("shift", [-1, 0, 1])
async def test_a_subscription_begins_at_a_time(shift: int) -> None:
    service = history()
    all_told = everything(service)
    at_time = all_told[100][1] + shift
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe(start=Start(Origin.TIME, at_time))
        assert told(await reader.until(240)) == [each for each in all_told if each[1] >= at_time]


async def test_a_time_behind_all_messages_waits_for_the_next() -> None:
    service = history(1)
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe(start=Start(Origin.TIME, (1 << 63) - 1))
        assert reader.subscribed.next_seq == service.last_seq + 1


async def test_a_subscription_may_begin_in_the_future() -> None:
    service = history(1)  # 12 messages
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe(start=Start(Origin.SEQ, 20))
        assert reader.subscribed == Subscribed(20, 12)
        fill(service, [batch(2, TOPICS, count=3)])
        assert [message.seq for message in await reader.until(24)] == [20, 21, 22, 23, 24]


async def test_what_retention_dropped_is_told_by_next_seq() -> None:
    service = history()
    service.trim(40)
    for start in (FIRST, Start(Origin.SEQ, 1), Start(Origin.TIME, 0)):
        async with house(service) as at:
            client = await at.client()
            reader = await client.subscribe(start=start)
            assert reader.subscribed == Subscribed(40, 240)
            assert told(await reader.until(240)) == [each for each in everything(service) if each[0] >= 40]


async def test_a_log_without_messages_is_waited_for() -> None:
    service = MemoryLogService()
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe()
        assert reader.subscribed == Subscribed(1, 0)
        fill(service, [batch(1)])
        assert [message.seq for message in await reader.messages(1)] == [1]


# ------------------------------------------------------------------------------------------------------------- filters
FILTERS = [("orders.eu",), ("orders.*",), ("orders.>",), ("*",), ("payments", "orders.*.paris"), (">", "orders.eu")]


@pytest.mark.parametrize("filters", FILTERS, ids=" ".join)
async def test_a_subscription_sees_what_its_filters_match_and_nothing_else(filters: tuple[str, ...]) -> None:
    service = history()
    matches = matcher(filters)
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe(*filters)
        expected = [each for each in everything(service) if matches(each[2])]
        assert told(await reader.until(240)) == expected
        assert expected


BAD = {"no filter": (), "an empty filter": ("",), "a tail in the middle": ("a.>.b",), "a space": ("a", "a b")}


@pytest.mark.parametrize("filters", BAD.values(), ids=BAD)
async def test_a_bad_filter_costs_its_request(filters: tuple[str, ...]) -> None:
    async with house() as at:
        client = await at.client()
        await client.send(Subscribe(filters, FIRST, 1, 1), 5)
        await client.expect_error("bad_topic", 5)
        assert await client.is_served()


async def test_a_subscription_to_an_unknown_log_is_refused() -> None:
    async with house() as at:
        client = await at.client()
        await client.send(Subscribe((">",), FIRST, 1, 1, log="other"), 5)
        await client.expect_error("unknown_log", 5)


# ------------------------------------------------------------------------------------------------ history, then live
@pytest.mark.parametrize("seed", range(8))
async def test_history_and_live_log_have_no_seam(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """A producer publishes all the time; readers that begin anywhere see each message once, in order."""
    rng = random.Random(seed)
    service = history(10)
    last = 10 * 12 + 150 * 3

    async def produce() -> None:
        for number in range(1, 151):
            fill(service, [batch(number, rng.choice(TOPICS), producer=2, count=3)])
            for _ in range(rng.choice((0, 0, 1, 5))):
                await trio.lowlevel.checkpoint()

    async def read(start: Start, filters: tuple[str, ...], credit: int) -> None:
        client = await at.client()
        reader = await client.subscribe(*filters, start=start, messages=credit)
        found: list[Message] = []
        while reader.through < last:
            push = await reader.push()
            found += reader.messages_in(push)
            await reader.give(push.messages, push.body_bytes)
        matches = matcher(filters)
        begin = reader.subscribed.next_seq
        assert told(found) == [each for each in everything(service) if each[0] >= begin and matches(each[2])]

    async with house(service) as at, trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        for filters in ((">",), ("orders.*",), ("payments",)):
            for start in (FIRST, NEW, Start(Origin.SEQ, rng.randrange(1, 200))):
                nursery.start_soon(read, start, filters, rng.choice((1, 7, PLENTY)))


# -------------------------------------------------------------------------------------------------------------- credit
async def test_without_credit_nothing_is_pushed() -> None:
    async with house(history()) as at:
        client = await at.client()
        for request, (messages, size) in enumerate([(0, 0), (0, PLENTY), (PLENTY, 0)], start=1):
            await client.subscribe(request=request, messages=messages, size=size)
        assert await client.is_served()


async def test_credit_in_messages_is_overdrawn_by_less_than_one_run() -> None:
    async with house(history(count=3)) as at:
        client = await at.client()
        reader = await client.subscribe(messages=10)
        assert len(await reader.until(12)) == 12  # runs of 3 come whole
        assert await client.is_served()
        await reader.give(2, 0)  # pays the debt
        assert await client.is_served()
        await reader.give(1, 0)
        assert len(await reader.until(15)) == 3
        assert await client.is_served()


async def test_credit_in_bytes_is_overdrawn_by_less_than_one_run() -> None:
    service = history(count=3)
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe(size=1)
        first = await reader.push()
        assert len(first.items) == 1
        assert await client.is_served()
        await reader.give(0, first.body_bytes - 1)
        assert await client.is_served()
        await reader.give(0, 1)
        assert len((await reader.push()).items) == 1


@pytest.mark.parametrize("bounds", [{"messages": 3}, {"size": 100}], ids=repr)
async def test_credit_holds_at_the_head_of_the_log(bounds: dict[str, int]) -> None:
    service = MemoryLogService()
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe(**bounds)
        other = await (await at.client()).subscribe()
        await trio.testing.wait_all_tasks_blocked()
        fill(service, [batch(number, "t", size=10) for number in range(1, 11)])
        assert len(await other.messages(10)) == 10
        push = await reader.push()
        assert push.messages <= 3
        assert sum(len(item.run) for item in push.items[:-1]) < 100
        assert await client.is_served(), "no other push comes before the answer"


async def test_credit_holds_for_its_own_subscription() -> None:
    async with house(history(count=3)) as at:
        client = await at.client()
        starved = await client.subscribe(request=1, messages=0)
        fed = await client.subscribe(request=2)
        assert len(await fed.until(240)) == 240
        await starved.give(3, 0)
        assert len(await starved.until(3)) == 3


async def test_all_credit_given_adds_up() -> None:
    async with house(history(count=1)) as at:  # 80 messages
        client = await at.client()
        reader = await client.subscribe(messages=0)
        for _ in range(80):
            await reader.give(1, 0)
        assert len(await reader.until(80)) == 80


async def test_a_push_is_no_larger_than_its_bound_or_one_run() -> None:
    service = MemoryLogService()
    fill(service, [batch(number, size=50_000) for number in range(1, 31)] + [batch(31, size=900_000)])
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe()
        pushes = []
        while reader.through < 31:
            pushes.append(await reader.push())
        assert max(push.body_bytes for push in pushes if len(push.items) > 1) <= PUSH_BYTES_MAX
        assert pushes[-1].body_bytes > 900_000
        assert len(pushes) <= 12


# ------------------------------------------------------------------------------------------------------------ progress
async def test_who_matches_nothing_hears_when_the_log_was_looked_through() -> None:
    async with house(history()) as at:
        client = await at.client()
        reader = await client.subscribe("nothing.like.it")
        with trio.fail_after(PROGRESS_S / 2):  # at once, and not as the progress that is due every second
            push = await reader.push()
        assert (push.prev, push.through, push.items) == (0, 240, ())


async def test_who_matches_something_early_hears_of_the_rest_too() -> None:
    service = MemoryLogService()
    fill(service, [batch(1, "a"), batch(2, "b"), batch(3, "b")])
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe("a")
        assert len(await reader.until(3)) == 1


async def test_progress_is_told_at_most_once_a_second(autojump_clock: trio.testing.MockClock) -> None:
    service = history(1)
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe("nothing.like.it", start=NEW)
        began = trio.current_time()
        times: list[float] = []
        async with trio.open_nursery() as nursery:

            async def produce() -> None:
                for number in range(1, 101):
                    fill(service, [batch(number, producer=2)])
                    await trio.sleep(0.1)

            nursery.start_soon(produce)
            while reader.through < service.last_seq or len(times) < 5:
                push = await reader.push()
                assert push.items == ()
                times.append(trio.current_time() - began)
        assert len(times) <= 12  # 100 messages in 10 s
        assert all(later - earlier > 0.99 * PROGRESS_S for earlier, later in pairwise(times))


async def test_a_quiet_log_is_quiet(autojump_clock: trio.testing.MockClock) -> None:
    async with house(history()) as at:
        client = await at.client()
        reader = await client.subscribe("nothing.like.it")
        await reader.push()
        await trio.sleep(1_000)
        assert await client.is_served()


# ----------------------------------------------------------------------------------------------------------- the end
async def test_an_unsubscribe_is_answered_behind_the_last_push() -> None:
    service = history()
    async with house(service) as at:
        client = await at.client()
        await client.subscribe(messages=5)
        await client.send(Unsubscribe(), 7)
        kinds = []
        while not kinds or kinds[-1] is not Unsubscribed:
            received = await client.receive()
            assert received.request == 7
            kinds.append(type(received.message))
        assert set(kinds[:-1]) <= {Push}
        fill(service, [batch(21)])
        assert await client.is_served()


async def test_a_request_id_can_be_used_again_once_unsubscribed() -> None:
    service = history(1)
    async with house(service) as at:
        client = await at.client()
        for _ in range(3):
            reader = await client.subscribe()
            await reader.until(12)
            await client.ask(Unsubscribe(), 7, Unsubscribed)


async def test_the_id_of_an_open_subscription_opens_no_other() -> None:
    async with house() as at:
        client = await at.client()
        await client.subscribe(request=7)
        await client.send(Subscribe((">",), FIRST, 1, 1), 7)
        await client.expect_error("bad_request", 7)


async def test_a_connection_has_so_many_subscriptions_and_no_more() -> None:
    async with house(limits=config.Limits(connection_subscriptions_max=2)) as at:
        client, other = await at.client(), await at.client()
        await client.subscribe(request=1)
        await client.subscribe(request=2)
        await client.send(Subscribe((">",), FIRST, 1, 1), 3)
        await client.expect_error("busy", 3)
        await other.subscribe(request=3)
        await client.ask(Unsubscribe(), 1, Unsubscribed)
        await client.subscribe(request=3)


async def test_a_damaged_entry_ends_its_subscription_and_nothing_else() -> None:
    service = history()
    service.damage(31)
    async with house(service) as at:
        client = await at.client()
        reader = await client.subscribe(request=7)
        assert len(await reader.until(30)) == 30
        await client.expect_error("corrupt_entry", 7)
        behind = await client.subscribe(request=7, start=NEW)
        assert behind.subscribed.next_seq == 241
        assert await client.is_served()


class Backwards(MemoryLogService):
    """Its pages end before they begin."""

    async def read(self, **_: object) -> Page:  # type: ignore[override]
        return Page((), 3, 0, 0)


async def test_a_log_that_goes_back_ends_the_subscription() -> None:
    service = Backwards()
    fill(service, [batch(number) for number in range(1, 10)])
    async with house(service) as at:
        client = await at.client()
        await client.subscribe(start=Start(Origin.SEQ, 8))
        await client.expect_error("continuity", 7)


class Torn(MemoryLogService):
    """A read waits until it is let go, then fails at once."""

    def __init__(self) -> None:
        super().__init__()
        self.go = trio.Event()

    async def read(self, **_: object) -> Page:  # type: ignore[override]
        with trio.CancelScope(shield=True):
            await self.go.wait()
        raise CorruptEntry("the entry fails its CRC32C")


async def test_an_unsubscribe_is_answered_though_a_read_fails_just_then() -> None:
    service = Torn()
    fill(service, [batch(1)])
    async with house(service) as at:
        client = await at.client()
        await client.subscribe()
        await client.send(Unsubscribe(), 7)
        await trio.testing.wait_all_tasks_blocked()
        service.go.set()
        answers = [await client.receive()]
        if isinstance(answers[0].message, Error):
            answers.append(await client.receive())
        assert isinstance(answers[-1].message, Unsubscribed)


# ------------------------------------------------------------------------------------------- many, and slow ones
async def test_subscriptions_of_one_connection_take_turns() -> None:
    service = MemoryLogService()
    fill(service, [batch(number, size=200_000) for number in range(1, 21)])
    async with house(service) as at:
        client = await at.client()
        for request in (1, 2, 3):
            await client.send(Subscribe((">",), FIRST, PLENTY, PLENTY), request)
        order = []
        while len(order) < 60:
            received = await client.receive()
            if isinstance(received.message, Push):
                order.append(received.request)
        # Whoever has had its page, here two pushes, waits for the others.
        assert all(len(set(order[at : at + 6])) == 3 for at in range(55))


async def test_a_slow_subscriber_costs_nobody_else_and_holds_two_pages() -> None:
    service = MemoryLogService()
    fill(service, [batch(number, size=100_000) for number in range(1, 101)])
    async with house(service) as at:
        slow, fast = await at.client(lockstep=True), await at.client()
        for request in range(1, 11):
            await slow.send(Subscribe((">",), FIRST, PLENTY, PLENTY), request)
        await trio.testing.wait_all_tasks_blocked()
        before = service.read_calls
        assert before <= 3  # of ten subscriptions: what is being written, what is next
        reader = await fast.subscribe()
        assert len(await reader.until(100)) == 100
        reads = service.read_calls
        await trio.testing.wait_all_tasks_blocked()
        assert service.read_calls == reads
        for request in range(1, 11):
            await slow.expect(Subscribed, request)


async def test_an_acknowledgement_waits_for_one_push_at_most() -> None:
    service = MemoryLogService()
    fill(service, [batch(number, size=250_000) for number in range(1, 41)])
    async with house(service) as at:
        client = await at.client(lockstep=True)
        async with trio.open_nursery() as nursery:
            reader = await client.subscribe()
            nursery.start_soon(partial(client.send, Publish(batch(1, producer=9)), 99))
            await trio.testing.wait_all_tasks_blocked()
            pushes = 0
            while isinstance((received := await client.receive()).message, Push):
                pushes += 1
        assert isinstance(received.message, Acked)
        assert pushes <= 2  # the one on its way, and the one whose turn it was
        assert reader.subscribed.last_seq == 40


async def test_a_publish_is_seen_by_its_own_subscription() -> None:
    async with house() as at:
        client = await at.client()
        reader = await client.subscribe(start=NEW)
        await client.send(Publish(batch(1)), 1)
        received = [await client.receive(), await client.receive()]
        assert {type(each.message) for each in received} == {Acked, Push}
        assert reader.subscribed.next_seq == 1


async def test_pushes_carry_the_producers_bytes() -> None:
    encoded = batch(1, ["a", "b"], count=5)
    service = MemoryLogService()
    fill(service, [encoded])
    view = parse_batch(encoded)
    async with house(service) as at:
        client = await at.client()
        push = await (await client.subscribe()).push()
        assert [bytes(item.run) for item in push.items] == [encoded[run.start : run.stop] for run in view.runs]


async def test_a_ping_is_answered_while_history_flows() -> None:
    service = MemoryLogService()
    fill(service, [batch(number, size=100_000) for number in range(1, 51)])
    async with house(service) as at:
        client = await at.client(lockstep=True)
        async with trio.open_nursery() as nursery:
            await client.subscribe()
            nursery.start_soon(partial(client.send, Ping(), 5))
            seen = 0
            while not isinstance((await client.receive()).message, Pong):
                seen += 1
            assert seen <= 3
