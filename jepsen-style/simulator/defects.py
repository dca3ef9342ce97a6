"""Defects planted on purpose: each takes one defence away, by replacing names of the product while a run lasts.

The product knows nothing of this. `defects_raft` has the corrections of the engine (numbers are the audit's, see
docs/engine.md) and what surrounds them; `defects_log` has our own lines of defence, from the disk to the client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Change = tuple[object, str, object]
"""Where, which name, and what stands there instead."""
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Defect:
    """``changes`` makes a fresh set each time, so that no state is carried from run to run."""

    name: str
    audit: str
    """Its number in docs/engine.md, or empty for our own lines of defence."""
    what: str
    changes: Callable[[], Sequence[Change]]

    @contextmanager
    def plant(self) -> Iterator[None]:
        """The defect is there while the context lasts."""
        changes = self.changes()
        before = [(where, name, vars(where).get(name, _NOTHING)) for where, name, _ in changes]
        for where, name, instead in changes:
            setattr(where, name, instead)
        try:
            yield
        finally:
            for where, name, old in reversed(before):
                if old is _NOTHING:
                    delattr(where, name)
                else:
                    setattr(where, name, old)


DEFECTS: dict[str, Defect] = {}


def defect(what: str, *, audit: str = "") -> Callable[[Callable[[], Sequence[Change]]], Callable[[], Sequence[Change]]]:
    """Registers the decorated function under its own name."""

    def register(changes: Callable[[], Sequence[Change]]) -> Callable[[], Sequence[Change]]:
        DEFECTS[changes.__name__] = Defect(changes.__name__, audit, what, changes)
        return changes

    return register


def before(cls: type, name: str, action: Callable[..., Any]) -> Change:
    """``cls.name`` with ``action`` called first, with the same arguments."""
    original = getattr(cls, name)

    def both(*arguments: Any, **named: Any) -> Any:
        action(*arguments, **named)
        return original(*arguments, **named)

    return cls, name, both
