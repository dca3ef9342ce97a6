"""What is published: random bytes, which nothing can compress, and log lines, which everything can.

Lines come from files that the user names (``--lines``); without any, `made_up` imitates a web server's log. Reports say
which it was.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POOL = 4_096
"""Different payloads of a kind; a load goes round them."""
_POOL_BYTES_MAX = 32 << 20
_PATHS = ("/cart", "/checkout/confirm", "/api/v2/orders", "/login", "/static/app.js", "/search")
_AGENTS = ("Mozilla/5.0 (X11; Linux x86_64)", "curl/8.5.0", "python-requests/2.32", "okhttp/4.12")


@dataclass(frozen=True, slots=True)
class Payload:
    """A kind of payload: ``random_bytes`` of noise each, or, if that is 0, log lines."""

    name: str
    random_bytes: int = 0

    def pool(self, lines: Sequence[bytes]) -> list[bytes]:
        """Different payloads of this kind; ``lines`` are the log lines of this run."""
        if not self.random_bytes:
            return list(lines)
        source = random.Random(self.random_bytes)
        count = max(1, min(POOL, _POOL_BYTES_MAX // self.random_bytes))
        return [source.randbytes(self.random_bytes) for _ in range(count)]


SMALL = Payload("128 B", 128)
KIBIBYTE = Payload("1 KiB", 1 << 10)
LARGE = Payload("16 KiB", 16 << 10)
LINES = Payload("log lines")


def read_lines(paths: Sequence[Path]) -> list[bytes]:
    """The lines of ``paths``, each a file or a directory with ``*.log`` files at any depth, empty ones left out.

    `OSError` for what can't be read, `ValueError` where there is no line.
    """
    files = [file for path in paths for file in (sorted(path.rglob("*.log")) if path.is_dir() else [path])]
    lines = [line for file in files for line in file.read_bytes().splitlines() if line]
    if not lines:
        raise ValueError(f"no log lines in {', '.join(map(str, paths))}: directories are searched for *.log")
    return lines


def made_up(count: int = 6_000, *, seed: int = 1) -> list[bytes]:
    """Lines of an imagined web server, about 130 bytes each."""
    source = random.Random(seed)
    clock_s = 41_000.0
    lines = []
    for _ in range(count):
        clock_s += source.expovariate(40)
        time = f"{int(clock_s // 3600):02}:{int(clock_s // 60 % 60):02}:{clock_s % 60:06.3f}"
        address = f"10.{source.randrange(8)}.{source.randrange(256)}.{source.randrange(256)}"
        lines.append(
            f"2024-03-17T{time}Z {address} GET {source.choice(_PATHS)}?id={source.randrange(10**6)}"
            f" {source.choice((200, 200, 200, 304, 404))} {source.randrange(50_000)}"
            f" {source.expovariate(0.1):.1f}ms {source.choice(_AGENTS)}".encode()
        )
    return lines
