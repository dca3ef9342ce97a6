"""Plans for ``sockets.c``: what each of many connections says, and what came of it."""

from __future__ import annotations

import array
import contextlib
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import compiled
from benchmarks.processes import Trouble
from benchmarks.system import Closed

SOURCE = "sockets.c"
GRACE_S = 30.0
"""Beyond the load's own time: connecting, greetings, writing the samples."""


@dataclass(frozen=True, slots=True)
class Talk:
    """One connection: where to, what to say first and how many replies that has, then one request after another."""

    port: int
    greeting: bytes
    greeting_replies: int
    requests: Sequence[bytes] = ()


def why_not() -> str | None:
    """What is missing for it, if anything."""
    return compiled.why_not(SOURCE)


def encode_plan(talks: Sequence[Talk], *, expected: int = 0) -> bytes:
    """The file that ``sockets.c`` describes."""
    parts = [struct.pack("<IQ", len(talks), expected)]
    for talk in talks:
        parts.append(struct.pack("<HII", talk.port, talk.greeting_replies, len(talk.greeting)))
        parts.append(talk.greeting)
        parts.append(struct.pack("<I", len(talk.requests)))
        for request in talk.requests:
            parts += (struct.pack("<I", len(request)), request)
    return b"".join(parts)


class Sockets:
    """The program at work. `wait_ready` returns when all greetings are answered, `finish` at the end of the load."""

    def __init__(self, process: subprocess.Popen[str], samples: Path, *, seconds: float) -> None:
        self._process = process
        self._samples = samples
        self._seconds = seconds

    def wait_ready(self) -> None:
        """`Trouble` if that never comes."""
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            _, words = self._process.communicate(timeout=GRACE_S)
            raise Trouble(f"many connections: {words.strip()}")

    def finish(self) -> Closed:
        """What was measured; `Trouble` with the program's words if it failed."""
        out, words = self._process.communicate(timeout=self._seconds + GRACE_S)
        if self._process.returncode != 0:
            raise Trouble(f"many connections: {words.strip()}")
        latencies = array.array("f", self._samples.read_bytes())
        return Closed(float(out.split()[-1]), latencies)


@contextlib.contextmanager
def sockets(mode: str, framing: str, talks: Sequence[Talk], *, seconds: float, expected: int = 0) -> Iterator[Sockets]:
    """The program started with a plan; ``mode`` and ``framing`` as it knows them. Killed if it is left early."""
    with tempfile.TemporaryDirectory(prefix="lanyinglog-bench-") as directory:
        plan, samples = Path(directory, "plan"), Path(directory, "samples")
        plan.write_bytes(encode_plan(talks, expected=expected))
        command = [compiled.program(SOURCE), mode, framing, str(seconds), str(plan), str(samples)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield Sockets(process, samples, seconds=seconds)
            finally:
                process.kill()


def closed(framing: str, talks: Sequence[Talk], *, seconds: float) -> Closed:
    """Each connection sends its next request when the last one is answered."""
    with sockets("closed", framing, talks, seconds=seconds) as program:
        program.wait_ready()
        return program.finish()
