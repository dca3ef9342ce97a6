"""How a verb reaches its cluster, and what is said when nobody answers.

A client tries for as long as ``--timeout`` allows, for nodes come back and elections end. Whoever waits in front of a
terminal is told after `SILENCE_S` that nothing has answered so far, once, on standard error, unless ``--format json``
promises that only an error is written there. If none ever answers, the error advises what can be done about
that: name more nodes, or start those of the directory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from lanyinglog.cli import encryption, output
from lanyinglog.cli.options import applies
from lanyinglog.config import Address
from lanyinglog.errors import Unavailable

if TYPE_CHECKING:
    from lanyinglog.client.blocking import Client

SILENCE_S = 2.0
_LOOK_S = 0.2


@contextmanager
def connect(servers: Sequence[Address], *, timeout_s: float, form: str) -> Iterator[Client]:
    """A blocking client of the cluster that ``servers`` belong to, which says so when none of them answers."""
    from lanyinglog import sync

    advice = advice_for(servers)
    ended = threading.Event()
    with sync.connect(list(servers), timeout=timeout_s, tls=encryption.context()) as client:
        words = f"trying for {timeout_s:g} s in all\n  advice: {advice}"
        watcher = threading.Thread(target=_watch, args=(client, ended, words), name="silence-watch", daemon=True)
        if form != "json" and timeout_s > SILENCE_S:
            watcher.start()
        try:
            yield client
        except Unavailable as error:
            if client.unanswered:
                error.advice = advice
            raise
        finally:
            ended.set()


def _watch(client: Client, ended: threading.Event, words: str) -> None:
    """Says once that no server answers, `SILENCE_S` after the first was tried."""
    silent_s = 0.0
    while not ended.wait(_LOOK_S):
        why = client.unanswered
        if why is None:
            return
        silent_s += _LOOK_S if why else 0.0
        if silent_s >= SILENCE_S:
            output.note(f"lanyinglog: no answer so far: {why}; {words}")
            return


def advice_for(servers: Sequence[Address]) -> str:
    """What to do when none of ``servers`` answers: it depends on how they were named."""
    context = click.get_current_context(silent=True)
    if context is not None and applies(context, "directory", "servers") == "directory":
        directory = context.params["directory"]
        return f"start its nodes with: lanyinglog cluster start --dir {directory}; or see {directory}/*/node.log"
    if len(servers) == 1:
        return f"only {servers[0]} was asked: name more of the nodes with --server, or the cluster's directory (--dir)"
    return Unavailable.advice
