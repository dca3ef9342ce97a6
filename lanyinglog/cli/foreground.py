"""Node processes that belong to a program in the foreground and end with it, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import NoReturn

from lanyinglog.cli import processes
from lanyinglog.cli.directory import Member

Started = list[tuple[Member, "subprocess.Popen[bytes]"]]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end this program as Ctrl-C does: with its nodes."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def spawn_tied(members: list[Member], stack: ExitStack) -> Started:
    """Starts ``members`` so that they end with this process, whatever ends it (see `processes`)."""
    reading, writing = os.pipe()
    stack.callback(os.close, writing)
    try:
        return [(member, processes.spawn(member, tied=reading)) for member in members]
    finally:
        os.close(reading)
