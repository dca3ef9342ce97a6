"""Node processes on this machine: the ways to start, find and stop the nodes of a cluster's directory.

How it knows that a process is *the* node: a node locks (flock) ``node.pid`` in its data directory for as long as it
lives, however it was started, and writes its pid and start time there. The system drops the lock when the process dies,
whatever it died of. So: the lock is free - no node runs; the lock is held, and the process of that pid has that start
time - it is the node, and may be signalled. Anything else is a node in the first moments of its life.

How nodes die with whoever started them (`spawn` with ``tied``): they inherit the reading end of a pipe of which the
parent holds the only writing end; the end of that file, which even SIGKILL of the parent brings about, ends the node.

This module knows no protocol and no command line: whether a node *serves* is asked elsewhere (`rollcall`).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import lanyinglog
from lanyinglog.cli.directory import Member, ProcessError
from lanyinglog.config import PEER_PORT_OFFSET, SETTING_KEYS, Address

PID_FILE = "node.pid"
TIE_VARIABLE = "LANYINGLOG_ENDS_WITH_FD"
"""Environment of a tied node: the file descriptor whose end is the node's end."""
STOP_GRACE_S = 10.0
POLL_S = 0.02
CLAIM_S_MAX = 1.0
"""How long a node tries to lock its data directory: somebody who only looks holds the lock for microseconds."""
_PID_FILE_BYTES_MAX = 4096


# ------------------------------------------------------------------------------------------------- who runs a node
def _locked_within(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        else:
            return True


def _start_time(pid: int) -> int | None:
    """When the process started, in the system's ticks; 0 where the system does not tell, None if it is not alive."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])  # proc(5): field 22, counted behind the name in brackets


@contextmanager
def claim(data: Path, *, node: str) -> Iterator[None]:
    """Makes this process the one that runs ``node`` on the directory ``data``, until it ends or leaves the context.

    Raises `ProcessError` if another process does already.
    """
    data.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(data / PID_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "r+") as file:
        if not _locked_within(descriptor, CLAIM_S_MAX):
            raise ProcessError(f"{data} is in use: a node runs on it (pid {_recorded(data).get('pid', 'unknown')})")
        file.truncate()
        file.write(json.dumps({"pid": os.getpid(), "started": _start_time(os.getpid()), "node": node}) + "\n")
        file.flush()
        yield


def _recorded(data: Path) -> dict[str, object]:
    try:
        with (data / PID_FILE).open("rb") as file:
            record = json.loads(file.read(_PID_FILE_BYTES_MAX))
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def is_claimed(data: Path) -> bool:
    """Whether a process, of whatever pid, runs a node on ``data``."""
    try:
        descriptor = os.open(data / PID_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # A shared lock: two that only look do not mistake each other for a node.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def running_pid(data: Path) -> int | None:
    """The pid of the process that runs a node on ``data``, verified as the module says; None if there is none (yet)."""
    if not is_claimed(data):
        return None
    record = _recorded(data)
    pid = record.get("pid")
    if not isinstance(pid, int) or pid < 1 or _start_time(pid) is None or _start_time(pid) != record.get("started"):
        return None
    return pid


# ------------------------------------------------------------------------------------------------ starting and stopping
def taken_port(members: Iterable[Member]) -> tuple[Member, str, Address] | None:
    """The first ``(member, "client" or "peer", address)`` that another program listens on; None if all are free."""
    for member in members:
        for role, address in (("client", member.client), ("peer", member.peer)):
            with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(address)
                except OSError:
                    return member, role, address
    return None


def free_port(*, nodes: int = 3) -> int:
    """A port from which ``nodes`` client ports, and as many peer ports, are free right now.

    Below 32,768, where systems begin to hand out ports of their own accord, so that none is gone a moment later.
    """
    for _ in range(200):
        port = 20_000 + secrets.randbelow(10_000)
        members = [
            Member("n", Address("127.0.0.1", one), Address("127.0.0.1", one + PEER_PORT_OFFSET), Path())
            for one in range(port, port + nodes)
        ]
        if taken_port(members) is None:
            return port
    raise ProcessError("no free ports between 20000 and 30000 on this machine")


def node_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` for a node whose settings are in its file: none of its own, and a path to this very package."""
    drop = {f"LANYINGLOG_{key.upper()}" for key in SETTING_KEYS} | {TIE_VARIABLE}
    kept = {key: value for key, value in environ.items() if key not in drop}
    package = str(Path(lanyinglog.__file__).resolve().parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environ.get("PYTHONPATH")]))
    return kept


