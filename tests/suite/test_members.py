"""A change of members as a fault: asked for until it is known to have happened, and never beside damage."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from suite import scenarios
from suite.arena import Arena, Order, Skipped
from suite.faults import members as fault
from suite.links import Layers
from suite.places import plan

import lanyinglog
from lanyinglog.errors import Unavailable

ORDER = Order(1, 0.0, 1.0, "members", "follower", seed=1)


class TwinCluster:
    """Three members of which n1 leads, one spare node, and what the fault did with them."""

    def __init__(self) -> None:
        place = SimpleNamespace(client=("h", 1), peer=("h", 2))
        *members, spare = [
            SimpleNamespace(name=f"n{i}", place=place, running=True, may_end=False, joins=False) for i in range(1, 5)
        ]
        self.nodes = {node.name: node for node in members}
        self.spares = [spare]
        self.dismissed: list[str] = []

    @property
    def names(self) -> list[str]:
        return list(self.nodes)

    def leader(self) -> str:
        return "n1"

    def admit(self) -> Any:
        if not self.spares:
            return None
        node = self.spares.pop()
        node.joins = True
        self.nodes[node.name] = node
        return node

    def dismiss(self, name: str) -> None:
        del self.nodes[name]
        self.dismissed.append(name)


def test_the_followers_are_all_but_the_leader_or_nobody_if_one_is_hurt_already() -> None:
    arena = Arena(cast(Any, TwinCluster()), cast(Layers, None), epoch_ns=0)
    order = Order(1, 0.0, 1.0, "power", "followers", seed=1)
    with arena.take(order) as nodes:
        assert nodes == ["n2", "n3"]
        with pytest.raises(Skipped), arena.take(order):
            pass


class TwinClient:
    """A log whose members it changes; each kind of request is refused ``refusals`` times first."""

    def __init__(self, refusals: int, *, late_votes: int = 1) -> None:
        self.members = {name: {"votes": True} for name in ("n1", "n2", "n3")}
        self.refusals = {"add": refusals, "remove": refusals}
        self.late_votes = late_votes

    async def __aenter__(self) -> TwinClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def add_member(self, name: str, _peer: str) -> dict[str, Any]:
        self._refuse("add")
        if name in self.members:
            self.late_votes -= 1
        self.members[name] = {"votes": self.late_votes <= 0}
        return {"members": dict(self.members)}

    async def remove_member(self, name: str) -> dict[str, Any]:
        assert all(one["votes"] for one in self.members.values()), "the newcomer did not count yet"
        self._refuse("remove")
        self.members.pop(name, None)
        return {"members": dict(self.members)}

    def _refuse(self, kind: str) -> None:
        if self.refusals[kind]:
            self.refusals[kind] -= 1
            raise Unavailable("nobody leads")


@pytest.fixture
def arena() -> Arena:
    return Arena(cast(Any, TwinCluster()), cast(Layers, None), epoch_ns=0)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[[TwinClient], None]:
    monkeypatch.setattr(fault, "AGAIN_S", 0.001)

    def serve(client: TwinClient) -> None:
        monkeypatch.setattr(lanyinglog, "connect", lambda *_a, **_k: client)

    return serve


@pytest.mark.parametrize("refusals", [0, 3])
def test_a_node_joins_and_one_leaves_whatever_is_refused(
    arena: Arena, served: Callable[[TwinClient], None], refusals: int
) -> None:
    client = TwinClient(refusals, late_votes=2)
    served(client)
    fault.inflict(arena, ORDER)
    (happened,) = arena.book
    (gone,) = arena.cluster.dismissed  # type: ignore[attr-defined]
    assert gone in ("n2", "n3") and gone not in client.members
    assert client.members["n4"] == {"votes": True}
    assert arena.cluster.nodes["n4"].joins is False
    assert happened.words == f"n4 joins, and the follower {gone} leaves"
    assert not arena.remarks and not arena.damage.locked()


@pytest.mark.parametrize("stuck", ["add", "remove"])
def test_a_change_that_does_not_end_is_a_finding_and_nobody_is_dismissed(
    arena: Arena, served: Callable[[TwinClient], None], monkeypatch: pytest.MonkeyPatch, stuck: str
) -> None:
    monkeypatch.setattr(fault, "CHANGE_S_MAX", 0.1)
    client = TwinClient(0)
    client.refusals[stuck] = 1_000_000
    served(client)
    fault.inflict(arena, ORDER)
    ((anomaly, words, _),) = arena.remarks
    assert anomaly == "no-recovery" and ("n4" in words) == (stuck == "add")
    assert not arena.cluster.dismissed  # type: ignore[attr-defined]
    assert not arena.damage.locked()


def test_without_a_name_for_a_new_node_nothing_happens(arena: Arena) -> None:
    arena.cluster.admit()
    with pytest.raises(Skipped):
        fault.inflict(arena, ORDER)
    assert arena.skipped == 1 and not arena.book and not arena.damage.locked()


def test_no_copy_may_be_damaged_while_members_change(arena: Arena) -> None:
    arena.begin_damage()
    with pytest.raises(Skipped):
        fault.inflict(arena, ORDER)
    assert "n4" not in arena.cluster.nodes


@pytest.mark.parametrize("isolated", [True, False])
def test_every_way_from_node_to_node_leads_through_a_relay_of_its_own(isolated: bool) -> None:
    places, links = plan(["n1", "n2", "n3"], isolated=isolated)
    peers = {place.node: place.peer for place in places}
    dialled = [(relay, peers[other]) for place in places for other, relay in place.relays.items()]
    assert [(link.listen, link.target) for link in links if link.listen in dict(dialled)] == dialled
    listened = [place.peer for place in places] + [place.client for place in places]
    assert len({*listened, *(link.listen for link in links)}) == len(listened) + len(links)


def test_a_scenario_says_which_faults_it_is_made_of() -> None:
    assert scenarios.faults_of("members-under-fire") == {"members", "kill", "partition"}
