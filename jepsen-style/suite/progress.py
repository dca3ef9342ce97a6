"""What is seen while a run goes on: a live panel on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from suite.runner import Stage

PLAIN_S = 5.0


class Progress:
    """Use it as a context; call it as `runner.Watch`."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = Console(file=sys.stdout)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if self._is_terminal else None
        self._what = ""
        self._said_at = 0.0
        self._rates: list[tuple[float, int]] = []

    @property
    def _is_terminal(self) -> bool:
        return sys.stdout.isatty()

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, what: str, seconds: float, stage: Stage) -> None:
        """Something goes on."""
        changed = what != self._what
        self._what = what
        if self._live is not None:
            self._live.update(self._panel(what, seconds, stage))
        elif changed or time.monotonic() - self._said_at > PLAIN_S:
            self._said_at = time.monotonic()
            print(_line(what, seconds, stage), flush=True)

    def _panel(self, what: str, seconds: float, stage: Stage) -> Group:
        table = Table.grid(padding=(0, 2))
        if stage.workers is not None and stage.arena is not None:
            operations, messages, read = stage.workers.progress()
            self._rates = [*self._rates[-8:], (time.monotonic(), operations["ok"])]
            (t0, n0), (t1, n1) = self._rates[0], self._rates[-1]
            rate = (n1 - n0) / (t1 - t0) if t1 > t0 else 0.0
            table.add_row(
                "acknowledged", f"[green]{operations['ok']:,}[/] operations, {messages:,} messages", f"{rate:,.0f}/s"
            )
            table.add_row("not", f"{operations['fail']:,} for certain, {operations['info']:,} unknown", "")
            table.add_row("read", f"{read:,} messages", "")
            table.add_row("faults", f"{len(stage.arena.book)}", "")
            for happened in [one for one in stage.arena.book if not one.t1][-5:]:
                table.add_row("", f"[yellow]{happened.words}[/]", "")
        bar = _bar(seconds / stage.seconds) if what == "running" and stage.seconds else ""
        return Group(Text(f"{self._title}: {what} {bar}"), table)


def _bar(share: float) -> str:
    done = round(30 * min(1.0, share))
    return "━" * done + "╌" * (30 - done) + f" {share:4.0%}"


def _line(what: str, seconds: float, stage: Stage) -> str:
    if what != "running" or stage.workers is None or stage.arena is None:
        return f"  {what}"
    operations, messages, read = stage.workers.progress()
    under_way = ", ".join(one.words for one in stage.arena.book if not one.t1) or "none"
    return (
        f"  {seconds:5.0f} s  {operations['ok']:,} ok, {operations['fail']:,} fail, {operations['info']:,} info;"
        f" {messages:,} messages, {read:,} read; {len(stage.arena.book)} faults, now: {under_way}"
    )
