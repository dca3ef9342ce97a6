"""A real log on LMDB under a limit: its file stays small, readers are told what is gone, a restart forgets nothing."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from lanyinglog import log_core, record
from lanyinglog.commit_loop import CommitLoop
from lanyinglog.errors import BadRequest, Trimmed
from lanyinglog.hosted_log import HostedLog
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.raft.messages import Heartbeat, Joined, Offer
from lanyinglog.raft.timing import Timing
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.verify import verify

pytestmark = pytest.mark.trio

LIMIT = 4 << 20
MESSAGE = 100_000


async def with_log(directory: Path, use: Callable[[HostedLog], Awaitable[None]]) -> None:
    """``use`` on a log of one node that leads, which is then stopped cleanly."""
    store = LmdbStore.open(directory, node="n1", map_bytes=1 << 30)
    core = LogCore(
        node="n1",
        members=Members.of({"n1": "n1:1"}),
        store=store,
        timing=Timing(),
        uniform=lambda low, high: low,
        now=trio.current_time(),
        newcomer=not store.joined(),
    )
    loop = CommitLoop(core=core, store=store, send=lambda to, message: None)
    hosted = HostedLog(
        "main",
        loop=loop,
        store=store,
        client_of=lambda name: None,
        connected=lambda name: False,
        own_addresses=("x:1", "x:2"),
    )
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.run)
                while not core.replica.leads:
                    await loop.wait_turn()
                await use(hosted)
                nursery.cancel_scope.cancel()
            await loop.finish()
    finally:
        store.close()


async def publish(hosted: HostedLog, count: int) -> None:
    producer = os.urandom(16)
    for number in range(1, count + 1):
        run = record.encode_columns("t", [os.urandom(MESSAGE)])
        batch = record.parse_batch(record.encode_batch(producer, number, [run]))
        await hosted.submit(batch, received=trio.current_time()).wait()


async def read(hosted: HostedLog, after: int) -> list[int]:
    page = await hosted.read(after=after, filters=(">",), messages_max=1, bytes_max=1)
    return [item.first_seq for item in page.items]


async def test_a_file_stays_near_its_limit_and_readers_are_told(tmp_path: Path) -> None:
    directory = tmp_path / "main"

    async def use(hosted: HostedLog) -> None:
        await hosted.set_retention({"bytes": LIMIT})
        for _ in range(10):
            await publish(hosted, 30)
            info = hosted.log_info()
            assert info["file_bytes"] < 2 * LIMIT + (8 << 20)
        assert LIMIT <= info["bytes"] < 1.5 * LIMIT
        assert info["first_seq"] > 200
        with pytest.raises(Trimmed, match=f"begins at {info['first_seq']}") as caught:
            await read(hosted, 0)
        assert caught.value.hint == str(info["first_seq"])
        assert await read(hosted, info["first_seq"] - 1) == [info["first_seq"]]
        assert await hosted.seq_at_time(1) >= hosted.first_seq
        (topic,) = hosted.topics(after="", topics_max=5).topics
        assert topic.messages < 60

    await with_log(directory, use)
    assert (directory / "data.mdb").stat().st_size < 2 * LIMIT + (12 << 20)
    report = verify(directory)
    assert report.ok, report.problems
    before = report.first

    async def again(hosted: HostedLog) -> None:
        assert hosted.log_info()["max_bytes"] == LIMIT
        assert hosted.log_info()["first_index"] >= before
        await publish(hosted, 5)

    await with_log(directory, again)


async def test_a_time_before_the_log_leads_to_its_front_while_what_is_trimmed_is_still_stored(
    tmp_path: Path,
) -> None:
    async def use(hosted: HostedLog) -> None:
        await publish(hosted, 1)
        hosted._core.trimmer.step = lambda goal, *, bytes_added: None  # type: ignore[method-assign]
        await hosted.set_retention({"bytes": LIMIT})
        await publish(hosted, 100)
        with trio.fail_after(20):
            while hosted.first_seq == 1:
                await publish(hosted, 1)
        assert hosted.log_info()["first_index"] == 1, "nothing is removed"
        assert await hosted.seq_at_time(1) == hosted.first_seq

    await with_log(tmp_path / "main", use)


async def test_age_empties_a_log_that_nobody_writes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_core, "CHECKPOINT_S", 0.1)

    async def use(hosted: HostedLog) -> None:
        await publish(hosted, 3)
        await hosted.set_retention({"age_s": 1})
        while hosted.first_seq <= 3:
            await hosted._loop.wait_turn()
        assert hosted.log_info()["messages"] == 0
        assert hosted.last_seq == 3
        with pytest.raises(Trimmed):
            await read(hosted, 2)
        await publish(hosted, 1)
        assert await read(hosted, 3) == [4]

    await with_log(tmp_path / "main", use)


@pytest.mark.parametrize("changes", [{}, {"bytes": 5}, {"colour": 1}, {"messages": 0}, {"age_s": True}], ids=repr)
async def test_a_limit_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    async def use(hosted: HostedLog) -> None:
        before = hosted.log_info()
        with pytest.raises(BadRequest):
            await hosted.set_retention(changes)
        assert hosted.log_info()["max_bytes"] == before["max_bytes"]

    await with_log(tmp_path / "main", use)


async def test_a_node_says_in_words_what_it_lacks(tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path / "main", node="n1", map_bytes=1 << 30)
    core = LogCore(
        node="n1",
        members=Members.of({"n1": "n1:1", "n2": "n2:1", "n3": "n3:1"}),
        store=store,
        timing=Timing(),
        uniform=lambda low, high: low,
        now=0.0,
        newcomer=True,
    )
    loop = CommitLoop(core=core, store=store, send=lambda to, message: None)
    hosted = HostedLog(
        "main",
        loop=loop,
        store=store,
        client_of=lambda name: None,
        connected=lambda name: False,
        own_addresses=("x:1", "x:2"),
    )
    number = core.replica.joining.question(0).number if core.replica.joining else 0
    assert "until n2, n3 told it" in hosted.status()["catch_up"]
    core.receive("n2", Joined(3, number, blank=False, leads=True, last=900, votes=True), 0.0)
    assert "until n3 told it" in hosted.status()["catch_up"]
    core.receive("n3", Joined(3, number, blank=False, leads=False, last=900, votes=True), 0.0)
    assert "does not vote until it has caught up" in hosted.status()["catch_up"]
    core.receive("n2", Heartbeat(3, 900), 0.0)
    core.receive("n2", Offer(3, 500, 480, 4_800, 50), 0.0)
    assert hosted.status()["catch_up"] == "it has 0 % of a snapshot"
    loop.installing = True
    assert hosted.status()["catch_up"] == "it installs a snapshot"
    store.close()
