"""The disk's limit: three processes at once that append blocks to a file each and fdatasync every one. No network, no
order, no reader; whatever keeps three synced copies on this disk can't be faster for long."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.processes import Trouble, workplace
from benchmarks.system import NODES, Cluster, Load, Published, System

BLOCK_BYTES = 1 << 20
"""A block when there is much to write: what lanyinglog puts into one entry at most."""
PAGE_BYTES = 4 << 10
"""A block when there is one message to write."""
APPENDER = Path(__file__).with_name("raw_appender.py")


class RawFiles(Cluster):
    """See the module."""

    def publish(self, load: Load) -> Published:
        blocks = sys.maxsize
        average = sum(map(len, load.pool)) / len(load.pool)
        if load.count is not None:
            blocks = max(1, round(load.count * average / BLOCK_BYTES))
        took = self._append(BLOCK_BYTES, blocks, min(load.seconds, 3600))
        written = min(len(one) for one in took) * BLOCK_BYTES
        return Published(round(written / average), written, max(sum(one) for one in took))

    def publish_each(self, load: Load) -> list[float]:
        took = self._append(PAGE_BYTES, load.count or sys.maxsize, min(load.seconds, 3600))
        # The second of three to be done makes a majority.
        return [sorted(times)[NODES // 2] for times in zip(*took, strict=False)]

    def _append(self, block_bytes: int, blocks: int, seconds: float) -> list[list[float]]:
        """How long each block took, of each process."""
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(dir=self.place.directory))
            processes = []
            for i in range(NODES):
                command = [sys.executable, str(APPENDER), f"{directory}/{i}", *map(str, (block_bytes, blocks, seconds))]
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
                processes.append(stack.enter_context(process))
                stack.callback(process.kill)
            for process in processes:
                assert process.stdout is not None
                process.stdout.readline()  # it is ready
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            return [_times(process) for process in processes]


def _times(process: subprocess.Popen[str]) -> list[float]:
    out, words = process.communicate()
    if process.returncode != 0:
        raise Trouble(f"appending: {words.strip()[-500:]}")
    return [float(one) for one in out.split()]


class Raw(System):
    """See the module."""

    name = "raw"
    client = "none"
    durability = "fdatasync of 3 files at once, each by itself; blocks of 1 MiB, for latency of 4 KiB"
    answers = frozenset({"throughput", "latency"})

    def missing(self) -> list[str]:
        return []

    def version(self) -> str:
        return "append and fdatasync"

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        with workplace() as place:
            yield RawFiles(place)


SYSTEMS: Sequence[System] = (Raw(),)
