"""What keeps majorities overlapping while members change: taken away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lanyinglog.machine.members import Members
from lanyinglog.raft.membership import Membership
from lanyinglog.raft.replica import Replica
from simulator.defects import Change, defect


@defect("members change again before the last change is committed", audit="5")
def two_changes_at_once() -> Sequence[Change]:
    def why(self: Replica, now: float) -> str | None:
        return None if self.leads else "this node does not lead"

    return [(Replica, "why_no_change", why)]


@defect("a change counts once it is committed, and not from the moment it is in the log")
def members_once_committed() -> Sequence[Change]:
    return [(Membership, "current", property(lambda self: self.settled))]


@defect("a node that starts again forgets the changes that were not committed", audit="6")
def members_forgotten_at_start() -> Sequence[Change]:
    init = Replica.__init__

    def start_without(self: Replica, **named: Any) -> None:
        added = Membership.added
        Membership.added = lambda self, index, command: None  # type: ignore[method-assign]
        try:
            init(self, **named)
        finally:
            Membership.added = added  # type: ignore[method-assign]

    return [(Replica, "__init__", start_without)]


@defect("a change that was cut off still counts")
def members_outlive_their_entry() -> Sequence[Change]:
    return [(Membership, "cut", lambda self, index: None)]


@defect("a new member votes before it has caught up")
def learners_vote() -> Sequence[Change]:
    return [(Members, "voters", property(lambda self: frozenset(self.table)))]


@defect("who is about to leave is not heard any more", audit="20")
def leaving_is_left() -> Sequence[Change]:
    return [(Membership, "settled", property(lambda self: self.current))]
