"""Questions to the cluster take the time that a node needs, as long as it goes on answering."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio.testing

from lanyinglog.client.inquiry import cluster_status, list_topics
from lanyinglog.client.leader import Servers
from lanyinglog.client.link import Link, LinkLost
from lanyinglog.client.timing import Timing
from lanyinglog.config import Address
from lanyinglog.errors import Unavailable
from lanyinglog.service import TopicStat
from lanyinglog.wire.messages import Topics, TopicsReply

PAGES = 20


class SlowNode:
    """The servers of a client, and the link to the one there is: a page of one topic after each ``pause_s``."""

    log = "main"
    address: Any = "n1"
    last_problem = ""

    def __init__(self, pause_s: float) -> None:
        self.timing = replace(Timing(), silence_s=1.0)
        self.pause_s = pause_s

    async def open_any(self, refusals: object) -> SlowNode:
        return self

    async def ask(self, request: Topics) -> TopicsReply:
        await anyio.sleep(self.pause_s)
        place = int(request.after or 0) + 1
        return TopicsReply((TopicStat(f"{place:02}", 1, 1, 1, 1),), more=place < PAGES)

    async def aclose(self) -> None:
        pass


def ask(node: Any) -> list[TopicStat]:
    async def main() -> list[TopicStat]:
        return await list_topics(node, ">", timeout=100)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_limit_of_silence_is_for_each_page_of_topics() -> None:
    assert len(ask(SlowNode(0.9))) == PAGES


def test_a_question_comes_to_the_healthy_node_behind_two_given_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both break off what they are asked; the third was learnt of."""

    class Node(SlowNode):
        def __init__(self, address: Address) -> None:
            super().__init__(0.0)
            self.address, self.welcome = address, SimpleNamespace(leader_client="127.0.0.1:3")

        async def ask(self, request: Topics) -> TopicsReply:
            if self.address.port < 3:
                raise LinkLost(f"{self.address} closed the connection")
            return await super().ask(request)

    async def open_link(address: Address, *_: object) -> Any:
        return Node(address)

    monkeypatch.setattr(Link, "open", open_link)
    given = [Address("127.0.0.1", port) for port in (1, 2)]
    assert len(ask(Servers(given, log="main", timing=Timing()))) == PAGES


@pytest.mark.parametrize(("answer_s", "rows"), [(0.9, 1), (1.1, 0)], ids=["slow", "silent"])
def test_a_status_may_take_its_time_behind_a_connection_that_took_long(answer_s: float, rows: int) -> None:
    class Far(SlowNode):
        addresses = (Address("127.0.0.1", 1),)

        async def try_open(self, address: Address) -> Far:
            await anyio.sleep(3 * 0.5)
            return self

        async def learn_members(self, link: Far) -> dict[str, object]:
            await anyio.sleep(answer_s)
            return {"node": "n1", "role": "leader"}

    async def main() -> list[dict[str, Any]]:
        return await cluster_status(Far(0.0), timeout=10)  # type: ignore[arg-type]

    run = partial(trio.run, main, clock=trio.testing.MockClock(autojump_threshold=0))
    if rows:
        assert run() == [{"node": "n1", "role": "leader"}]
    else:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 was silent for 1 s"):
            run()


def test_a_node_that_is_silent_in_the_middle_of_a_list_is_given_up() -> None:
    with pytest.raises(Unavailable, match="n1 was silent for 1 s"):
        ask(SlowNode(1.1))
