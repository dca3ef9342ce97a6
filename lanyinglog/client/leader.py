"""Which servers there are, and which of them leads.

A client knows the servers it was given and those that nodes name as leader. To find the leader all are asked side by
side, each again and again with its own pauses, until one says that it leads: a server that hangs costs nothing but
itself, so that writes resume as soon as a new leader stands (P9). A node that does not host the log ends the search:
all nodes of a cluster host the same logs, from the moment on in which they listen.

It keeps `SERVERS_MAX` in mind and learns others all the same, for nodes come back under other addresses: the one that
has failed longest makes room. What the user named is never forgotten, and what was reached is so last.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Sequence

import anyio
from anyio.abc import TaskGroup

from lanyinglog.client.link import Link, LinkLost, ask_status
from lanyinglog.client.timing import Backoff, Timing
from lanyinglog.config import Address, parse_address
from lanyinglog.errors import ConfigError, LanyingError, UnknownLog, UnsupportedVersion

NO_PROBLEM = "no server said why"
SERVERS_MAX = 64
"""Servers a client keeps in mind: a cluster has far fewer, a lying one could name any number."""


class Refusals:
    """Who could not be reached, or would not serve, since a node was last of use: in the order in which that was.

    All are kept: who avoids only the last one is sent to and fro between two that are of no use.
    """

    def __init__(self) -> None:
        self._order: dict[Address, None] = {}

    def note(self, address: Address) -> None:
        """``address`` was of no use; it is the last to be asked again."""
        self._order.pop(address, None)
        self._order[address] = None

    def clear(self) -> None:
        """A node was of use."""
        self._order.clear()

    def ranks(self, addresses: Sequence[Address]) -> dict[Address, int]:
        """A rank for each of ``addresses``: 0 for who has refused nothing, then up to who did last. Others are
        forgotten."""
        known = set(addresses)
        self._order = {one: None for one in self._order if one in known}
        return dict.fromkeys(addresses, 0) | {one: rank for rank, one in enumerate(self._order, 1)}


class Servers:
    """The servers of one cluster, as one client knows them."""

    def __init__(
        self, addresses: Sequence[Address], *, log: str, timing: Timing, tls: ssl.SSLContext | None = None
    ) -> None:
        self.log = log
        self.timing = timing
        self._tls = tls
        self.given = frozenset(addresses)
        """What the user named: subscriptions prefer these."""
        self.addresses = list(dict.fromkeys(addresses))
        self.leader: Address | None = None
        """Who led when last seen; None if there is reason to doubt it."""
        self.last_problem = "no server was tried yet"
        """For errors: what was last in the way. `NO_PROBLEM` once something succeeded."""
        self.unanswered: str | None = ""
        """Why no server has answered so far: empty before the first was tried, None once one has."""
        self._reached: dict[Address, None] = {}  # those whose last try succeeded, and ...
        self._failing: dict[Address, None] = {}  # ... failed, in the order in which that began
        self._strangers: dict[Address, UnsupportedVersion] = {}  # servers that speak another version

    def learn(self, text: str | None) -> Address | None:
        """Take in the client address of a leader, as a node names it; None if it says nothing usable."""
        try:
            address = parse_address("leader_client", text) if text else None
        except ConfigError:
            return None
        if address is None or address in self.addresses:
            return address
        if len(self.addresses) >= SERVERS_MAX and not self._forget_one():
            return None
        self.addresses.append(address)
        return address

    def _forget_one(self) -> bool:
        """Make room for another server; False if there is none to be had."""
        untried = (one for one in self.addresses if one not in self._reached)
        for address in (*self._failing, *untried, *self._reached):
            if address not in self.given and address != self.leader:
                self.addresses.remove(address)
                for known in (self._failing, self._reached, self._strangers):
                    known.pop(address, None)
                return True
        return False

    def doubt(self, address: Address) -> None:
        """``address`` failed as a leader."""
        if self.leader == address:
            self.leader = None

    async def learn_members(self, link: Link) -> dict[str, object]:
        """Take in the client addresses of all members that the node behind ``link`` knows; its status."""
        status = await ask_status(link, self.log)
        hint, peers = status.get("leader_client"), status.get("peers")
        known = [hint] + [peer.get("client") for peer in _values(peers) if isinstance(peer, dict)]
        for text in known:
            if isinstance(text, str):
                self.learn(text)
        return status

    async def try_open(self, address: Address) -> Link | None:
        """A connection to ``address``, or None; `UnsupportedVersion` once every server speaks another version."""
        try:
            link = await Link.open(address, self.timing, self._tls)
        except LinkLost as error:
            self.last_problem = str(error)
            if self.unanswered is not None:
                self.unanswered = self.last_problem
            self._strangers.pop(address, None)
            self._note(address, reached=False)
            return None
        except UnsupportedVersion as error:
            self.unanswered = None
            self.last_problem = f"{address}: {error.message}"
            self._strangers[address] = error
            self._note(address, reached=False)
            if self._strangers.keys() >= set(self.addresses):
                raise UnsupportedVersion(self.last_problem) from error
            return None
        self.unanswered = None
        self._strangers.pop(address, None)
        self._note(address, reached=True)
        self.learn(link.welcome.leader_client)
        return link

    def _note(self, address: Address, *, reached: bool) -> None:
        now, before = (self._reached, self._failing) if reached else (self._failing, self._reached)
        before.pop(address, None)
        if address in self.addresses:  # it may have been forgotten while it was tried
            now.setdefault(address)

    async def open_leader(self) -> Link:
        """A connection to the leader, however long it takes: the caller sets the limit. `UnsupportedVersion`,
        `UnknownLog`: there is none to be had."""
        search = _Search(self)
        try:
            async with anyio.create_task_group() as tasks:
                search.start(tasks)
        except BaseException:
            await search.abandon()
            raise
        return search.result()

    async def open_any(self, refusals: Refusals) -> Link:
        """A connection to any server, however long it takes: those that refused nothing first, and of them those that
        the user named; then who refused least recently. Takes down who can't be reached."""
        backoff = Backoff(self.timing)
        while True:
            ranks = refusals.ranks(self.addresses)
            order = {one: (rank, one not in self.given, random.random()) for one, rank in ranks.items()}
            for address in sorted(order, key=order.__getitem__):
                link = await self.try_open(address)
                if link is not None:
                    return link
                refusals.note(address)
            await anyio.sleep(backoff.next_s())

    async def leads(self, link: Link) -> bool:
        """Whether the node behind ``link`` leads, by its own word; its members are learnt on the way."""
        status = await self.learn_members(link)
        if status.get("role") == "leader":
            return True
        hint = status.get("leader_client")
        self.last_problem = f"{link.address} says that {hint} leads" if hint else f"{link.address} knows no leader"
        return False


