"""Defects planted on purpose: each takes one defence away, by replacing a name of the product while a run lasts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Defect:
    """``plant`` puts it in for as long as the context lasts."""

    name: str
    audit: str
    """Its number in docs/engine.md, or empty for our own lines of defence."""
    what: str
    plant: Callable[[], AbstractContextManager[None]]


DEFECTS: dict[str, Defect] = {}
