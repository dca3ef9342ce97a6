"""Questions to the cluster take the time that a node needs, as long as it goes on answering."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest
import trio.testing

from lanyinglog.client.inquiry import list_topics
from lanyinglog.client.timing import Timing
from lanyinglog.errors import Unavailable
from lanyinglog.service import TopicStat
from lanyinglog.wire.messages import Topics, TopicsReply

PAGES = 20


class SlowNode:
    """The servers of a client, and the link to the one there is: a page of one topic after each ``pause_s``."""

    log = "main"
    address = "n1"
    last_problem = ""

    def __init__(self, pause_s: float) -> None:
        self.timing = replace(Timing(), silence_s=1.0)
        self.pause_s = pause_s

    async def open_any(self, *, avoid: object) -> SlowNode:
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


def test_a_node_that_is_silent_in_the_middle_of_a_list_is_given_up() -> None:
    with pytest.raises(Unavailable, match="n1 was silent for 1 s"):
        ask(SlowNode(1.1))
