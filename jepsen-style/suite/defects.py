"""Defects planted in nodes (or clients) on purpose, from outside: each takes one defence away."""

from __future__ import annotations

DEFECTS: dict[str, str] = {}


def plant(name: str) -> None:
    """The defect is there from now on, in this process."""
    raise KeyError(name)
