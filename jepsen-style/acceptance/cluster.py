"""A real cluster for one check: started, looked at and hurt from outside, as an operator could, and always taken away.

Everything goes through the command line or a signal; nothing here imports a node's code.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

PEER_OFFSET = 100
COMMAND_S_MAX = 120.0
_POLL_S = 0.02

Row = dict[str, Any]
"""One node of ``cluster status``."""


class Violated(Exception):
    """A promise did not hold; the message says which, and what was seen."""


class TooSlow(Violated):
    """A limit of time was passed, and nothing else is wrong. A busy machine does that too, so it is measured again."""


class Skipped(Exception):
    """The check can't be made on this machine; the message says why."""


def require(holds: bool, words: str) -> None:
    """`Violated` unless ``holds``."""
    if not holds:
        raise Violated(words)


def require_time(holds: bool, words: str) -> None:
    """`TooSlow` unless ``holds``: for figures that another program on the machine can spoil."""
    if not holds:
        raise TooSlow(words)


def lanyinglog(
    *arguments: str, timeout_s: float = COMMAND_S_MAX, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs the program as a user does; `Violated` with its words if it fails and ``check`` is set."""
    result = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
    )
    if check:
        require(
            result.returncode == 0,
            f"lanyinglog {' '.join(arguments)} ended with {result.returncode}: {result.stderr.strip()[-2000:]}",
        )
    return result


def command(*arguments: str) -> list[str]:
    """The command line of the program, with this interpreter."""
    return [sys.executable, "-m", "lanyinglog", *arguments]


class Cluster:
    """``nodes`` nodes in a directory of their own, on free ports of loopback, with ports for as many as ``room`` when
    nodes join. Made by `running`."""

    def __init__(self, directory: Path, *, nodes: int, room: int = 0) -> None:
        self.directory = directory
        self.nodes = nodes
        self.port = free_port(max(nodes, room))
        self._made = False
        self._paused: set[int] = set()

    @property
    def servers(self) -> list[str]:
        return [f"127.0.0.1:{self.port + i}" for i in range(self.nodes)]

    @property
    def server_list(self) -> str:
        """For ``--server``."""
        return ",".join(self.servers)

    def start(self) -> list[Row]:
        """Start whatever is not running; the rows once all of that answers and there is a quorum."""
        arguments = ["--dir", str(self.directory)]
        if not self._made:  # later the directory knows: members may have come and gone
            arguments += ["--nodes", str(self.nodes), "--port", str(self.port)]
        self._made = True
        return _rows(lanyinglog("cluster", "start", *arguments, "--format", "json").stdout)

    def stop(self) -> None:
        """A clean stop of all nodes."""
        for pid in list(self._paused):
            self.resume(pid)
        lanyinglog("cluster", "stop", "--dir", str(self.directory))

    def rows(self) -> list[Row]:
        """What each node says now."""
        return _rows(
            lanyinglog("cluster", "status", "--dir", str(self.directory), "--format", "json", check=False).stdout
        )

    def leader(self, *, timeout_s: float = 15.0) -> Row:
        """The row of the leader, once there is one that a majority follows."""
        deadline = time.monotonic() + timeout_s
        while True:
            rows = self.rows()
            leaders = [row for row in rows if row["role"] == "leader"]
            if leaders:
                newest = max(leaders, key=lambda row: int(row["term"]))
                if 2 * sum(row["term"] == newest["term"] for row in rows) > self.nodes:
                    return newest
            require(time.monotonic() < deadline, f"no leader within {timeout_s:g} s: {rows}")
            time.sleep(_POLL_S)

    def followers(self) -> list[Row]:
        """All rows but the leader's."""
        leader = self.leader()["node"]
        return [row for row in self.rows() if row["node"] != leader]

    def kill(self, row: Row) -> None:
        """SIGKILL; returns when the process is gone."""
        process = psutil.Process(row["pid"])
        process.kill()
        with contextlib.suppress(psutil.NoSuchProcess):
            process.wait(10)

    def kill_all(self) -> None:
        """SIGKILL to whatever runs on this cluster's directory."""
        _end_processes(self)

    def pause(self, pid: int) -> None:
        """SIGSTOP."""
        os.kill(pid, signal.SIGSTOP)
        self._paused.add(pid)

    def resume(self, pid: int) -> None:
        """SIGCONT."""
        self._paused.discard(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def wait_equal(self, *, timeout_s: float) -> list[Row]:
        """The rows once all nodes have the same newest seq and commit index; `Violated` after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while True:
            rows = self.rows()
            if all(row["role"] != "unreachable" for row in rows) and len({row["last_seq"] for row in rows}) == 1:
                return rows
            require(time.monotonic() < deadline, f"the nodes are not equal within {timeout_s:g} s: {rows}")
            time.sleep(_POLL_S)

    def data_file(self, node: str) -> Path:
        """The file that holds a node's log."""
        return self.directory / node / "data" / "main" / "data.mdb"

    def log_file(self, node: str) -> Path:
        """What a node says of itself."""
        return self.directory / node / "node.log"


def memory_bytes(pid: int) -> int:
    """What is in a process's memory and not in files: the database file, mapped, does not count."""
    memory = psutil.Process(pid).memory_info()
    return int(memory.rss - memory.shared)


@contextlib.contextmanager
def running(*, nodes: int = 3, room: int = 0, started: bool = True) -> Iterator[Cluster]:
    """A cluster, started; afterwards its processes and its directory are gone, whatever happened."""
    directory = Path(tempfile.mkdtemp(prefix="lanyinglog-check-"))
    cluster = Cluster(directory, nodes=nodes, room=room)
    try:
        if started:
            cluster.start()
        yield cluster
    except Exception:
        for log in sorted(directory.glob("*/node.log")):
            print(f"--- {log.parent.name}: the last lines of its log\n{_tail(log)}", file=sys.stderr)
        raise
    finally:
        _end_processes(cluster)
        shutil.rmtree(directory, ignore_errors=True)


def _end_processes(cluster: Cluster) -> None:
    """Kill every process that was started with a file of this cluster's directory."""
    mine = str(cluster.directory)
    for process in psutil.process_iter(["cmdline"]):
        if any(mine in argument for argument in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(10)


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _rows(text: str) -> list[Row]:
    return [json.loads(line) for line in text.splitlines()]


def free_port(nodes: int) -> int:
    """The first of ``nodes`` client ports in a row that are free now, as are the peer ports that go with them."""
    for port in range(20_000 + os.getpid() % 10_000, 60_000, nodes):
        if all(_is_free(port + i) and _is_free(port + PEER_OFFSET + i) for i in range(nodes)):
            return port
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
