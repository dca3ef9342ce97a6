"""Where a run lives: in namespaces of its own where the system allows, so that it can hurt nothing and leaves nothing.

With root, or where ordinary users may make user namespaces, the run gets a network, a mount table and a process tree of
its own. Nodes then live in one network namespace each, on file systems of a fixed size; and when the run ends, however
it ends (Ctrl-C, SIGKILL), the kernel takes all processes, links and mounts with it. Otherwise the run happens on
loopback, in a temporary directory, with fewer faults, and says so.

How: `enter` forks. The parent stays outside, waits, and ends with the child's exit code; the child is the run, the
first process of its process tree. Python 3.11 has no call for this, hence the C library.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
_MS_REC_PRIVATE = 0x4000 | 0x40000
INTERRUPTED = 130
"""Exit code of a run that was interrupted, as shells have it."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What the run may do. ``words`` says it to people."""

    isolated: bool
    words: str


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, even if it is stopped. Does nothing where it can't."""
    if sys.platform.startswith("linux"):
        _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def why_not_isolated() -> str | None:
    """Why this machine can't isolate a run, in words; None if it can. Tried in a process that is thrown away."""
    if not sys.platform.startswith("linux"):
        return "network namespaces exist on Linux alone"
    missing = [program for program in ("ip", "nsenter", "unshare", "mount") if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    probe = "mount -t tmpfs -o size=1m tmpfs /mnt && ip link add la type veth peer name lb && ip link set lo up"
    unshare = ["unshare", *(() if os.geteuid() == 0 else ("-Ur",)), "-nmpf", "--kill-child", "sh", "-ec", probe]
    result = subprocess.run(unshare, capture_output=True, text=True, timeout=20, check=False)
    if result.returncode != 0:
        return f"namespaces are not allowed here ({result.stderr.strip().splitlines()[-1:] or 'no reason given'})"
    return None


def enter(run: Callable[[Sandbox], int], *, isolate: bool = True) -> int:
    """Calls ``run`` in the best place there is; its exit code. ``isolate`` False keeps it on loopback."""
    # Where the system keeps `ip` and `tc`, which ordinary users often do not have in their path.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    reason = why_not_isolated() if isolate else "asked not to"
    if reason is not None:
        words = f"on loopback, without namespaces: {reason}"
        return run(Sandbox(False, words))
    sys.stdout.flush()
    sys.stderr.flush()
    outer_user, outer_group = os.geteuid(), os.getegid()
    child = os.fork()
    if child == 0:
        os._exit(_inside(run, outer_user, outer_group))
    return _wait(child)


def _inside(run: Callable[[Sandbox], int], user: int, group: int) -> int:
    """In the forked process: new namespaces; process namespaces begin with the next fork."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _unshare(user, group)
    child = os.fork()
    if child == 0:
        end_with_parent()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _own_mounts()
        who = "as root" if user == 0 else "as an ordinary user"
        os._exit(_run(run, Sandbox(True, f"in namespaces of its own, {who}: a network for each node, sized disks")))
    return _wait(child)


def _unshare(user: int, group: int) -> None:
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET
    if user != 0:
        flags |= CLONE_NEWUSER
    if _libc().unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _own_mounts() -> None:
    """Nothing that is mounted here is seen outside, and /proc shows this tree alone."""
    if _libc().mount(None, b"/", None, _MS_REC_PRIVATE, None) != 0:
        raise OSError(ctypes.get_errno(), "mount --make-rprivate /")
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _run(run: Callable[[Sandbox], int], sandbox: Sandbox) -> int:
    code = INTERRUPTED
    try:
        code = run(sandbox)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 2
    except KeyboardInterrupt:
        pass
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _wait(child: int) -> int:
    """The child's exit code. Ctrl-C reaches the child by itself; other requests to end are passed on to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
