"""docs/logs.md names every event that a node can say, with its level and fields, and nothing else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEVELS = {"info", "warning", "error", "critical"}
FORWARDED = "said"
"""Its level is that of what is forwarded, hence `log.log`."""


def _said_by_the_code() -> dict[str, tuple[set[str], set[str]]]:
    """event -> (levels, fields), by the calls of ``log`` in the modules that log through structlog."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for module in (ROOT / "lanyinglog").rglob("*.py"):
        source = module.read_text()
        if "structlog" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=args, keywords=fields):
                    name = args[0] if level in LEVELS else args[1]
                    assert isinstance(name, ast.Constant), f"{module}:{node.lineno}: an event without a fixed name"
                    levels, names = found.setdefault(str(name.value), (set(), set()))
                    levels.add(level)
                    names.update(str(field.arg) for field in fields if field.arg != "exc_info")
    return found


def test_the_document_has_every_event_with_its_fields() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", (ROOT / "docs" / "logs.md").read_text(), re.MULTILINE)
    told = {name: (level, set(re.findall(r"`(\w+)`", fields))) for name, level, fields in rows}
    said = _said_by_the_code()
    assert set(told) == set(said)
    for name, (levels, fields) in said.items():
        assert told[name][1] == fields, name
        assert name == FORWARDED or told[name][0] in levels, name


def test_names_of_events_are_words_that_programs_can_match() -> None:
    assert all(re.fullmatch(r"[a-z_]+", name) for name in _said_by_the_code())
