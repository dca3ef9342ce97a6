"""What a node with an empty directory does before it takes part: finds out what it may have promised in a life before.

Raft's safety rests on promises kept on disk: a vote, an acknowledged entry. A node that lost its disk has broken none
of them yet, but would, if it voted again in a term in which it has voted, acknowledged entries to a leader that it had
promised not to follow any more, or helped elect a leader that lacks an entry which it had acknowledged. It can't know;
the others do. So, in this order:

1. It asks every other member for its term, again and again, and until all have answered it is deaf to all else. Who
   asked for its vote had raised its own term on disk before, and so had every leader it ever followed: the highest term
   of all members covers every promise. It takes that term, abstains in it, and from here on stores and
   acknowledges what a leader of that or a later term sends.
   Who the members are it knows from its settings only, which may be old. The answers tell: whom a member counts among
   the voters it asks too; who left, by what is committed, it does not wait for and does not hear any more, so that
   nothing it may have promised there can matter.
2. It neither votes nor asks for votes until its log has reached the last entry that a leader had when asked: a leader
   has all that is committed, hence all that it could have helped commit.

If every other member has an empty log nothing can have been committed, for a majority holds one of them: a new cluster
begins without 2. Its price is that all members must be up once, at the beginning, and that a node that lost its disk
takes no part while another member is down (with three nodes any rule must ask that much).

A node whose settings say that it is to be **added** under a name of its own has promised nothing, and a cluster that
replaces a dead machine can't wait for it. So it asks a majority: had it been made a voter, then by a majority of which
at least one would say so, and in that case all the above holds for it too. Once a majority denies it, it takes the
highest term it was told, and is done: nobody counts it before an entry makes it a voter, which comes when it has all.

What remains assumed: two nodes do not lose their disks in the time it takes one of them to come back, unless a majority
of the others keeps theirs; and an old copy of a directory is never put in place of a newer one: that can't be told.

Answers carry the number that was asked with, so that none from a life before counts. Who asks with a number that is
new to a leader has nothing, and is sent the log. What comes while the node is deaf is lost, so as soon as it hears it
asks with another number: the leader sends again at once, not only when it misses an answer. Pure: no clock, no disk.
"""

from __future__ import annotations

from collections.abc import Iterable

from lanyinglog.raft.messages import Join, Joined


class Joining:
    """One node's way in. ``number`` is random and new with every start; ``fresh``: it is to be added."""

    def __init__(self, *, node: str, peers: Iterable[str], number: int, fresh: bool = False) -> None:
        self._node = node
        self.peers = frozenset(peers)
        """Whom it asks."""
        self.departed: frozenset[str] = frozenset()
        """Who left, as it was told."""
        self._fresh = fresh
        self._number = number
        self._terms: dict[str, int] = {}
        self._blank: dict[str, bool] = {}
        self._goal: tuple[int, int] | None = None

    def question(self, term: int) -> Join:
        """What to ask every other member, at every heartbeat."""
        return Join(term, self._number, tuple(sorted(self.peers)))

    def answered(self, sender: str, answer: Joined) -> None:
        """A member's answer; the leader's also says how far to go."""
        was_deaf = not self.heard_enough
        if answer.number != self._number or sender not in self.peers:
            return
        self.departed |= self.peers.intersection(answer.departed)
        self.peers = self.peers.union(answer.voters) - self.departed - {self._node}
        self._terms[sender] = max(answer.term, self._terms.get(sender, 0))
        self._blank.setdefault(sender, answer.blank)
        if answer.votes:
            self._fresh = False
        newer = self._goal is None or self._goal[0] < answer.term
        if answer.leads and newer:
            self._goal = (answer.term, answer.last)
        if was_deaf and self.heard_enough:
            self._number += 1

    @property
    def heard_enough(self) -> bool:
        """Whether 1 is done: the node may store and acknowledge."""
        if self._fresh:
            return 2 * len(self.peers & self._terms.keys()) > len(self.peers)
        return self.peers <= self._terms.keys()

    @property
    def missing(self) -> list[str]:
        """Who has not answered yet."""
        return sorted(self.peers - self._terms.keys())

    @property
    def term(self) -> int:
        """The highest term that any member was in: no promise was made beyond it."""
        return max(self._terms.values(), default=0)

    def is_done(self, *, term: int, reached: int) -> bool:
        """Whether the node may vote, being in ``term`` with its log on disk equal to the leader's up to ``reached``."""
        if not self.heard_enough:
            return False
        if self._fresh or all(self._blank[name] for name in self.peers):
            return True
        return self._goal is not None and self._goal[0] == term and reached >= self._goal[1]


class Newcomers:
    """The other side: who asked this node, with which number, and how far it must get before a leader counts on it."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[int, int]] = {}

    def asked(self, name: str, number: int, last: int) -> bool:
        """``name`` asked; this node's log ends with entry ``last``. Whether the number is new: it has nothing, then."""
        known, goal = self._asked.get(name, (0, 0))
        self._asked[name] = number, max(last, goal if known == number else 0)
        return known != number

    def goal(self, name: str) -> int:
        """The entry that ``name`` must have, 0 if it never asked."""
        return self._asked.get(name, (0, 0))[1]
