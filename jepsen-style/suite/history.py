"""The history: what was asked, when, and what came of it. One JSON object a line, written as operations end.

Times are nanoseconds on the monotonic clock since the run began. A message's id says its lane, counter, topic and
payload (`messages`). Results are Jepsen's: ``ok``, ``fail`` (it did not and will not happen), ``info`` (nobody knows).

- ``publish``: one batch of messages ``id .. id+n-1``. ``r``; if ok ``seq`` and ``ts`` of the first, maybe ``dup``; else
  ``e``, the error's code.
- ``again``: a batch that was acknowledged before was sent once more. The same; ``seq`` 0 if the log answers that it
  forgot the numbers.
- ``poll``: subscription ``s`` handed out all that matches in ``after+1 .. through``, served by node ``at``. ``filter``
  is a topic's number or -1 for all; ``runs``.
- ``latest``: a read up to the newest message (``until``), by a client that had seen ``acked`` acknowledged; ``runs``.

A run is ``[seq, ts, id, n]``: ``n`` messages whose seqs, timestamps and ids all rise by one. A message that is not one
of ours has id -1. ``w`` is the worker (a lane, for writers).

`History` holds a history as columns: two million operations take some 300 MB, and a pass over them a second or two.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

OK, FAIL, INFO = 0, 1, 2
RESULTS = ("ok", "fail", "info")
EVERY_TOPIC = -1
FOREIGN = -1
FORGOTTEN = "producer_unknown"
"""The error that says that a producer's numbers are not remembered."""


class Publish(NamedTuple):
    """One publish; ``again`` tells that it repeats one that was acknowledged. ``seq`` and ``ts`` are 0 unless ok."""

    t0: int
    t1: int
    worker: int
    result: int
    identity: int
    count: int
    seq: int
    ts: int
    again: bool


class Run(NamedTuple):
    """Messages that were read: see the module."""

    seq: int
    ts: int
    identity: int
    count: int


class Poll(NamedTuple):
    """What one read handed out. ``acked`` is 0 for a poll, the seq that its client had seen acknowledged for a
    ``latest``."""

    t0: int
    t1: int
    worker: int
    subscription: int
    at: str
    filter: int
    after: int
    through: int
    acked: int
    runs: tuple[Run, ...]


class History:
    """Operations by the order in which they ended, as columns."""

    def __init__(self) -> None:
        self._publishes = [array(code) for code in "qqLBqHqQB"]
        self._polls = [array(code) for code in "qqLLBhqqqQ"]  # the last: where its runs end
        self._runs = [array(code) for code in "qqqL"]
        self._publish_appends = [column.append for column in self._publishes]  # looked up once, used millions of times
        self._run_appends = [column.append for column in self._runs]
        self._nodes: list[str] = []
        self.forgotten: list[int] = []
        """The repetitions whose producer the log did not know any more, by their places."""
        self.errors: dict[str, int] = {}
        """How often each error code was an outcome."""

    @property
    def publishes(self) -> int:
        return len(self._publishes[0])

    @property
    def polls(self) -> int:
        return len(self._polls[0])

    def add_publish(self, one: Publish) -> None:
        for column, value in zip(self._publishes, one, strict=True):
            column.append(value)

    def add_poll(self, one: Poll) -> None:
        if one.at not in self._nodes:
            self._nodes.append(one.at)
        seqs, stamps, ids, counts = self._run_appends
        for seq, stamp, identity, count in one.runs:
            seqs(seq)
            stamps(stamp)
            ids(identity)
            counts(count)
        place = self._nodes.index(one.at)
        end = len(self._runs[0])
        values = (one.t0, one.t1, one.worker, one.subscription, place, one.filter, one.after, one.through, one.acked)
        for column, number in zip(self._polls, (*values, end), strict=True):
            column.append(number)

    def publish(self, place: int) -> Publish:
        """The publish number ``place``."""
        *values, again = (column[place] for column in self._publishes)
        return Publish(*values, again=bool(again))

    def iter_publishes(self) -> Iterator[tuple[int, int, int, int, int, int, int, int, int]]:
        """All publishes as plain tuples in the order of the fields: a quarter of the cost of values."""
        return zip(*self._publishes, strict=True)

    def poll(self, place: int) -> Poll:
        """The poll number ``place``."""
        *values, end = (column[place] for column in self._polls)
        start = self._polls[-1][place - 1] if place else 0
        runs = tuple(Run(*(column[i] for column in self._runs)) for i in range(start, end))
        t0, t1, worker, subscription, node, topic, after, through, acked = values
        return Poll(t0, t1, worker, subscription, self._nodes[node], topic, after, through, acked, runs)

    def poll_row(self, place: int) -> tuple[int, int, int, int, int, int, int, int, int, int, int]:
        """t0, t1, worker, subscription, node, filter, after, through, acked, first run, end of runs."""
        start = self._polls[-1][place - 1] if place else 0
        values = tuple(column[place] for column in self._polls)
        return (*values[:-1], start, values[-1])  # type: ignore[return-value]

    def run_columns(self) -> tuple[array[int], ...]:
        """seq, ts, id and count of all runs."""
        return tuple(self._runs)

    # ------------------------------------------------------------------------------------------------------- lines
    def add(self, line: dict[str, Any]) -> None:
        """One line of a history file."""
        if line["f"] in ("publish", "again"):
            self._add_publish_line(line)
        elif line["f"] in ("poll", "latest"):
            self._add_poll_line(line)

    def _add_publish_line(self, line: dict[str, Any]) -> None:
        result = RESULTS.index(line["r"])
        if result != OK:
            self.errors[line["e"]] = self.errors.get(line["e"], 0) + 1
            if line["f"] == "again" and line["e"] == FORGOTTEN:
                self.forgotten.append(self.publishes)
        t0, t1, worker, results, ids, counts, seqs, stamps, again = self._publish_appends
        t0(line["t0"])
        t1(line["t1"])
        worker(line["w"])
        results(result)
        ids(line["id"])
        counts(line["n"])
        seqs(line.get("seq", 0))
        stamps(line.get("ts", 0))
        again(line["f"] == "again")

    def _add_poll_line(self, line: dict[str, Any]) -> None:
        latest = line["f"] == "latest"
        self.add_poll(
            Poll(
                line["t0"],
                line["t1"],
                line["w"],
                line.get("s", 0),
                line["at"],
                line.get("filter", EVERY_TOPIC),
                line["acked"] - 1 if latest else line["after"],
                line["until"] if latest else line["through"],
                line["acked"] if latest else 0,
                line["runs"],
            )
        )


def load(files: Iterable[Path]) -> History:
    """The history in ``files``; a last line that was cut off (its writer was killed) is left out."""
    history = History()
    for file in files:
        with file.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    history.add(json.loads(line))
    return history


class Recorder:
    """Writes a history file, in pieces of some kilobytes."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w", buffering=1 << 16)

    def write(self, line: dict[str, Any]) -> None:
        """One operation, which has ended."""
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def close(self) -> None:
        self._file.close()
