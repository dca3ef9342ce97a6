"""Every block of Python for users runs, and the tables of docs/client.md say what the code says."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import anyio
import pytest
from client.loopback import Loopback

import lanyinglog
import lanyinglog.sync
from lanyinglog import errors, record
from lanyinglog.client.client import Client

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()
PAGES = (ROOT / "README.md", ROOT / "docs" / "client.md", ROOT / "docs" / "operations.md")
BLOCKS = [
    pytest.param(block, id=f"{page.stem}:{block.strip().splitlines()[0]}")
    for page in PAGES
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs(cluster: Loopback, block: str, capsys: Any) -> None:
    source = block.replace("127.0.0.1:7420", cluster.servers[0])
    server = cluster.servers[0]
    with lanyinglog.sync.connect(server) as client:
        client.publish_many("events.a", [b"x", b"y"])
        client.publish("orders.eu", b"x")
        if "connect(" in source:
            exec(compile(source, "a page", "exec"), {})
        elif "await " in source or "async " in source:
            names: dict[str, Any] = {}
            exec(compile(f"async def block(client):\n{textwrap.indent(source, '    ')}", "a page", "exec"), names)

            async def main() -> None:
                with anyio.fail_after(10):
                    async with lanyinglog.connect(server) as connected:
                        await names["block"](connected)

            anyio.run(main)
        else:
            exec(compile(source, "a page", "exec"), {"client": client})


def test_the_pages_have_blocks() -> None:
    assert len(BLOCKS) >= 11


def rows(first_column: str) -> list[list[str]]:
    """The rows of the table whose first column is headed so."""
    table = PAGE[PAGE.index(f"| {first_column} |") :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_table_of_errors_is_true() -> None:
    for names, outcome, *_ in rows("error"):
        for name in re.findall(r"`(\w+)`", names):
            if name != "TypeError":
                assert str(getattr(errors, name).outcome) == outcome, name


def test_the_table_of_settings_is_true() -> None:
    parameters = inspect.signature(Client.publisher).parameters
    described = {row[0].strip("`"): row[1] for row in rows("setting")}
    assert set(described) == set(parameters) - {"self", "timeout"}
    units = {"KiB": 1 << 10, "MiB": 1 << 20}
    for name, text in described.items():
        words = text.strip("`").split()
        value: Any = None if words[0] == "None" else float(words[0]) * (units.get(words[-1], 1))
        assert parameters[name].default == value, name


@pytest.mark.parametrize("page", ["client.md", "cli.md"])
def test_the_largest_message_is_named(page: str) -> None:
    assert f"{record.MESSAGE_BYTES_MAX:,} bytes" in (ROOT / "docs" / page).read_text()


def test_the_calls_of_the_table_exist() -> None:
    for row in rows("call"):
        assert hasattr(Client, re.findall(r"`(\w+)\(", row[0])[0])