def node_command(member: Member) -> list[str]:
    """The command that runs ``member`` in the foreground."""
    return [sys.executable, "-P", "-m", "lanyinglog", "node", "--config", str(member.config_file)]


def spawn(member: Member, *, tied: int | None = None) -> subprocess.Popen[bytes]:
    """Starts the node in a session of its own (Ctrl-C in the terminal does not reach it), its output going to its log.

    ``tied`` is the reading end of a pipe, see the module; without it the node outlives this process.
    """
    environment = node_environment(os.environ)
    if tied is not None:
        environment[TIE_VARIABLE] = str(tied)
    with member.log_file.open("ab") as log:
        return subprocess.Popen(
            node_command(member),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=member.directory,
            env=environment,
            start_new_session=True,
            pass_fds=() if tied is None else (tied,),
        )


def end_with_parent(environ: Mapping[str, str]) -> None:
    """In a node: ends this process when the pipe named in ``environ`` does. Does nothing in a node that is not tied."""
    text = environ.get(TIE_VARIABLE)
    if text is None or not text.isdigit():
        return
    descriptor = int(text)
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_end_at_eof, args=(descriptor,), name="parent-watch", daemon=True).start()


def _end_at_eof(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_GRACE_S)  # a node that can't stop in this time is stopped as a power cut would
    os._exit(1)


def why_it_ended(process: subprocess.Popen[bytes]) -> str:
    """How a process that has ended did so, for people: ``exit code 1`` or ``SIGKILL``."""
    code = process.returncode
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def log_tail(member: Member, *, lines: int = 5) -> str:
    """The last ``lines`` lines of the node's log, from its last 8 KiB."""
    try:
        with member.log_file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            text = file.read(8192).decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def stop(members: Iterable[Member], *, grace_s: float = STOP_GRACE_S) -> dict[str, str]:
    """Stops all of ``members`` that run: SIGTERM, and SIGKILL for those still there after ``grace_s``.

    Returns node -> ``stopped``, ``killed`` or ``not running``. Returns only when no process holds their data.
    """
    pending: dict[str, tuple[Member, int]] = {}
    outcome: dict[str, str] = {}
    for member in members:
        pid = _settled_pid(member.data)
        if pid is None:
            outcome[member.node] = "not running"
        else:
            outcome[member.node] = "stopped"
            pending[member.node] = (member, pid)
            _signal(pid, signal.SIGTERM, signal.SIGCONT)  # a paused process would not hear the first alone
    _wait_gone(pending, grace_s)
    for node, (member, _) in pending.items():
        pid = running_pid(member.data)
        if pid is not None:
            outcome[node] = "killed"
            _signal(pid, signal.SIGKILL)
    _wait_gone(pending, grace_s)
    if pending:
        raise ProcessError(f"{', '.join(pending)} can't be stopped, not even with SIGKILL")
    return outcome


def _settled_pid(data: Path) -> int | None:
    """`running_pid`, but a node in its first moments is waited for."""
    deadline = time.monotonic() + 2.0
    while (pid := running_pid(data)) is None and is_claimed(data) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return pid


def _signal(pid: int, *signals: signal.Signals) -> None:
    for one in signals:
        try:
            os.kill(pid, one)
        except ProcessLookupError:
            return


def _wait_gone(pending: dict[str, tuple[Member, int]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while pending and time.monotonic() < deadline:
        for node, (member, _) in list(pending.items()):
            if not is_claimed(member.data):
                del pending[node]
        if pending:
            time.sleep(POLL_S)
