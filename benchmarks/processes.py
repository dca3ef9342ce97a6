"""Processes of one cluster under test, in a directory of its own: started here, watched here, and always taken away.

Each process leads a session of its own, so that ending it ends whatever it started; nothing else is ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

END_S_MAX = 10.0
READY_S_MAX = 60.0
_POLL_S = 0.02
_LOG_TAIL_BYTES = 2_000


class Trouble(Exception):
    """A system could not be measured; the message says why. The others go on."""


class Workplace:
    """A directory and the processes that work in it. Made by `workplace`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        """Start a process; what it prints goes to ``NAME.log``. One of that name that has ended may be started anew."""
        previous = self.processes.get(name)
        assert previous is None or previous.poll() is not None, f"{name} runs already"
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL; returns when the process is gone."""
        process = self.processes[name]
        _signal_session(process, signal.SIGKILL)
        process.wait(END_S_MAX)

    def wait(self, is_ready: Callable[[], bool], *, what: str, seconds_max: float = READY_S_MAX) -> None:
        """Returns once ``is_ready``; `Trouble` when a process ends or time is up."""
        deadline = time.monotonic() + seconds_max
        while not is_ready():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise Trouble(f"{name} ended with {process.returncode}: {self.log_tail(name)}")
            if time.monotonic() > deadline:
                raise Trouble(f"{what}: not within {seconds_max:g} s")
            time.sleep(_POLL_S)

    def log_tail(self, name: str) -> str:
        """The end of what a process printed."""
        return (self.directory / f"{name}.log").read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()

    def cpu_s(self) -> float:
        """CPU seconds of all processes so far, user and system, what they started included."""
        return float(
            sum(
                times.user + times.system + times.children_user + times.children_system
                for times in (one.cpu_times() for one in self._alive())
            )
        )

    def memory_bytes(self, name: str) -> int:
        """What a process has in memory and not in files: a database file that is mapped does not count."""
        total = 0
        for one in _family(self.processes[name].pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = one.memory_info()
                total += memory.rss - memory.shared
        return total

    def _alive(self) -> list[psutil.Process]:
        running = [process.pid for process in self.processes.values() if process.poll() is None]
        return [one for pid in running for one in _family(pid)]

    def end(self) -> None:
        """End all processes: politely first."""
        for process in self.processes.values():
            _signal_session(process, signal.SIGTERM)
        deadline = time.monotonic() + END_S_MAX
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            _signal_session(process, signal.SIGKILL)
            process.wait()


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def _signal_session(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To the process and what it left behind: the process group has the number of the process that leads it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def workplace() -> Iterator[Workplace]:
    """A new directory; afterwards its processes and all it holds are gone, whatever happened."""
    directory = Path(tempfile.mkdtemp(prefix="lanyinglog-bench-"))
    place = Workplace(directory)
    try:
        yield place
    finally:
        try:
            place.end()
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """``count`` ports of loopback that nobody listens on right now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def accepts(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def find_program(name: str) -> str | None:
    """A program on the PATH, beside this interpreter, or where Debian keeps servers."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/rabbitmq/bin"]
    return shutil.which(name, path=os.pathsep.join(places))


def own_cpu_s() -> float:
    """CPU seconds of this process and of the children it has waited for."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def raise_file_limit() -> int:
    """Let this process and its children open as many files as the system allows; returns how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
