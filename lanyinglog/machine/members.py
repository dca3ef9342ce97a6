"""Who belongs to a log, as replicated state: the members, what each counts for, and who once belonged.

A **voter** counts for commits and elections. A **learner** is sent everything and counts for nothing, until it has
caught up and a second change makes it a voter. Who has **departed** never comes back under the same name: what it may
have promised as a voter would be forgotten with its disk (P1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lanyinglog import codec
from lanyinglog.config import MEMBERS_MAX
from lanyinglog.errors import BadRequest, ProtocolError
from lanyinglog.machine.commands import COMMAND_HEAD_BYTES, HEAD_BYTES, KIND_MEMBERS

DEPARTED_MAX = 1_000
"""Names that are remembered; a log that saw more members leave takes no more in."""


@dataclass(frozen=True, slots=True)
class Member:
    """``peer`` is where other members reach it, ``host:port``."""

    peer: str
    votes: bool = True


@dataclass(frozen=True, slots=True)
class Members:
    """One configuration."""

    table: Mapping[str, Member] = field(default_factory=dict)
    departed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, addresses: Mapping[str, str]) -> Members:
        """Voters at ``addresses``, by name."""
        return cls({name: Member(peer) for name, peer in sorted(addresses.items())})

    @property
    def voters(self) -> frozenset[str]:
        return frozenset(name for name, member in self.table.items() if member.votes)

    @property
    def learners(self) -> frozenset[str]:
        return frozenset(name for name, member in self.table.items() if not member.votes)

    def with_learner(self, name: str, peer: str) -> Members:
        """One member more, which does not vote yet."""
        return Members({**self.table, name: Member(peer, votes=False)}, self.departed)

    def with_voter(self, name: str) -> Members:
        """The learner ``name`` votes from now on."""
        return Members({**self.table, name: Member(self.table[name].peer)}, self.departed)

    def without(self, name: str) -> Members:
        """One member less."""
        table = {other: member for other, member in self.table.items() if other != name}
        return Members(table, self.departed | {name})

    def encode(self) -> bytes:
        """The same bytes for the same members."""
        table = {name: [member.peer, member.votes] for name, member in sorted(self.table.items())}
        return codec.pack({"members": table, "departed": sorted(self.departed)})

    @classmethod
    def decode(cls, data: bytes) -> Members:
        """What `encode` made; `BadRequest` for anything else."""
        try:
            value: Any = codec.unpack(data)
            table = {str(name): Member(str(peer), bool(votes)) for name, (peer, votes) in value["members"].items()}
            return cls(table, frozenset(map(str, value["departed"])))
        except (ProtocolError, TypeError, KeyError, AttributeError, ValueError) as error:
            raise BadRequest(f"members that can't be read: {error}") from error


def members_in(command: bytes) -> Members | None:
    """The members that an entry sets, or None if it sets none: every node reads it alike."""
    if len(command) <= HEAD_BYTES or command[0] != 0 or command[HEAD_BYTES] != KIND_MEMBERS:
        return None
    try:
        return Members.decode(command[HEAD_BYTES + COMMAND_HEAD_BYTES :])
    except BadRequest:
        return None


def added(members: Members, name: str, peer: str) -> Members:
    """``members`` with the learner ``name`` at ``peer``; as they are if it is there already, for a request may come
    twice. `BadRequest` says why it can't be."""
    if name in members.table and members.table[name].peer == peer:
        return members
    if name in members.table:
        raise BadRequest(f"{name} is a member already, at {members.table[name].peer}")
    if name in members.departed:
        raise BadRequest(f"{name} was a member once: a node that comes back with nothing needs a new name")
    if peer in {member.peer for member in members.table.values()}:
        raise BadRequest(f"another member is at {peer} already")
    if len(members.table) >= MEMBERS_MAX:
        raise BadRequest(f"the log has {len(members.table)} members; {MEMBERS_MAX} is the most")
    if len(members.departed) >= DEPARTED_MAX:
        raise BadRequest(f"{DEPARTED_MAX} members have left this log already")
    return members.with_learner(name, peer)


def removed(members: Members, name: str, *, ready: frozenset[str]) -> Members:
    """``members`` without ``name``, given who answers and has the log; as they are if it left before. `BadRequest`
    says why it can't be, and what can."""
    if name in members.departed:
        return members
    if name not in members.table:
        raise BadRequest(f"{name} is no member; the members are {', '.join(sorted(members.table))}")
    left = members.without(name)
    if not left.voters:
        raise BadRequest(f"{name} is the only voter: add another member first")
    silent = left.voters - ready
    if 2 * (len(left.voters) - len(silent)) <= len(left.voters):
        raise BadRequest(
            f"without {name} too few of {', '.join(sorted(left.voters))} could decide: silent or still catching up is"
            f" {', '.join(sorted(silent))}; bring back what is missing, or remove that first"
        )
    return left