def _values(peers: object) -> list[object]:
    return list(peers.values()) if isinstance(peers, dict) else []


class _Search:
    """One search for the leader: a watcher for each server, the first that succeeds ends all."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._watched: set[Address] = set()
        self._found: Link | None = None
        self._error: LanyingError | None = None
        self._tasks: TaskGroup

    def start(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        leader = self._servers.leader
        if leader is not None:
            self._watch(leader, 0.0)
        delay_s = 0.0 if leader is None else self._servers.timing.head_start_s
        for address in list(self._servers.addresses):
            self._watch(address, delay_s)

    def result(self) -> Link:
        if self._error is not None:
            raise self._error
        assert self._found is not None
        self._servers.leader = self._found.address
        address = str(self._found.address)
        if not self._servers.last_problem.startswith(address):  # what it was with others is over
            self._servers.last_problem = f"{address}, which leads, has not answered"
        return self._found

    async def abandon(self) -> None:
        """The search was cancelled: nobody will take what it found."""
        if self._found is not None:
            await self._found.aclose()

    def _watch(self, address: Address, delay_s: float) -> None:
        if address not in self._watched and len(self._watched) < SERVERS_MAX:
            self._watched.add(address)
            self._tasks.start_soon(self._ask_again_and_again, address, delay_s)

    async def _ask_again_and_again(self, address: Address, delay_s: float) -> None:
        await anyio.sleep(delay_s)
        backoff = Backoff(self._servers.timing)
        while self._found is None:
            if address not in self._servers.addresses:  # forgotten, for another
                self._watched.discard(address)
                return
            try:
                link = await self._open_if_leader(address)
            except (UnsupportedVersion, UnknownLog) as error:
                self._error = error if self._found is None else None
                self._tasks.cancel_scope.cancel()
                return
            for learnt in list(self._servers.addresses):
                self._watch(learnt, 0.0 if self._servers.leader is None else self._servers.timing.head_start_s)
            if link is not None and (self._found is not None or self._error is not None):
                await link.aclose()
            elif link is not None:
                self._found = link
                self._tasks.cancel_scope.cancel()
                return
            await anyio.sleep(backoff.next_s())

    async def _open_if_leader(self, address: Address) -> Link | None:
        link = await self._servers.try_open(address)
        if link is None:
            return None
        leads = False
        try:
            with anyio.move_on_after(self._servers.timing.connect_s):
                leads = await self._servers.leads(link)
        except UnknownLog:
            raise
        except (LinkLost, LanyingError) as error:
            self._servers.last_problem = str(error)
        finally:
            if not leads:
                await link.aclose()
        return link if leads else None
