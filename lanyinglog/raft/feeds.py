"""To which of its followers a leader may send: what is in flight to each is bounded, and who is far behind is paced.

The engine is told to stop (`Engine.pause`) and to go on; between the two it sends as much as there is.

| name | audit number, or why |
|---|---|
| `_window_is_full` | 21: bytes and appends in flight to a follower are bounded |
| `_must_wait` | a follower that is far behind is fed at a pace (`pacing`) |

``followers`` are those of one term of leadership: they begin empty with each (`of`). No clock, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from lanyinglog.raft.engine import Engine
from lanyinglog.raft.follower import WINDOW_APPENDS_MAX, Follower
from lanyinglog.raft.journal import Journal
from lanyinglog.raft.messages import Append
from lanyinglog.raft.pacing import Pace


class Feeds:
    """See the module. ``catch_up_bytes_s`` is for each follower that is far behind."""

    def __init__(self, *, journal: Journal, catch_up_bytes_s: float) -> None:
        self.engine: Engine  # set by the guard
        self.followers: dict[str, Follower] = {}
        self.paced_until = math.inf
        """When `resume_paced` has something to do."""
        self._journal = journal
        self._catch_up_bytes_s = catch_up_bytes_s
        self._peers: tuple[str, ...] = ()
        self._term = 0

    def set_peers(self, peers: Iterable[str]) -> None:
        """Who is to be fed from now on."""
        self._peers = tuple(peers)
        self.followers = {peer: self.followers.get(peer) or self._new() for peer in self._peers}

    def _new(self) -> Follower:
        return Follower(Pace(self._catch_up_bytes_s))

    def of(self, name: str) -> Follower:
        """The state of a follower in the term that this node leads."""
        if self._term != self.engine.term:
            self._term = self.engine.term
            self.release()
            self.followers = {peer: self._new() for peer in self._peers}
        return self.followers[name]

    def forget(self, name: str, number: int) -> Follower:
        """``name`` has nothing, and answers to appends below ``number`` are of a former life."""
        paused = self.of(name).paused
        follower = self.followers[name] = self._new()
        follower.rewound_at = follower.valid_from = number
        follower.paused = paused
        return follower

    def sent(self, to: str, append: Append, now: float) -> None:
        """``append`` is on its way: that may have been all for now."""
        follower = self.of(to)
        follower.sent(append, now)
        if self._is_far_behind(follower):
            follower.pace.spend(append.bytes, now)
        if self._must_wait(follower, now):
            follower.paused = True
            self.engine.pause(to)

    def open(self, name: str, now: float) -> None:
        """Something changed: let the engine send to ``name`` again if it may."""
        follower = self.of(name)
        if follower.paused and not follower.behind and not self._must_wait(follower, now):
            follower.paused = False
            self.engine.resume(name)
            self.engine.send_soon()

    def resume_paced(self, now: float) -> None:
        """Whoever had to wait for his pace, and need not any more, is sent to again."""
        if now >= self.paced_until:
            self.paced_until = math.inf
            for name in self.followers:
                self.open(name, now)

    def grew(self, size: int) -> None:
        """The log gets ``size`` bytes more."""
        for follower in self.followers.values():
            follower.pace.grew(size)

    def release(self) -> None:
        """This node leads no more, or anew: no follower is paused (a paused peer would count as unreachable)."""
        self.paced_until = math.inf
        for name, follower in self.followers.items():
            if follower.paused:
                follower.paused = False
                self.engine.resume(name)
        self.followers = {}

    def _is_far_behind(self, follower: Follower) -> bool:
        return self._journal.last_index - follower.acked > WINDOW_APPENDS_MAX

    def _window_is_full(self, follower: Follower) -> bool:
        return follower.window_is_full

    def _must_wait(self, follower: Follower, now: float) -> bool:
        """Whether it is sent nothing more for now; if that is for its pace, until when (`paced_until`)."""
        if self._window_is_full(follower):
            return True
        ready_at = follower.pace.ready_at(now) if self._is_far_behind(follower) else now
        if ready_at > now:
            self.paced_until = min(self.paced_until, ready_at)
        return ready_at > now
