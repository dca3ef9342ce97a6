"""Standard input, output and error as the verbs need them: there, whole, and with failures that can be told apart.

A closed stream is opened as one that fails: otherwise the next file or socket would get its number, and Python's object
for it would be None. A write to standard output is whole or raises: `ReaderGone` when nobody reads it any more, which
is no failure, `OutputLost` otherwise. Both differ from an ``OSError`` of the work that a verb does, since what was to
be told may have been done. A write to standard error never raises: there is nobody left to tell.

Who waits for news would learn only from the next news that its reader is gone. `reader_watched` looks meanwhile: a
thread sleeps in ``poll`` for nothing but errors of standard output, and wakes the main thread with SIGPIPE, the signal
that says just this. It costs nothing while there is a reader.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lanyinglog.errors import LanyingError, Outcome

STDIN = 0
STDOUT = 1
STDERR = 2


class ReaderGone(Exception):
    """Who read standard output, as ``head`` does, has enough."""


class OutputLost(LanyingError):
    """Standard output took no more, or never could."""

    code = "output"
    outcome = Outcome.UNKNOWN
    advice = "what was asked for may be done: see what is there before doing it again"


class _Stream(io.FileIO):
    def write(self, piece: Any) -> int:
        while (written := super().write(piece)) is None:  # another program that has the stream made it non-blocking
            select.select((), (self,), ())
        return written


class _Output(_Stream):
    def write(self, piece: Any) -> int:
        try:
            return super().write(piece)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise ReaderGone from None
            raise OutputLost(f"standard output: {error.strerror}") from error


class _Errors(_Stream):
    def write(self, piece: Any) -> int:
        try:
            return super().write(piece)
        except OSError:
            return len(piece)


def prepare() -> None:
    """Make the streams what this module says. Once, before anything is opened."""
    _open_closed()
    sys.stdin = sys.stdin or open(STDIN, closefd=False)  # noqa: SIM115
    sys.stdout = _text(_Output(STDOUT, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Errors(STDERR, "w", closefd=False), sys.stderr)


def _open_closed() -> None:
    for number, mode in ((STDIN, os.O_WRONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)  # the wrong way round: it fails as the closed one would
            os.dup2(opened, number)
            if opened != number:
                os.close(opened)


def _text(raw: io.FileIO, replaced: Any) -> io.TextIOWrapper:
    """What the encoding can't say is escaped: a topic's name is no reason to fail."""
    errors = getattr(replaced, "errors", None) or "strict"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(replaced, "encoding", None) or "utf-8",
        errors="backslashreplace" if errors == "strict" else errors,
        line_buffering=True,
    )


def give_up_stdout() -> None:
    """Let the interpreter's own flush at exit go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)


@contextmanager
def reader_watched() -> Iterator[None]:
    """Inside, `ReaderGone` interrupts the main thread as soon as nobody reads standard output any more, if that is a
    pipe or a socket: a file and a terminal have no reader who could go.

    It is for waiting. What must be closed in good order is opened around it: Ctrl-C ends our reader as well as us, and
    the news of the one would cut short what the other began."""
    if not _has_reader() or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch()
    watch.start()
    try:
        yield
    finally:
        watch.end()


def _has_reader() -> bool:
    mode = os.fstat(STDOUT).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class _Watch:
    """Watches from `start` to `end`; both in the main thread."""

    def __init__(self) -> None:
        self._is_gone = False  # and the main thread was not told yet
        self._is_over = False
        self._watched_end, self._end = os.pipe()
        self._thread = threading.Thread(target=self._wait, name="lanyinglog-reader", daemon=True)

    def start(self) -> None:
        self._handler_before = signal.signal(signal.SIGPIPE, self._interrupt)
        self._thread.start()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(STDOUT, 0)
        poll.register(self._watched_end, 0)
        if any(number == STDOUT for number, _ in poll.poll()):
            self._is_gone = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGPIPE)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        # A connection of the client's that breaks gives the same signal, and means nothing here.
        if self._is_gone and not self._is_over:
            self._is_gone = False
            raise ReaderGone

    def end(self) -> None:
        self._is_over = True
        os.close(self._end)
        self._thread.join()
        os.close(self._watched_end)
        signal.signal(signal.SIGPIPE, self._handler_before)
