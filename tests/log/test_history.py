"""A reader of history while the log goes on: what comes in between is neither skipped nor taken for damage."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from log.test_retention import publish, with_log

from lanyinglog import log_core, record
from lanyinglog.errors import Trimmed
from lanyinglog.hosted_log import HostedLog
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.log_store import LogStore
from lanyinglog.tail import History

pytestmark = pytest.mark.trio


@pytest.fixture(autouse=True)
def _frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_core, "CHECKPOINT_S", 0.1)


class Between:
    """A store; ``happens`` happens, once, between a thread's call of ``method`` and its next one."""

    def __init__(self, store: LmdbStore, method: str, happens: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._method = method
        self._happens = happens
        self.happened = False

    def __getattr__(self, name: str) -> object:
        method = getattr(self._store, name)
        if name != self._method or self.happened:
            return method

        def call(*arguments: Any, **named: Any) -> object:
            result = method(*arguments, **named)
            self.happened = True
            trio.from_thread.run(self._happens)
            return result

        return call


async def interrupted(hosted: HostedLog, method: str, happens: Callable[[], Awaitable[None]]) -> Between:
    """Twenty messages that are on disk alone; ``happens`` in the middle of the next look at them."""
    await publish(hosted, 20)
    await until_stored(hosted)
    hosted._core.tail.holds = lambda seq: False  # type: ignore[method-assign]
    hosted._core.tail.seq_at_time = lambda timestamp: None  # type: ignore[method-assign]
    between = Between(cast(LmdbStore, hosted._store), method, happens)
    hosted._history = History(cast(LogStore, between))
    return between


async def until_stored(hosted: HostedLog) -> None:
    while hosted._store.applied() < hosted._core.machine.applied:
        await hosted._loop.wait_turn()


async def publish_to(hosted: HostedLog, topic: str) -> None:
    run = record.encode_columns(topic, [b"x"])
    batch = record.parse_batch(record.encode_batch(os.urandom(16), 1, [run]))
    await hosted.submit(batch, received=trio.current_time()).wait()


def trimming(hosted: HostedLog) -> Callable[[], Awaitable[None]]:
    async def trim() -> None:
        await hosted.set_retention({"messages": 5})
        while hosted._store.bounds()[0] < 15:
            await hosted._loop.wait_turn()

    return trim


@pytest.mark.parametrize("method", ["index_of_seq", "entries"])
async def test_who_reads_while_the_front_goes_is_told_so(method: str, tmp_path: Path) -> None:
    async def use(hosted: HostedLog) -> None:
        between = await interrupted(hosted, method, trimming(hosted))
        with pytest.raises(Trimmed, match="begins at"):
            await hosted.read(after=0, filters=(">",), messages_max=1_000, bytes_max=1 << 20)
        assert between.happened

    await with_log(tmp_path / "main", use)


async def test_a_time_is_found_while_the_front_goes(tmp_path: Path) -> None:
    async def use(hosted: HostedLog) -> None:
        between = await interrupted(hosted, "index_of_time", trimming(hosted))
        assert await hosted.seq_at_time(1) == hosted.first_seq > 1
        assert between.happened

    await with_log(tmp_path / "main", use)


@pytest.mark.parametrize("pattern", ["new", "new.*"])
async def test_a_topic_that_appears_while_history_is_read_is_not_skipped(pattern: str, tmp_path: Path) -> None:
    topic = pattern.replace("*", "one")

    async def use(hosted: HostedLog) -> None:
        async def appear() -> None:
            await publish_to(hosted, topic)
            await until_stored(hosted)

        between = await interrupted(hosted, "index_of_seq", appear)
        after, found = 0, []
        while after < hosted.last_seq:
            page = await hosted.read(after=after, filters=(pattern,), messages_max=1_000, bytes_max=1 << 20)
            found += [item.first_seq for item in page.items]
            after = page.through
        assert between.happened
        assert found == [21]

    await with_log(tmp_path / "main", use)
