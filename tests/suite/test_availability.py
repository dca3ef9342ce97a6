"""A silence of writes counts against P9 only for as long as one majority was whole."""

from __future__ import annotations

import pytest
from suite.availability import Availability, Trouble

THREE = [(0, frozenset({"n1", "n2", "n3"}))]


def out(t0: int, t1: int, *nodes: str) -> Trouble:
    return Trouble(t0, t1, nodes=frozenset(nodes))


def cut(t0: int, t1: int, *links: str) -> Trouble:
    return Trouble(t0, t1, links=frozenset(links))


@pytest.mark.parametrize(
    ("troubles", "whole"),
    [
        pytest.param([], 100, id="nothing"),
        pytest.param([out(0, 100, "n1")], 100, id="two-are-enough"),
        pytest.param([out(0, 100, "n1", "n2")], 0, id="one-is-not"),
        pytest.param([out(0, 100, "n1"), out(30, 50, "n2")], 50, id="the-longer-of-two-pieces"),
        pytest.param([out(0, 60, "n1"), out(60, 100, "n2")], 60, id="not-one-majority-throughout"),
        pytest.param([out(0, 50, "n1"), out(50, 100, "n2"), cut(0, 100, "n2>n3")], 50, id="nor-by-way-of-a-cut-link"),
        pytest.param([out(0, 100, "n1"), cut(20, 90, "n3>n2")], 20, id="one-direction-is-cut"),
        pytest.param([out(0, 100, "n1"), cut(0, 100, "n1>n2", "n3>n1")], 100, id="links-of-who-is-out-do-not-matter"),
        pytest.param([out(0, 100, "n1"), cut(70, 80, "client>n2")], 70, id="clients-must-get-there"),
        pytest.param([out(0, 100, "n1"), cut(40, 40, "n2>n3")], 60, id="a-reset-begins-it-anew"),
        pytest.param([out(-50, 10, "n1", "n2"), out(90, 400, "n2", "n3")], 80, id="from-before-until-after"),
        pytest.param([out(0, 100, "n4")], 100, id="a-stranger"),
    ],
)
def test_the_longest_time_in_which_one_majority_was_whole(troubles: list[Trouble], whole: int) -> None:
    assert Availability(troubles, THREE).whole_ns(0, 100) == whole


def test_while_members_change_the_majority_of_the_larger_set_is_needed() -> None:
    members = [*THREE, (40, frozenset({"n1", "n2", "n3", "n4"})), (70, frozenset({"n2", "n3", "n4"}))]
    joining = out(40, 70, "n4")
    assert Availability([joining], members).whole_ns(0, 100) == 70, "three of four until n1 leaves"
    assert Availability([joining, out(0, 100, "n1")], members).whole_ns(40, 70) == 0, "n2 and n3 are two of four"
    assert Availability([joining], members).whole_ns(75, 100) == 25
    assert Availability([joining, out(0, 100, "n4")], members).whole_ns(75, 100) == 25


def test_five_nodes_need_three_that_reach_each_other() -> None:
    members = [(0, frozenset(f"n{i}" for i in range(1, 6)))]
    halves = cut(0, 60, "n1>n3", "n1>n4", "n2>n4", "n2>n5", "n1>n5", "n2>n3")
    assert Availability([halves], members).whole_ns(0, 100) == 100, "n3, n4 and n5"
    assert Availability([halves, out(10, 20, "n4")], members).whole_ns(0, 100) == 80
