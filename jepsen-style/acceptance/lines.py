"""Lines to send: those of a real file, or made up in the manner of logs, the same for the same seed.

A line is any bytes without a newline. The made-up ones have what real ones have and people forget: empty lines, tabs,
carriage returns, other alphabets, bytes that are no UTF-8, a few that are long.
"""

from __future__ import annotations

import random
from pathlib import Path

_LEVELS = ("INFO", "WARN", "ERROR", "DEBUG")
_PARTS = ("dfs.DataNode", "kernel: CPU0", "sshd[24206]", "org.orders.Book", "lesson-7", "заказ", "订单", "leçon")
_WORDS = (
    "Received block blk_%d of size 67108864 from 10.251.91.84",
    "connection from 218.188.2.4 () at Thu Jun 23 20:42:40",
    "order %d filled at 17.25\tEUR",
    "lesson %d: page turned\r",
    "квитанция %d выдана",
    "session closed for user root, %d",
)


def lines_of(file: Path | None, count: int, *, seed: int) -> list[bytes]:
    """``count`` lines: of ``file``, again from its start if it is shorter, or made up from ``seed``."""
    if file is not None:
        found = file.read_bytes().split(b"\n")
        return [found[i % len(found)] for i in range(count)]
    return made_up(count, seed=seed)


def made_up(count: int, *, seed: int) -> list[bytes]:
    """``count`` lines of about 100 bytes."""
    source = random.Random(seed)
    return [_line(source, i) for i in range(count)]


def _line(source: random.Random, number: int) -> bytes:
    what = source.random()
    if what < 0.005:
        return b""
    if what < 0.01:
        return source.randbytes(source.randrange(1, 200)).replace(b"\n", b"\0")
    text = source.choice(_WORDS)
    text = text % source.randrange(1 << 30) if "%d" in text else text
    line = f"0811{number % 31:02d} {number:08d} {source.choice(_LEVELS)} {source.choice(_PARTS)}: {text}"
    if what < 0.012:
        return (line * source.randrange(2, 60)).encode()
    return line.encode()


def as_file(lines: list[bytes]) -> bytes:
    """The file whose lines these are."""
    return b"".join(line + b"\n" for line in lines)


def first_difference(expected: list[bytes], found: list[bytes]) -> str | None:
    """Where the two differ, in words; None if they don't."""
    for number, (wanted, got) in enumerate(zip(expected, found, strict=False), 1):
        if wanted != got:
            return f"line {number} of {len(expected)} is {got[:120]!r}, expected {wanted[:120]!r}"
    if len(expected) != len(found):
        return f"{len(found)} lines came back, {len(expected)} were sent"
    return None
