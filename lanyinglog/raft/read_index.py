"""Whether this node still leads, and so knows all that is committed: reads that miss nothing (Raft dissertation, 6.4).

A leader that was deposed believes in itself until it hears of it or has heard no majority for an election timeout, and
meanwhile others may commit what it lacks. A new leader holds all that was committed before it, but does not know how
much of its log that is. So who asks what is the newest gets an answer once, after the question,

1. a majority of the voters has answered an append that left in this term and after the question: then no other leader
   had been elected by the time of the question, and what was committed by then is in this log;
2. an entry of this term is committed: then all before it is known to be.

It needs no clock and writes nothing. Appends leave all the time (an empty one at every heartbeat); the one that is
waited for leaves at once (`Replica.probe_soon`).
"""

from __future__ import annotations

from lanyinglog.raft.replica import Replica


class ReadIndex:
    """One question to one node, asked when this is made."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._term = replica.engine.term
        self._number = replica.guard.next_number
        replica.probe_soon()

    @property
    def may_come(self) -> bool:
        """Whether there may be an answer, now or later: the node leads, and did so ever since."""
        return self._replica.leads and self._replica.engine.term == self._term

    @property
    def is_known(self) -> bool:
        """Whether what is committed here covers all that was committed anywhere when the question was asked."""
        replica = self._replica
        engine, guard = replica.engine, replica.guard
        if not self.may_come or replica.journal.term(engine.commit) != self._term:
            return False
        answered = {name for name in guard.peers if guard.feeds.of(name).answered_number >= self._number}
        return 2 * len((answered | {replica.node}) & guard.voters) > len(guard.voters)
