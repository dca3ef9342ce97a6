"""Which node sends its subscribers away: one that hears no leader for longer than the others need to elect one."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from log.test_handover import NAMES, TIMING, Trio, cluster, log_of

from lanyinglog.hosted_log import SILENT_TIMEOUTS
from lanyinglog.raft.messages import Heartbeat

pytestmark = pytest.mark.trio

TIMEOUT_S = TIMING.election_timeout_s
STEP_S = TIMING.heartbeat_s


def cut_off(nodes: Trio) -> set[str]:
    return {name for name in NAMES if nodes.logs[name].cut_off}


async def test_a_follower_that_hears_no_leader_is_cut_off_until_it_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with cluster(mute=set()) as nodes:
        await trio.sleep(3 * SILENT_TIMEOUTS * TIMEOUT_S)
        assert cut_off(nodes) == set(), "all of them hear the leader, which has nothing to say"
        nodes.deaf = {"n3"}
        await trio.sleep(SILENT_TIMEOUTS * TIMEOUT_S - 2 * STEP_S)
        assert cut_off(nodes) == set(), "others may be electing one"
        await trio.sleep(3 * STEP_S)
        assert cut_off(nodes) == {"n3"}
        nodes.deaf = set()
        await trio.sleep(2 * STEP_S)
        assert cut_off(nodes) == set()


async def test_a_fail_over_cuts_off_the_old_leader_and_nobody_else(autojump_clock: trio.testing.MockClock) -> None:
    async with cluster(mute=set()) as nodes:
        nodes.deaf = nodes.mute = {"n1"}
        seen: set[str] = set()
        for _ in range(int((SILENT_TIMEOUTS + 2) * TIMEOUT_S / STEP_S)):
            await trio.sleep(STEP_S)
            seen |= cut_off(nodes)
        assert seen == {"n1"}
        assert "n1" not in {nodes.loops[name].core.replica.engine.leader for name in ("n2", "n3")}


@pytest.mark.parametrize("newcomer", [False, True], ids=["a node", "one that lost its disk"])
async def test_a_node_that_may_not_listen_to_the_leader_yet_is_cut_off(
    newcomer: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Not all others have told it what it may have promised."""
    loop, log, _ = log_of("n3", send=lambda to, message: None, newcomer=newcomer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run)
        for _ in range(int(SILENT_TIMEOUTS * TIMEOUT_S / STEP_S) + 1):
            loop.receive("n1", Heartbeat(term=1, commit=1))
            loop.heard()
            await trio.sleep(STEP_S)
        assert log.cut_off == newcomer
        nursery.cancel_scope.cancel()
