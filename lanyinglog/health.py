"""What a node knows of itself that whoever runs it has to watch: clock, disk, limits, versions.

It is part of the node's status, so that one question answers it; `lanyinglog doctor` judges. Everything is read when it
is asked for: no task, no history but the durations of the last writes.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from bisect import bisect_left
from collections import deque
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

from lanyinglog import __version__
from lanyinglog.store.layout import FORMAT_VERSION

WRITES_KEPT = 256
"""Durations of the newest writes that are remembered: about the last seconds under load."""
FILES_SPARE = 64
"""Open files a node needs beside one for each client: its store, listeners, peers, the interpreter's own."""


WRITE_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class WriteTimes:
    """A histogram of all writes since the node was started."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """All together."""
        self._counts = [0] * (len(WRITE_BOUNDS_S) + 1)

    def add(self, seconds: float) -> None:
        """One more, that took so long."""
        self.seconds += seconds
        self._counts[bisect_left(WRITE_BOUNDS_S, seconds)] += 1

    def cumulative(self) -> list[tuple[float | None, int]]:
        """(bound in seconds, how many writes took at most that), then all of them with None."""
        return list(zip((*WRITE_BOUNDS_S, None), accumulate(self._counts), strict=True))


class Health:
    """``directory`` is where the data is, ``connections_max`` the clients that the node would accept."""

    def __init__(self, directory: Path, *, connections_max: int) -> None:
        self._directory = directory
        self._files_needed = connections_max + FILES_SPARE
        self._writes_s: deque[float] = deque(maxlen=WRITES_KEPT)
        self.write_times = WriteTimes()
        self._versions = {
            "version": __version__,
            "format": FORMAT_VERSION,
            "engine": version("pysyncobj"),
            "python": platform.python_version(),
        }

    def wrote(self, seconds: float) -> None:
        """A transaction was on disk after so long, its sync included."""
        self._writes_s.append(seconds)
        self.write_times.add(seconds)

    def report(self) -> dict[str, Any]:
        """The status's ``health``: bytes, milliseconds, counts; what this system does not tell is None."""
        disk = os.statvfs(self._directory)
        writes = sorted(self._writes_s)
        return {
            **self._versions,
            "clock_ns": time.time_ns(),
            "disk_bytes": disk.f_blocks * disk.f_frsize,
            "disk_free_bytes": disk.f_bavail * disk.f_frsize,
            "files_max": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "files_needed": self._files_needed,
            "writes": len(writes),
            "write_ms_median": round(writes[len(writes) // 2] * 1000, 2) if writes else None,
            "write_ms_max": round(writes[-1] * 1000, 2) if writes else None,
        }
