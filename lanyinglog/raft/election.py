"""When to ask for an election, and whether to wish another one luck: timers and pre-votes.

The engine has neither pre-vote nor a timer of ours (audit 15). A node that hears no leader for a random time between
half and the whole election timeout asks all others whether they would vote for it. Only if a majority would does it
raise its term. So a node that comes back from a pause or a partition deposes nobody (Raft dissertation, 9.6).

A pre-vote is granted when the asker's log is at least as complete as ours, its next term is new to us, and we neither
lead nor heard a leader within the minimum timeout. Granting changes nothing here and promises nothing.

Pure: time, random numbers and what is known of the log come in as arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lanyinglog.raft.messages import PreVote, PreVoteRequest


class Election:
    """The timers of one node. ``uniform(a, b)`` is its source of randomness, seconds."""

    def __init__(
        self,
        *,
        node: str,
        voters: Iterable[str],
        timeout_s: float,
        uniform: Callable[[float, float], float],
        now: float,
    ) -> None:
        self._node = node
        self.voters = frozenset(voters)
        """Who counts; this node asks for nothing unless it is one of them."""
        self._timeout_s = timeout_s
        self._uniform = uniform
        self.contact_at = now - timeout_s  # nobody was heard yet: a new cluster elects at once
        """When a leader was last heard, a vote given, or this node led."""
        self._asked_term = 0
        self._granted: set[str] = set()
        self.begin(now)

    def begin(self, now: float) -> None:
        """This node may ask for an election from now on; soon, if no leader was heard."""
        self.deadline = now + self._uniform(0, self._timeout_s / 2)

    @property
    def _timeout_s_min(self) -> float:
        return self._timeout_s / 2

    def postpone(self, now: float) -> None:
        """A leader was heard, or a vote given, or this node leads."""
        self.contact_at = now
        self._asked_term = 0
        self.rearm(now)

    def rearm(self, now: float) -> None:
        """The silence begins anew."""
        self.deadline = now + self._uniform(self._timeout_s_min, self._timeout_s)

    def ask(self, now: float, *, term: int, last_index: int, last_term: int) -> PreVoteRequest:
        """Silence lasted too long: what to ask all others."""
        self.rearm(now)
        self._asked_term = term + 1
        self._granted = {self._node}
        return PreVoteRequest(term, term + 1, last_index, last_term)

    def answer(
        self, request: PreVoteRequest, now: float, *, term: int, leads: bool, last_index: int, last_term: int
    ) -> PreVote:
        """What this node says to another one's question."""
        silent = not leads and now - self.contact_at >= self._timeout_s_min
        complete = (request.last_term, request.last_index) >= (last_term, last_index)
        return PreVote(term, request.next_term, silent and complete and request.next_term > term)

    def count(self, sender: str, answer: PreVote, *, term: int) -> None:
        """A voice for this node's own question, if it is still the question."""
        if answer.granted and answer.next_term == self._asked_term == term + 1:
            self._granted.add(sender)

    def wins(self, *, term: int) -> bool:
        """Whether a majority would vote: the election may start. True once a question."""
        if self._asked_term != term + 1 or 2 * len(self._granted & self.voters) <= len(self.voters):
            return False
        self._asked_term = 0
        return True
