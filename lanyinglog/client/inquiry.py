"""Questions to the cluster that one reply answers: topics, how each node is, which message is the newest.

What a leader is asked to do may take it long, for it waits for other nodes: it is waited for while it answers pings.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import anyio

from lanyinglog.client.leader import NO_PROBLEM, Refusals, Servers
from lanyinglog.client.link import Link, LinkLost
from lanyinglog.client.timing import Backoff
from lanyinglog.config import Address
from lanyinglog.errors import BadRequest, LanyingError, NotLeader, Unavailable
from lanyinglog.service import TopicStat
from lanyinglog.topics import check_filter, matcher
from lanyinglog.wire.fields import SEQ_MAX
from lanyinglog.wire.messages import (
    LogInfo,
    LogInfoReply,
    LogSet,
    MemberAdd,
    MemberRemove,
    MembersReply,
    Message,
    Newest,
    NewestReply,
    TopicPurge,
    Topics,
    TopicsReply,
    Transfer,
    Transferred,
)

TOPICS_MAX = 1_000_000
"""Topics that `list_topics` takes from a node: a log has fewer."""
T = TypeVar("T")
Reply = TypeVar("Reply", bound=Message)


async def list_topics(servers: Servers, pattern: str, *, timeout: float) -> list[TopicStat]:
    """The topics that match the filter ``pattern``, by name, as some node sees them."""
    matches = matcher((check_filter(pattern),))
    return [stat for stat in await _ask_any(servers, _all_topics, timeout) if matches(stat.topic)]


async def _all_topics(servers: Servers, link: Link) -> list[TopicStat]:
    stats: list[TopicStat] = []
    while True:
        after = stats[-1].topic if stats else ""
        reply = await _ask_in_time(servers, link, Topics(servers.log, after))
        if not isinstance(reply, TopicsReply):
            raise LinkLost(f"{link.address} answered a topics request with {reply.NAME}")
        stats += reply.topics
        if not reply.more:
            return stats
        if not reply.topics or reply.topics[-1].topic <= after or len(stats) > TOPICS_MAX:
            raise LinkLost(f"{link.address} lists topics without end")


async def _ask_in_time(servers: Servers, link: Link, request: Message) -> Message:
    """One reply, or `LinkLost` where there is silence for too long."""
    with anyio.move_on_after(servers.timing.silence_s):
        return await link.ask(request)
    raise LinkLost(f"{link.address} was silent for {servers.timing.silence_s:g} s")


async def _ask_any(servers: Servers, question: Callable[[Servers, Link], Awaitable[T]], timeout: float) -> T:
    """The answer of the first node that gives one. `Unavailable` when time is up."""
    backoff = Backoff(servers.timing)
    refusals = Refusals()
    with anyio.move_on_after(timeout):
        while True:
            link = await servers.open_any(refusals)
            try:
                return await question(servers, link)
            except BadRequest:
                raise
            except (LinkLost, LanyingError) as error:
                servers.last_problem = str(error)
            finally:
                await link.aclose()
            refusals.note(link.address)
            await anyio.sleep(backoff.next_s())
    raise Unavailable(f"no node answered within {timeout:g} s: {servers.last_problem}")


async def transfer_leadership(servers: Servers, node: str | None, *, timeout: float) -> str:
    """Have the leader hand over to ``node``, or to whom it thinks best; the name of who leads then. Asked once: a
    leader that is lost on the way may or may not have handed over (`Unavailable`)."""
    with anyio.move_on_after(timeout):
        while True:
            link = await servers.open_leader()
            try:
                reply = await link.ask(Transfer(servers.log, node), silence_s=servers.timing.silence_s)
            except NotLeader as error:  # it did when it was found
                servers.leader = servers.learn(error.hint)
                continue
            except LinkLost as error:
                servers.doubt(link.address)
                raise Unavailable(f"the leader was lost while it handed over: {error}") from error
            finally:
                await link.aclose()
            if not isinstance(reply, Transferred):
                raise Unavailable(f"{link.address} answered a transfer with {reply.NAME}")
            servers.leader, servers.last_problem = None, NO_PROBLEM
            return reply.leader
    raise Unavailable(f"no leader handed over within {timeout:g} s: {servers.last_problem}")


async def log_info(servers: Servers, changes: Mapping[str, int | None] | None, *, timeout: float) -> dict[str, Any]:
    """What the log keeps and has, as its leader sees it; with ``changes`` to its limits, those are made first. Changing
    is repeated until it is known to be done: to set a limit twice is to set it."""
    request = LogInfo(servers.log) if changes is None else LogSet(changes, servers.log)
    return dict((await _ask_leader(servers, request, LogInfoReply, timeout)).info)


async def purge(servers: Servers, filter: str, *, timeout: float) -> dict[str, Any]:
    """`log_info` once what the topics that match had so far is purged. Repeated until that is known, and what comes in
    between stays."""
    request = TopicPurge(check_filter(filter), secrets.randbelow(SEQ_MAX) + 1, servers.log)
    return dict((await _ask_leader(servers, request, LogInfoReply, timeout)).info)


async def change_members(servers: Servers, request: MemberAdd | MemberRemove, *, timeout: float) -> dict[str, Any]:
    """Who belongs to the log when ``request`` is done. Repeated until that is known: who joined has joined, who left
    has left."""
    return dict((await _ask_leader(servers, request, MembersReply, timeout)).members)


async def _ask_leader(servers: Servers, request: Message, kind: type[Reply], timeout: float) -> Reply:
    """The leader's answer to ``request``, which may come to it more than once. `BadRequest`, `Unavailable`."""
    backoff = Backoff(servers.timing)
    with anyio.move_on_after(timeout):
        while True:
            link = await servers.open_leader()
            try:
                reply = await link.ask(request, silence_s=servers.timing.silence_s)
                if isinstance(reply, kind):
                    servers.last_problem = NO_PROBLEM
                    return reply
                servers.last_problem = f"{link.address} answered with {reply.NAME}"
            except NotLeader as error:  # it did when it was found
                servers.leader = servers.learn(error.hint)
            except BadRequest:
                raise
            except (LinkLost, LanyingError) as error:
                servers.last_problem = str(error)
                servers.doubt(link.address)
            finally:
                await link.aclose()
            await anyio.sleep(backoff.next_s())
    raise Unavailable(f"no leader answered within {timeout:g} s: {servers.last_problem}")


