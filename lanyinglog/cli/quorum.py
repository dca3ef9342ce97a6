"""What stands between a cluster and its next message, in words: which nodes are silent, how many more are needed.

By the rows of `rollcall` alone, hence only what the nodes said themselves within the deadline. A majority of all nodes
that vote is needed, silent ones counted, for any two majorities have a node in common (promise P1 rests on that).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNREACHABLE = "unreachable"
Row = Mapping[str, Any]


def majority(nodes: int) -> int:
    """How many of ``nodes`` nodes make decisions."""
    return nodes // 2 + 1


def has_quorum(rows: Sequence[Row]) -> bool:
    """Whether the cluster takes writes, by what its nodes say: one leads, and a majority is in its term."""
    voters = voting(rows)
    return _in_newest_term(voters) >= majority(len(voters))


def voting(rows: Sequence[Row]) -> list[Row]:
    """Without learners, and who is no member; a voter that has no row, for nobody could ask it, as a silent one.
    As long as nobody tells who belongs, whoever is silent counts as one that votes."""
    members = _members(rows)
    if members:
        asked = {row["node"] for row in rows}
        unasked = sorted(node for node, role in members.items() if role == "voter" and node not in asked)
        return [row for row in rows if members.get(row["node"]) == "voter"] + list(map(_unasked, unasked))
    return [row for row in rows if row["role"] not in ("learner", "stranger")]


def _unasked(node: str) -> Row:
    return {"node": node, "client": None, "role": UNREACHABLE, "term": None}


def _members(rows: Sequence[Row]) -> Mapping[str, str]:
    """Node -> voter or learner, by whoever knows best: the newest term, there the leader, else the furthest. By a
    stranger only if nobody else says: what it knows may be old."""
    all_telling = [row for row in rows if row.get("members")]
    telling = [row for row in all_telling if row["role"] != "stranger"] or all_telling
    if not telling:
        return {}
    best = max(telling, key=lambda row: (row["term"], row["role"] == "leader", row.get("commit") or 0))
    members: Mapping[str, str] = best["members"]
    return members


def remarks(rows: Sequence[Row]) -> list[str]:
    """Sentences for whoever runs the cluster, the worst first; none if all is well."""
    voters = voting(rows)
    found = [] if has_quorum(rows) else [_without_quorum(voters)]
    silent = _silent(voters)
    if not found and silent:
        spare = len(voters) - len(silent) - majority(len(voters))
        left = f"{spare} more may fail" if spare else "no other may fail"
        answering = len(voters) - len(silent)
        found.append(f"{_listed(silent)}: no answer; {answering} of {len(voters)} nodes answer, {left}")
    found += [
        f"{row['node']}: its disk is full; {_FULL_LEADER if row['role'] == 'leader' else _FULL_FOLLOWER}"
        for row in rows
        if row.get("storage_full")
    ]
    found += [f"{row['node']}: {row['catch_up']}" for row in rows if row.get("catch_up")]
    return found


_FULL_LEADER = "publishes are declined and reads go on until there is room"
_FULL_FOLLOWER = "it stores nothing new until there is room, and so does not count for the majority"


def _without_quorum(rows: Sequence[Row]) -> str:
    silent, needed = _silent(rows), majority(len(rows))
    answering = len(rows) - len(silent)
    if answering < needed:
        more = needed - answering
        return (
            f"no quorum, no message is taken: {answering} of {len(rows)} nodes answer and {needed} are needed."
            f" No answer from {_listed(silent)}. Start {more} of them, or restore the network to {_them(more)}"
            f"{_unless(rows)}"
        )
    apart = _apart(rows)
    if apart:
        why = f"Not connected to each other: {apart}. Check the peer addresses and the secret in each node's log"
    elif any(row["role"] == "leader" for row in rows):
        why = f"Only {_in_newest_term(rows)} of them are in the leader's term: an election is under way, ask again"
    else:
        why = "None leads yet: an election takes a second or two. Ask again, then look at the nodes' logs"
    return f"no quorum, no message is taken, though {answering} of {len(rows)} nodes answer. {why}"


def _unless(rows: Sequence[Row]) -> str:
    """Who leads hears a majority, or did a moment ago: perhaps those that are silent are only not reached from here."""
    if any(row["role"] == "leader" for row in rows):
        return "; as a node leads, they may run: name addresses with --server under which they are reached from here"
    return ""


def _in_newest_term(rows: Sequence[Row]) -> int:
    terms = [row["term"] for row in rows if row["role"] == "leader"]
    return sum(row["term"] == max(terms) for row in rows) if terms else 0


def _silent(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["role"] == UNREACHABLE]


def _listed(rows: Sequence[Row]) -> str:
    return ", ".join(f"{row['node']} ({row['client'] or 'address unknown'})" for row in rows)


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


def _apart(rows: Sequence[Row]) -> str:
    """The pairs of nodes that answer here and say that they have no link to each other."""
    answering = {row["node"] for row in rows if row["role"] != UNREACHABLE}
    pairs = {
        tuple(sorted((row["node"], other)))
        for row in rows
        for other in row.get("unconnected") or ()
        if other in answering and row["node"] in answering
    }
    return ", ".join(" and ".join(pair) for pair in sorted(pairs))
