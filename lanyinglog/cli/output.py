"""What people and programs read: tables on a terminal, one JSON object a line everywhere else.

``--format auto`` decides by whether standard output is a terminal. Errors go to standard error, as a sentence, or as
one JSON object when ``--format json`` was asked for: ``{"error", "outcome", "message", "advice"}``, where ``error``
and ``outcome`` are the wire's words (`lanyinglog.errors`), but for ``usage``, a command line that makes no sense.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from lanyinglog.errors import BadRequest, BadTopic, ConfigError, LanyingError, NotLeader, OutcomeUnknown, Unavailable

OK = 0
FAILED = 1
USAGE = 2
NO_QUORUM = 3
PROBLEM_FOUND = 4
OUTPUT_LOST = 5
INTERRUPTED = 130
TERMINATED = 143

Row = Mapping[str, Any]


def is_table(form: str) -> bool:
    """Whether ``--format form`` means a table here and now."""
    return form == "table" or (form == "auto" and sys.stdout.isatty())


def print_json(row: Row) -> None:
    """One object, one line, at once: whoever reads the pipe sees it now."""
    sys.stdout.write(_json_line(row, sys.stdout.encoding))
    sys.stdout.flush()


def _json_line(row: Row, encoding: str | None) -> str:
    """``row``, with escapes for all that is not ASCII if ``encoding`` can't say it."""
    line = json.dumps(row, ensure_ascii=False) + "\n"
    try:
        line.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(row) + "\n"
    return line


def print_rows(
    rows: Iterable[Row], columns: Sequence[str], *, form: str, empty: str, droppable: Sequence[str] = ()
) -> None:
    """``rows`` as a table of ``columns``, or as JSON with all they have; ``empty`` is what a table of nothing says,
    ``droppable`` names the columns that a narrow terminal does without, the first of them first."""
    rows = list(rows)
    if not is_table(form):
        for row in rows:
            print_json(row)
    elif rows:
        print_table(rows, columns, droppable=droppable)
    else:
        sys.stdout.write(empty + "\n")


def print_table(rows: Sequence[Row], columns: Sequence[str], *, droppable: Sequence[str] = ()) -> None:
    """A table on standard output, whole cells only; numbers to the right."""
    from rich.console import Console

    width = Console(file=sys.stdout).width
    columns = fitting(rows, columns, droppable, width=width)
    # What is wider than the terminal is wrapped by it; cut off, it would lose what it says.
    console = Console(file=sys.stdout, width=max(width, _width(rows, columns)), soft_wrap=True)
    console.print(table(rows, columns))


def fitting(rows: Sequence[Row], columns: Sequence[str], droppable: Sequence[str], *, width: int) -> list[str]:
    """``columns`` without as many of ``droppable``, from its start, as it takes for a table of ``width`` characters."""
    kept = list(columns)
    for column in droppable:
        if _width(rows, kept) <= width:
            break
        kept.remove(column)
    return kept


def _width(rows: Sequence[Row], columns: Sequence[str]) -> int:
    """The table's width: each column as wide as its widest cell, and what `table` puts between them."""
    cells = [[column, *(str(_cell(row.get(column))) for row in rows)] for column in columns]
    return sum(max(map(len, column)) for column in cells) + _GAP * (len(columns) - 1)


def table(rows: Iterable[Row], columns: Sequence[str]) -> Any:
    """A rich table of ``rows``."""
    from rich import box
    from rich.table import Table

    rows = list(rows)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for column in columns:
        numeric = all(row.get(column) is None or isinstance(row.get(column), int | float) for row in rows)
        drawn.add_column(column.replace("_", " "), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*(_cell(row.get(column)) for column in columns))
    return drawn


def _cell(value: Any) -> Any:
    from rich.text import Text

    if value is None:
        return Text("-", style="dim")
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(f"{value}")
    return Text(str(value), style=_STYLES.get(str(value), ""))


_GAP = 2
_STYLES = {"leader": "bold green", "unreachable": "bold red", "candidate": "yellow"}


def local_time(timestamp: int) -> str:
    """``timestamp`` (ns since the epoch) as local time to the microsecond; `positions.parse_start` reads it back."""
    seconds, nanoseconds = divmod(timestamp, 1_000_000_000)
    try:
        return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}.{nanoseconds // 1000:06}"
    except (OverflowError, ValueError, OSError):
        return f"{timestamp}ns"


# ------------------------------------------------------------------------------------------------------------ errors
def exit_code(error: LanyingError) -> int:
    """The exit code that ``error`` ends the program with."""
    if isinstance(error, ConfigError | BadTopic):
        return USAGE
    if isinstance(error, Unavailable | OutcomeUnknown | NotLeader):
        return NO_QUORUM
    return FAILED


def error_row(error: LanyingError) -> dict[str, Any]:
    """``error`` for programs."""
    return {"error": error.code, "outcome": str(error.outcome), "message": error.message, "advice": error.advice}


def print_error(error: LanyingError, *, form: str) -> None:
    """``error`` on standard error."""
    if form == "json":
        sys.stderr.write(_json_line(error_row(error), sys.stderr.encoding))
        return
    advice = "" if isinstance(error, ConfigError | BadRequest) else f"\n  advice: {error.advice}"
    sys.stderr.write(f"lanyinglog: {error.message}{advice}\n")


def print_wrong_usage(message: str, usage: str, *, form: str) -> None:
    """A command line that makes no sense, on standard error, and how it may look."""
    if form == "json":
        row = {"error": "usage", "outcome": "definite", "message": message, "advice": f"usage: {usage}"}
        sys.stderr.write(_json_line(row, sys.stderr.encoding))
        return
    sys.stderr.write(f"lanyinglog: {message}\n  usage: {usage}  (more with --help)\n")


def note(text: str) -> None:
    """A sentence for people on standard error."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
