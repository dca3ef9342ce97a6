"""What is the newest message: only who knows that it leads, and what is committed, may say (Raft dissertation, 6.4)."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from log.test_handover import TIMING, cluster

from lanyinglog.errors import NotLeader
from lanyinglog.raft.messages import Appended, Committed

pytestmark = pytest.mark.trio


async def test_a_leader_answers_without_waiting_for_its_next_heartbeat(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster(mute=set()) as nodes:
        await nodes.publish("n1")
        await trio.sleep(1.5 * TIMING.heartbeat_s)
        began = trio.current_time()
        assert await nodes.logs["n1"].newest_seq() == 1
        assert trio.current_time() - began < TIMING.heartbeat_s / 4


async def test_a_follower_does_not_answer(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster(mute=set()) as nodes:
        with pytest.raises(NotLeader):
            await nodes.logs["n2"].newest_seq()


async def test_a_leader_that_was_deposed_and_does_not_know_it_does_not_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster(mute=set()) as nodes:
        await nodes.publish("n1")
        nodes.deaf = nodes.mute = {"n1"}
        assert nodes.logs["n1"].status()["role"] == "leader", "as far as it knows"
        began = trio.current_time()
        with pytest.raises(NotLeader):
            await nodes.logs["n1"].newest_seq()
        assert trio.current_time() - began < 1.1 * TIMING.election_timeout_s


async def test_an_answer_to_what_left_before_the_question_confirms_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster(mute=set()) as nodes:
        late: list[tuple[str, Appended]] = []
        loop = nodes.loops["n1"]
        receive = loop.receive
        loop.receive = lambda sender, message: late.append((sender, message))  # type: ignore[assignment,method-assign]
        nodes.submit("n1")
        await trio.testing.wait_all_tasks_blocked()
        assert any(isinstance(message, Appended) for _, message in late)
        nodes.mute = {"n1"}  # what leaves from now on comes to nobody
        answers: list[int] = []

        async def ask() -> None:
            with pytest.raises(NotLeader):
                answers.append(await nodes.logs["n1"].newest_seq())

        async with trio.open_nursery() as asking:
            asking.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            for sender, message in late:
                receive(sender, message)
            loop.heard()
        assert not answers


async def test_a_new_leader_answers_once_it_knows_what_was_committed_before_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster(mute=set()) as nodes:
        nodes.lost = (Committed,)
        assert (await nodes.publish("n1")).first_seq == 1
        nodes.deaf = nodes.mute = {"n1"}  # nobody else heard that it is committed
        nodes.writers["n2"].stalls = True
        await nodes.until_led_by("n2")
        answers: list[int] = []

        async def ask() -> None:
            answers.append(await nodes.logs["n2"].newest_seq())

        async with trio.open_nursery() as asking:
            asking.start_soon(ask)
            await trio.sleep(2 * TIMING.heartbeat_s)
            seen = nodes.logs["n2"].last_seq, list(answers)
            nodes.writers["n2"].go_on()
        assert seen == (0, []), "n3 confirms that n2 leads, but nothing of its term is committed"
        assert answers == [1]
