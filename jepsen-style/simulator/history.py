"""What happened in a run: events as values, their hash, and the few that explain a violation.

Events are kept as they are and put into words only if somebody asks: a run costs no text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from lanyinglog.raft.messages import Append
from lanyinglog.store.log_store import Entry

SHOWN_MAX = 60
"""Events of an explanation: more is not read."""


class Violation(Exception):
    """A property was broken. ``rule`` is its short name, ``words`` say how, ``about`` what the explanation is about:
    pairs such as ``("entry", 7)``, ``("client", "p1")``, ``("node", "n1")``, ``("term", 3)``."""

    def __init__(self, rule: str, words: str, *about: tuple[str, object]) -> None:
        super().__init__(f"{rule}: {words}")
        self.rule = rule
        self.words = words
        self.about = about

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels between processes: by itself an exception is made anew from its text alone."""
        return type(self), (self.rule, self.words, *self.about)


class Event(NamedTuple):
    """``kind`` and ``values`` at virtual ``time``."""

    time: float
    kind: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.time:10.6f}  {self.kind:12} " + "  ".join(_words(value) for value in self.values)


class History:
    """All events of a run."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def note(self, time: float, kind: str, *values: Any) -> None:
        """``kind`` happened; the values are immutable."""
        self.events.append(Event(time, kind, values))

    def digest(self) -> str:
        """A hash over every event, to the bit of its time."""
        digest = hashlib.blake2b(digest_size=16)
        for event in self.events:
            digest.update(repr(event).encode())
        return digest.hexdigest()

    def explain(self, violation: Violation) -> list[str]:
        """The last events that have to do with what the violation is about, and all faults among them."""
        about = set(violation.about)
        if not about:
            chosen: Iterable[Event] = self.events
        else:
            chosen = [event for event in self.events if event.kind in _ALWAYS or _concerns(event, about)]
        lines = [str(event) for event in list(chosen)[-SHOWN_MAX:]]
        left_out = len(self.events) - len(lines)
        return [f"... {left_out} other events are left out (--trace shows all)", *lines] if left_out else lines


_ALWAYS = frozenset({"fault", "start", "stop", "leads", "heal"})


def _concerns(event: Event, about: set[tuple[str, object]]) -> bool:
    return any(topic in about for value in event.values for topic in _topics(value))


def _topics(value: object) -> list[tuple[str, object]]:
    if isinstance(value, Append):
        return [("entry", entry.index) for entry in value.entries]
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        return [value]
    return []


def _words(value: Any) -> str:
    if isinstance(value, Append):
        entries = ",".join(f"{entry.index}/{entry.term}" for entry in value.entries)
        return (
            f"Append(term={value.term} number={value.number} prev={value.prev_index}/{value.prev_term}"
            f" commit={value.commit} entries=[{entries}])"
        )
    if isinstance(value, Entry):
        return f"{value.index}/{value.term}"
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        return f"{value[0]}={value[1]}"
    return str(value)
