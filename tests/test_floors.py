"""Imports point down or stay on their floor, and each foreign library has its rooms (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lanyinglog"

FLOORS: dict[str, int] = {
    **dict.fromkeys(("record", "topics", "codec", "compression", "errors"), 0),
    **dict.fromkeys(("config", "service", "checkout", "tls", "__init__"), 0),
    **dict.fromkeys(("store", "wire", "sockets"), 1),
    "machine": 2,
    "raft": 3,
    **dict.fromkeys(
        ("batcher", "commit_loop", "writer", "tail", "trimmer", "scrub", "log_core", "hosted_log", "health"), 4
    ),
    **dict.fromkeys(("session", "gateway"), 5),
    **dict.fromkeys(("cli", "node", "client", "sync", "__main__"), 6),
}
"""First part of a module's name below the package -> its floor."""

ROOMS = {
    "pysyncobj": r"raft/engine",
    "lmdb": r"store/.*",
    "msgpack": r"codec",
    "zstandard": r"compression",
    "lz4": r"compression",
    "socket": r"raft/peers|session/.*|cli/.*|node",
    "trio": r"sockets|raft/(?:peers|handshake)|batcher|commit_loop|writer|hosted_log|session/.*|gateway/http|node",
    "ssl": r"tls|sockets|client/.*|cli/.*",
    "h11": r"gateway/http",
    "prometheus_client": r"gateway/metrics",
    "anyio": r"client/.*",
    "click": r"cli/.*",
    "rich": r"cli/.*",
}
"""A library -> the modules that may import it."""

MODULES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(module.relative_to(PACKAGE)) for module in MODULES]


def _imports(module: Path) -> list[tuple[str, int]]:
    """``(dotted name, line)`` of each import, those for type checkers alone included."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def _floor(dotted: str) -> int:
    part = dotted.split(".")[1] if "." in dotted else "__init__"
    return FLOORS.get(part, FLOORS["__init__"])


@pytest.mark.parametrize("module", MODULES, ids=NAMES)
def test_imports_point_down(module: Path) -> None:
    own = ".".join(("lanyinglog", *module.relative_to(PACKAGE).with_suffix("").parts))
    if own == "lanyinglog.__init__":
        pytest.skip("the package's door names everything, and imports it on demand")
    for name, line in _imports(module):
        if name.split(".")[0] == "lanyinglog":
            assert _floor(name) <= _floor(own), f"{module}:{line}: {own} reaches up to {name}"


@pytest.mark.parametrize("module", MODULES, ids=NAMES)
def test_a_library_stays_in_its_rooms(module: Path) -> None:
    own = module.relative_to(PACKAGE).with_suffix("").as_posix()
    for name, line in _imports(module):
        room = ROOMS.get(name.split(".")[0])
        assert room is None or re.fullmatch(room, own), f"{module}:{line}: {own} imports {name}"


def test_every_module_has_a_floor() -> None:
    parts = {module.relative_to(PACKAGE).with_suffix("").parts[0] for module in MODULES}
    assert parts == set(FLOORS)


def test_the_document_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for part in set(FLOORS) - {"__init__"}:
        assert re.search(rf"`{part}/?`", text), f"docs/architecture.md does not mention {part}"
