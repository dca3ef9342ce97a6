"""Who uses the cluster while it is hurt. One file a workload; a new one joins by its name in `NAMES`.

A workload module has a docstring, whose first line says what it does and whose rest says in prose what could go wrong,
``WRITES`` (whether it belongs among the writers or the readers), ``WORKERS`` (how many of it a run has), ``LANES`` (of
each worker: what does one thing after the other), and ``async run(session)``, which works until
``session.stopping`` and records what it did.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from suite.session import Session

NAMES = ("append", "atomic", "idempotent", "recency", "tail", "replay")


class Workload(Protocol):
    """What a workload module offers; see the package."""

    __doc__: str
    WRITES: bool
    WORKERS: int
    LANES: int
    run: Callable[[Session], Awaitable[None]]


def load(name: str) -> Workload:
    """The workload ``name``."""
    return cast(Workload, importlib.import_module(f"suite.workloads.{name}"))


def purpose(name: str) -> str:
    """What it does, in a line."""
    return (load(name).__doc__ or "").splitlines()[0]