async def newest_seq(servers: Servers, *, timeout: float) -> int:
    """The newest message of the log, 0 for none: nothing above it was committed when this was called. Never a guess:
    `Unavailable` if no leader answered in time."""
    return (await _ask_leader(servers, Newest(servers.log), NewestReply, timeout)).last_seq


async def cluster_status(servers: Servers, *, timeout: float) -> list[dict[str, Any]]:
    """The view of each node (`lanyinglog.service.LogService.status`), by its name, all of them asked side by side.

    One that does not answer has ``client`` and ``role``: ``unreachable``. `Unavailable` if none does.
    """
    answers: dict[Address, dict[str, Any]] = {}
    asked: set[Address] = set()
    while new := set(servers.addresses) - asked:
        asked |= new
        async with anyio.create_task_group() as tasks:
            for address in new:
                tasks.start_soon(_ask_one, servers, address, timeout, answers)
    if not answers:
        raise Unavailable(f"no node answered: {servers.last_problem}")
    rows: dict[str, dict[str, Any]] = {}
    for status in answers.values():
        rows.setdefault(str(status.get("node")), status)  # one node may have several addresses
    reached = {status.get("client") for status in rows.values()}
    silent = [{"client": str(one), "role": "unreachable"} for one in asked - answers.keys() if str(one) not in reached]
    return [rows[node] for node in sorted(rows)] + sorted(silent, key=lambda row: row["client"])


async def _ask_one(servers: Servers, address: Address, timeout: float, answers: dict[Address, dict[str, Any]]) -> None:
    link: Link | None = None
    with anyio.move_on_after(timeout):
        try:
            link = await servers.try_open(address)
            if link is not None:
                with anyio.move_on_after(servers.timing.silence_s):
                    answers[address] = await servers.learn_members(link)
                    return
                servers.last_problem = f"{address} was silent for {servers.timing.silence_s:g} s"
        except (LinkLost, LanyingError) as error:
            servers.last_problem = str(error)
        finally:
            if link is not None:
                await link.aclose()
