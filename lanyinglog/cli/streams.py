"""Standard input, output and error as the verbs need them: there, whole, and with failures that can be told apart.

A closed stream is opened as one that fails: otherwise the next file or socket would get its number, and Python's object
for it would be None. A write to standard output is whole or raises: `ReaderGone` when nobody reads it any more, which
is no failure, `OutputLost` otherwise. Both differ from an ``OSError`` of the work that a verb does, since what was to
be told may have been done. A write to standard error never raises: there is nobody left to tell.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
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
    sys.stdout = _text(_Output(STDOUT, "w", closefd=False), sys.stdout, errors="strict")
    sys.stderr = _text(_Errors(STDERR, "w", closefd=False), sys.stderr, errors="backslashreplace")


def _open_closed() -> None:
    for number, mode in ((STDIN, os.O_WRONLY), (STDOUT, os.O_RDONLY), (STDERR, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)  # the wrong way round: it fails as the closed one would
            os.dup2(opened, number)
            if opened != number:
                os.close(opened)


def _text(raw: io.FileIO, replaced: Any, *, errors: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(replaced, "encoding", None) or "utf-8",
        errors=getattr(replaced, "errors", None) or errors,
        line_buffering=True,
    )


def give_up_stdout() -> None:
    """Let the interpreter's own flush at exit go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.close(nowhere)
