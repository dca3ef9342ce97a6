"""One connection and its requests: each is answered, with its own id, and a wrong one costs nothing but itself."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from memory_service import MemoryLogService
from session.dialogue import FIRST, Client, batch, fill, house

from lanyinglog import config
from lanyinglog.errors import Busy, NotLeader, Outcome, OutcomeUnknown
from lanyinglog.machine.producers import WINDOW
from lanyinglog.record import RUNS_MAX
from lanyinglog.wire.connection import State
from lanyinglog.wire.messages import (
    Acked,
    Credit,
    Error,
    Hello,
    Limits,
    Newest,
    NewestReply,
    Ping,
    Pong,
    Publish,
    Status,
    StatusReply,
    Subscribe,
    Topics,
    TopicsReply,
    Transfer,
    Transferred,
    Unsubscribe,
    Unsubscribed,
    Welcome,
    to_frame,
)

pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("streams")]


# ----------------------------------------------------------------------------------------------------------- greeting
async def test_a_welcome_says_who_and_how_much() -> None:
    limits = config.Limits(connection_subscriptions_max=3)
    async with house(limits=limits) as at:
        welcome = await at.stranger().hello()
        assert welcome == Welcome(1, "n1", "test", None, Limits(producer_window=WINDOW, subscriptions_max=3))


async def test_a_client_of_another_version_is_told_so() -> None:
    async with house() as at:
        client = at.stranger()
        await client.stream.send_all(to_frame(Hello(2, 9), 0))
        # A welcome would be refused by this side too, so read the error as a client in the state greeted would.
        client._wire.send(Hello(), 0)
        await client.expect_error("unsupported_version", 0)
        await client.expect_end()


# ----------------------------------------------------------------------------------------------------------- publishes
async def test_a_publish_is_acknowledged_with_its_place() -> None:
    async with house() as at:
        client = await at.client()
        first = await client.publish(batch(1, ["a", "b"], count=2), 5, Acked)
        second = await client.publish(batch(2), 6, Acked)
        assert (first.first_seq, first.count, first.duplicate) == (1, 4, False)
        assert (second.first_seq, second.count) == (5, 1)
        assert second.timestamp >= first.timestamp + 4


async def test_a_batch_sent_again_is_told_to_be_a_duplicate() -> None:
    async with house() as at:
        client = await at.client()
        first = await client.publish(batch(1), 5, Acked)
        again = await client.publish(batch(1), 6, Acked)
        assert again == Acked(first.first_seq, first.count, first.timestamp, duplicate=True)


async def test_publishes_are_answered_in_order_with_their_own_ids() -> None:
    service = MemoryLogService()
    service.held = True
    async with house(service) as at:
        client = await at.client()
        requests = [9, 2, 0xFFFF_FFFF, 1]
        for number, request in enumerate(requests, start=1):
            await client.send(Publish(batch(number)), request)
        await trio.testing.wait_all_tasks_blocked()
        service.release(3)
        for seq, request in enumerate(requests[:3], start=1):
            assert (await client.expect(Acked, request)).first_seq == seq
        service.release()
        await client.expect(Acked, 1)


async def test_other_requests_do_not_wait_for_publishes() -> None:
    service = MemoryLogService()
    service.held = True
    async with house(service) as at:
        client = await at.client()
        await client.send(Publish(batch(1)), 1)
        assert await client.is_served()


async def test_a_follower_names_the_leader() -> None:
    service = MemoryLogService()
    service.refusal = NotLeader("n1 follows n2", hint="127.0.0.1:7421")
    async with house(service) as at:
        client = await at.client()
        error = await client.publish(batch(1), 5, Error)
        assert (error.code, error.outcome, error.hint) == ("not_leader", Outcome.DEFINITE, "127.0.0.1:7421")
        assert await client.is_served()


async def test_losing_leadership_is_told_as_unknown_to_each_waiting_publish() -> None:
    service = MemoryLogService()
    service.held = True
    async with house(service) as at:
        client = await at.client()
        for number in (1, 2, 3):
            await client.send(Publish(batch(number)), number)
        await trio.testing.wait_all_tasks_blocked()
        service.fail_pending(OutcomeUnknown("leadership was lost"))
        for number in (1, 2, 3):
            assert (await client.expect_error("outcome_unknown", number)).outcome is Outcome.UNKNOWN


REFUSED = {
    "a damaged batch": (Publish(batch(1)[:-1] + b"\0"), "bad_batch"),
    "no batch": (Publish(b""), "bad_batch"),
    "a batch for another log": (Publish(batch(1), log="other"), "unknown_log"),
    "a batch that skips one": (Publish(batch(7)), "producer_unknown"),
    "a status of another log": (Status(log="other"), "unknown_log"),
    "topics of another log": (Topics(log="other"), "unknown_log"),
    "a transfer of another log": (Transfer(log="other"), "unknown_log"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
async def test_a_wrong_request_costs_nothing_but_itself(case: tuple[Publish, str]) -> None:
    request, code = case
    async with house() as at:
        client = await at.client()
        await client.send(request, 5)
        error = await client.expect_error(code, 5)
        assert error.outcome is Outcome.DEFINITE
        assert await client.is_served()
        await client.publish(batch(1), 6, Acked)


async def test_the_largest_batch_is_taken() -> None:
    async with house() as at:
        client = await at.client()
        await client.publish(batch(1, size=(1 << 20) - 200), 5, Acked)
        await client.publish(batch(2, [f"t{n}" for n in range(RUNS_MAX)]), 6, Acked)


# -------------------------------------------------------------------------------------------------------------- bounds
async def drain(client: Client, requests: range) -> None:
    for request in requests:
        await client.expect(Acked, request)


async def test_a_connection_is_not_read_while_too_many_batches_wait() -> None:
    service = MemoryLogService()
    service.held = True
    async with house(service, limits=config.Limits(connection_inflight_batches_max=4)) as at:
        client = await at.client()
        for number in range(1, 8):
            await client.send(Publish(batch(number)), number)
        await trio.testing.wait_all_tasks_blocked()
        assert service.pending == 4
        service.release(1)
        await trio.testing.wait_all_tasks_blocked()
        assert service.pending == 4
        service.release()
        await drain(client, range(1, 8))


async def test_a_connection_is_not_read_while_the_log_has_no_room_and_others_are_served() -> None:
    service = MemoryLogService(pending_max=2)
    service.held = True
    async with house(service) as at:
        greedy, other = await at.client(), await at.client()
        for number in range(1, 6):
            await greedy.send(Publish(batch(number)), number)
        await trio.testing.wait_all_tasks_blocked()
        assert service.pending == 2
        assert await other.is_served()
        service.release()
        await drain(greedy, range(1, 6))


async def test_publishes_that_come_one_by_one_wait_for_room_as_well() -> None:
    service = MemoryLogService(pending_max=4)
    service.held = True
    async with house(service, limits=config.Limits(connection_inflight_batches_max=2)) as at:
        clients = [await at.client() for _ in range(3)]
        for number in range(1, 4):
            for producer, client in enumerate(clients):
                await client.send(Publish(batch(number, producer=producer)), number)
                await trio.testing.wait_all_tasks_blocked()
        assert service.pending == 4
        service.release()
        for client in clients:
            await drain(client, range(1, 4))
        assert service.last_seq == 9


async def test_a_wrong_publish_among_those_that_come_one_by_one_costs_nothing_but_itself() -> None:
    async with house() as at:
        client = await at.client()
        for request, number in enumerate((1, 2, 7, 3), start=1):
            await client.send(Publish(batch(number)), request)
            if number == 7:
                await client.expect_error("batch_out_of_order", request)
                await client.send(Publish(batch(3)[:-1] + b"\0"), 9)
                await client.expect_error("bad_batch", 9)
            else:
                assert (await client.expect(Acked, request)).first_seq == number


async def test_a_log_that_is_busy_says_so() -> None:
    service = MemoryLogService()
    service.refusal = Busy("too many batches wait")
    async with house(service) as at:
        client = await at.client()
        error = await client.publish(batch(1), 5, Error)
        assert (error.code, error.outcome) == ("busy", Outcome.DEFINITE)


async def test_a_client_that_takes_no_replies_is_not_read_on() -> None:
    limits = config.Limits(connection_outbox_bytes_max=1_000)
    async with house(limits=limits) as at:
        client, other = await at.client(lockstep=True), await at.client()
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for request in range(1, 100_000):
                await client.send(Ping(), request)
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await trio.testing.wait_all_tasks_blocked()
            stuck = sent
            # 17 bytes a pong: the bound, what the writer holds, and one more of each.
            assert 0 < stuck < 4 * 1_000 // 17
            assert await other.is_served()
            for request in range(1, stuck):
                await client.expect(Pong, request)
            await trio.testing.wait_all_tasks_blocked()
            assert sent > stuck
            nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------------------------ other requests
async def test_status_is_the_services_own() -> None:
    service = MemoryLogService()
    async with house(service) as at:
        client = await at.client()
        reply = await client.ask(Status(), 5, StatusReply)
        assert reply.status == service.status()


async def test_the_newest_message_is_the_leaders_to_tell() -> None:
    service = MemoryLogService()
    fill(service, [batch(1, ["a", "b"])])
    async with house(service) as at:
        client = await at.client()
        assert await client.ask(Newest(), 5, NewestReply) == NewestReply(2)
        service.refusal = NotLeader("n1 follows n2", hint="127.0.0.1:7421")
        await client.send(Newest(), 6)
        assert (await client.expect_error("not_leader", 6)).hint == "127.0.0.1:7421"


async def test_topics_come_in_pages_by_name() -> None:
    service = MemoryLogService()
    names = sorted(f"topic.{number}" for number in range(2_500))
    fill(service, [batch(1 + at // 500, names[at : at + 500]) for at in range(0, 2_500, 500)])
    async with house(service) as at:
        client = await at.client()
        found: list[str] = []
        pages = []
        while not pages or pages[-1].more:
            after = found[-1] if found else ""
            pages.append(await client.ask(Topics(after=after), 5, TopicsReply))
            found += [stat.topic for stat in pages[-1].topics]
        assert found == names
        assert [len(page.topics) for page in pages] == [1_000, 1_000, 500]


async def test_topics_tell_what_was_published() -> None:
    service = MemoryLogService()
    fill(service, [batch(1, ["a", "b"], count=2), batch(2, "a")])
    async with house(service) as at:
        client = await at.client()
        reply = await client.ask(Topics(), 5, TopicsReply)
        assert [(stat.topic, stat.messages, stat.last_seq) for stat in reply.topics] == [("a", 3, 5), ("b", 2, 4)]
        assert not reply.more


async def test_a_pong_comes_behind_what_was_sent_before() -> None:
    async with house() as at:
        client = await at.client()
        for request in (3, 1, 2):
            await client.send(Ping(), request)
        for request in (3, 1, 2):
            await client.expect(Pong, request)


@pytest.mark.parametrize("message", [Unsubscribe(), Credit(1, 1)], ids=lambda message: message.NAME)
async def test_a_word_about_no_subscription_does_no_harm(message: Unsubscribe | Credit) -> None:
    async with house() as at:
        client = await at.client()
        await client.send(message, 5)
        if isinstance(message, Unsubscribe):
            await client.expect(Unsubscribed, 5)
        assert await client.is_served()


async def test_leadership_is_handed_over_to_whom_was_named() -> None:
    async with house() as at:
        client = await at.client()
        assert (await client.ask(Transfer(node="n2"), 5, Transferred)).leader == "n2"
        assert (await client.ask(Transfer(), 6, Transferred)).leader == "n1"


async def test_a_follower_can_not_hand_over() -> None:
    service = MemoryLogService()
    service.refusal = NotLeader("n1 follows n2", hint="127.0.0.1:7421")
    async with house(service) as at:
        client = await at.client()
        await client.send(Transfer(node="n3"), 5)
        assert (await client.expect_error("not_leader", 5)).hint == "127.0.0.1:7421"
        assert await client.is_served()


class Undecided(MemoryLogService):
    """Its transfers take for ever."""

    async def transfer(self, to: str | None) -> str:
        await trio.sleep_forever()
        raise AssertionError


async def test_a_connection_asks_for_one_transfer_at_a_time_and_is_served_meanwhile() -> None:
    async with house(Undecided()) as at:
        client = await at.client()
        await client.send(Transfer(), 5)
        await client.send(Transfer(), 6)
        await client.expect_error("busy", 6)
        assert await client.is_served()


async def test_a_request_before_the_welcome_is_a_fault_of_the_client() -> None:
    async with house() as at:
        client = at.stranger()
        await client.stream.send_all(to_frame(Subscribe((">",), FIRST, 1, 1), 5))
        client._wire.state = State.OPEN
        await client.expect_error("protocol", 0)
        await client.expect_end()
