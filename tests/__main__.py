"""``python3 tests``: everything that has to pass, on a machine with nothing but a Python.

Without arguments: format, lint, types, all tests, five minutes of simulated clusters on fresh seeds, the quick form of
the checks on real processes, and two minutes of real faults. With arguments: pytest alone, with these arguments.

Whatever is random says its seed: ``python3 tests --hypothesis-seed=N`` repeats a run of the tests, and
``python3 jepsen-style simulate --from-seed N --seeds 1`` a simulated cluster.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The interpreter puts tests/ first; what is imported from here on is to be found from the root.
sys.path[0] = str(ROOT)

from lanyinglog import checkout  # noqa: E402

SIMULATED_S = 300
STAGES = {
    "format": ["-m", "ruff", "format", "--check", "."],
    "lint": ["-m", "ruff", "check", "."],
    "types": ["-m", "mypy"],
    "tests": ["-m", "pytest"],
    "simulation": ["jepsen-style", "simulate", "--seconds", str(SIMULATED_S), "--jobs", "2"],
    "checks": ["jepsen-style", "check", "--quick"],
    "faults": ["jepsen-style", "run", "--preset", "smoke"],
}
"""What runs, in this order; each is an argument list for this interpreter."""
STAGE_S_MAX = 1_200.0
"""A stage that takes longer hangs: it is ended with all it started, and the next one runs."""
ALL_S_MAX = 3_600.0
"""All stages together; what is left of it limits the last ones."""
END_S_MAX = 60.0
LAST_LINES, LAST_LINE_CHARS, LAST_BYTES = 40, 400, 1 << 16
"""How much of a failed stage's output is shown again at the end."""


def main(arguments: list[str]) -> int:
    """Runs what ``arguments`` ask for; 0 if all of it passed."""
    checkout.ensure([__file__, *arguments], extra="test")
    os.chdir(ROOT)
    # A shell that starts this in the background has it and all it starts ignore Ctrl-C, and some tests press that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if arguments:
        return 0 if _passes("tests", [*STAGES["tests"], *_seeded(arguments)]) else 1
    report = Path(tempfile.mkdtemp(prefix="lanyinglog-faults-"))
    commands = {
        **STAGES,
        "tests": [*STAGES["tests"], *_seeded([])],
        "faults": [*STAGES["faults"], "--report", str(report)],
    }
    ends_at = time.monotonic() + ALL_S_MAX
    failed: dict[str, list[str]] = {}
    for name, command in commands.items():
        last = _Last()
        if not _passes(name, command, limit_s=min(STAGE_S_MAX, ends_at - time.monotonic()), copy=last):
            failed[name] = last.lines()
    if "faults" not in failed:
        shutil.rmtree(report, ignore_errors=True)
    for name, lines in failed.items():  # again, for in between there may be thousands of lines
        print(f"== {name} ended with", *lines, sep="\n   ", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


class _Last:
    """Passes on what a stage prints, as it comes, and keeps the end of it."""

    def __init__(self) -> None:
        self._end = bytearray()
        self._read_from, self.file = os.pipe()
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        while got := os.read(self._read_from, 1 << 16):
            with contextlib.suppress(BrokenPipeError):  # whoever read it is gone; the stage is not to wait for that
                sys.stdout.buffer.write(got)
                sys.stdout.buffer.flush()
            self._end += got
            del self._end[:-LAST_BYTES]
        os.close(self._read_from)

    def end(self) -> None:
        """The stage has ended. What it started may still hold the pipe, and is not waited for."""
        os.close(self.file)
        self._thread.join(1.0)

    def lines(self) -> list[str]:
        """The last ones; of a long one (of JSON) its beginning."""
        lines = bytes(self._end).decode(errors="replace").splitlines()[-LAST_LINES:]
        return [line[:LAST_LINE_CHARS] for line in lines]


def _seeded(arguments: list[str]) -> list[str]:
    """``arguments`` of pytest with a fresh seed, unless they name one."""
    if any(argument.startswith("--hypothesis-seed") for argument in arguments):
        return arguments
    return [*arguments, f"--hypothesis-seed={secrets.randbelow(2**32)}"]


def _passes(name: str, command: list[str], *, limit_s: float | None = None, copy: _Last | None = None) -> bool:
    print(f"== {name}: python {' '.join(command)}", flush=True)
    began = time.monotonic()
    output = {"stdout": copy.file, "stderr": copy.file} if copy else {}
    with subprocess.Popen([sys.executable, *command], **output) as stage:
        try:
            passed = stage.wait(limit_s) == 0
        except subprocess.TimeoutExpired:
            print(f"   ended after {limit_s:g} s", flush=True)
            passed = False
            _interrupt(stage)
    if copy:
        copy.end()
    print(f"   {'ok' if passed else 'FAILED'} in {time.monotonic() - began:.1f} s", flush=True)
    return passed


def _interrupt(stage: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C would, so that it takes its own processes and directories with it; by force what is left then."""
    import psutil  # not before `checkout.ensure`

    stage_itself = psutil.Process(stage.pid)  # not waited for yet, so it is there
    family = set(stage_itself.children(recursive=True))  # once their parent has ended they can't be found
    stage.send_signal(signal.SIGINT)
    try:
        stage.wait(END_S_MAX)
    except subprocess.TimeoutExpired:
        family.update(stage_itself.children(recursive=True))
        stage.kill()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
