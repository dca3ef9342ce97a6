"""The network between the nodes as the suite sees it: links by name, and what is done to each.

A link carries one direction of a pair of nodes (``n1>n2``: what n1 says to n2; the product dials one connection for
each direction) or a client's connections to a node (``client>n1``). All of them run through `relay`, a process of its
own, so that they can be cut, delayed, throttled, reset, and lose, repeat or damage what they carry.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Condition:
    """What a link is like. The default is a link on which nothing is wrong.

    ``cut`` carries nothing, in neither direction, and closes nothing: what was sent waits. ``delay_ms`` and up to
    ``jitter_ms`` more are added to each piece, order kept. ``bytes_s`` is a rate, 0 for no limit. ``lose``, ``double``
    and ``flip`` are probabilities: of a whole frame to vanish or to come twice (between nodes only: clients see TCP),
    and of a piece to arrive with one bit changed.
    """

    cut: bool = False
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    bytes_s: float = 0.0
    lose: float = 0.0
    double: float = 0.0
    flip: float = 0.0


GOOD = Condition()


@dataclass(frozen=True, slots=True)
class Link:
    """``listen`` is what is dialled, ``target`` where it leads."""

    name: str
    listen: tuple[str, int]
    target: tuple[str, int]
    framed: bool


def peer_link(sender: str, receiver: str) -> str:
    """The name of the link on which ``sender`` speaks to ``receiver``."""
    return f"{sender}>{receiver}"


def client_link(node: str) -> str:
    """The name of the link of all clients to ``node``."""
    return f"{CLIENT}>{node}"


class Links:
    """All links, run by a relay process that ends with this one."""

    def __init__(self, links: Iterable[Link], *, seed: int, log: Path) -> None:
        self.links = {link.name: link for link in links}
        plan = {"seed": seed, "links": [asdict(link) for link in self.links.values()]}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("relay.py")), json.dumps(plan)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the relay did not start; {log} says why")

    def set(self, names: Iterable[str], condition: Condition) -> None:
        """From now on the links ``names`` are like ``condition``."""
        self._command({"set": list(names), "condition": asdict(condition)})

    def reset(self, names: Iterable[str]) -> None:
        """Every connection on the links ``names`` ends with a reset (RST)."""
        self._command({"reset": list(names)})

    def _command(self, command: dict[str, object]) -> None:
        """Returns when the relay has done it."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps(command).encode() + b"\n")
        stdin.flush()
        if stdout.readline() != b"done\n":
            raise RuntimeError("the relay has ended; relay.log says why")

    def close(self) -> None:
        """End the relay."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Layers:
    """Several faults at once may each put a condition on a link; what holds is the worst of them."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._layers: dict[int, tuple[frozenset[str], Condition, int]] = {}
        self.troubled: list[tuple[int, int, frozenset[str]]] = []
        """What was wrong with which links and is over: from when to when, in ns of the monotonic clock."""
        self._next = 0
        self._lock = threading.Lock()

    def put(self, names: Iterable[str], condition: Condition) -> int:
        """``condition`` on top of ``names``; a number to `lift` it by."""
        with self._lock:
            self._next += 1
            touched = frozenset(names)
            self._layers[self._next] = (touched, condition, time.monotonic_ns())
            self._apply(touched)
            return self._next

    def lift(self, number: int) -> None:
        """That condition is over."""
        with self._lock:
            touched, _, since = self._layers.pop(number)
            self._apply(touched)
            self.troubled.append((since, time.monotonic_ns(), touched))

    def reset(self, names: Iterable[str]) -> None:
        """Connections on ``names`` end with a reset."""
        with self._lock:
            touched = frozenset(names)
            self._links.reset(touched)
            now = time.monotonic_ns()
            self.troubled.append((now, now, touched))

    def clear(self) -> None:
        """Nothing is wrong with any link."""
        with self._lock:
            now = time.monotonic_ns()
            self.troubled += [(since, now, touched) for touched, _, since in self._layers.values()]
            self._layers.clear()
            self._apply(frozenset(self._links.links))

    def _apply(self, touched: frozenset[str]) -> None:
        groups: dict[Condition, list[str]] = {}
        for name in touched:
            conditions = [condition for names, condition, _ in self._layers.values() if name in names]
            groups.setdefault(worst(conditions), []).append(name)
        for condition, names in groups.items():
            self._links.set(names, condition)


def worst(conditions: Iterable[Condition]) -> Condition:
    """All of ``conditions`` at once."""
    conditions = list(conditions)
    rates = [one.bytes_s for one in conditions if one.bytes_s]
    return Condition(
        cut=any(one.cut for one in conditions),
        delay_ms=sum(one.delay_ms for one in conditions),
        jitter_ms=sum(one.jitter_ms for one in conditions),
        bytes_s=min(rates, default=0.0),
        lose=max((one.lose for one in conditions), default=0.0),
        double=max((one.double for one in conditions), default=0.0),
        flip=max((one.flip for one in conditions), default=0.0),
    )
