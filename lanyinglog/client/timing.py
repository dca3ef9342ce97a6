"""How long the client waits for what; seconds. One value object, so that tests can be quick and users need not care."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """The defaults let writes resume within two seconds after a leader was killed (P9), and allow for round trips of
    half a second: the tightest is `silence_s`, which is two and a bit."""

    connect_s: float = 0.8
    """Each step towards one server, which is one round trip: TCP, TLS if there is any, hello and welcome. One that does
    not answer at all fails at its first step, however many there are. All servers are tried side by side."""
    head_start_s: float = 0.1
    """The server believed to be the leader is asked alone for so long."""
    silence_s: float = 1.2
    """A server that owes an answer, and says nothing for so long, is given up; it is asked (ping) at half of it."""
    stall_s: float = 20.0
    """A server that answers pings but acknowledges nothing for so long is given up. A full batch has to go through the
    line in it: 0.5 Mbit/s."""
    backoff_first_s: float = 0.01
    backoff_max_s: float = 0.2
    """Between two tries of one server: doubling from the first to the greatest, each shortened by up to a half."""
    refused_max_s: float = 1.0
    """The greatest between two tries of a subscription that a node would not serve. When the cluster has no leader none
    would, and all its subscribers come: the nodes must have time left to elect one."""


class Backoff:
    """The pauses between tries: doubling, bounded, and random so that clients do not come back in step."""

    def __init__(self, timing: Timing, *, max_s: float | None = None) -> None:
        self._timing = timing
        self._max_s = timing.backoff_max_s if max_s is None else max_s
        self._next_s = timing.backoff_first_s

    def next_s(self) -> float:
        """Seconds to wait before the next try."""
        pause_s = self._next_s
        self._next_s = min(2 * pause_s, self._max_s)
        return pause_s * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """A try succeeded."""
        self._next_s = self._timing.backoff_first_s
