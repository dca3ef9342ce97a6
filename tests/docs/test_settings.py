"""docs/settings.md has every key and limit, with its flag and default, and its examples are settings of a node."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path

from lanyinglog.cli.node import node as verb
from lanyinglog.config import SETTING_KEYS, Address, Limits, NodeConfig, load_node_config

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text()
UNITS = {"MiB": 1 << 20, "GiB": 1 << 30}


def _rows(first_column: str) -> dict[str, list[str]]:
    table = PAGE[PAGE.index(f"| {first_column} |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_table_of_keys_has_each_with_its_flag() -> None:
    flags = {parameter.name: parameter.opts[0] for parameter in verb.params}
    assert {key: row[0].strip("`") for key, row in _rows("key").items()} == {key: flags[key] for key in SETTING_KEYS}


def test_what_holds_without_a_key_is_true() -> None:
    defaults = {one.name: one.default for one in fields(NodeConfig)}
    told = {key: row[1].strip("`") for key, row in _rows("key").items()}
    for key in ("client_listen", "cluster", "heartbeat_s", "election_timeout_s", "log_format"):
        assert told[key] == str(defaults[key]), key
    assert told["join"] == str(defaults["join"]).lower()
    assert str(defaults["peer_listen"]) in told["peer_listen"]


def test_the_table_of_limits_is_true() -> None:
    told = {}
    for key, row in _rows("limit").items():
        number, *unit = row[0].replace(",", "").split()
        told[key] = float(number) * (UNITS[unit[0]] if unit else 1)
    assert told == {one.name: one.default for one in fields(Limits)}


def test_the_file_of_three_machines_is_a_nodes(tmp_path: Path) -> None:
    _secret(tmp_path / "cluster.secret")
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert set(tomllib.loads(text)) <= set(SETTING_KEYS)
    file = tmp_path / "node.toml"
    file.write_text(text)
    config = load_node_config(file, environ={})
    assert config.client_listen == Address("0.0.0.0", 7420)
    assert config.advertised == Address("log1", 7420)
    assert len(config.peers) == 3


def test_the_variables_of_a_container_are_a_nodes(tmp_path: Path) -> None:
    _secret(tmp_path / "secret")
    (block,) = re.findall(r"```sh\n(LANYINGLOG_NODE.*?)```", PAGE, re.DOTALL)
    environ = dict(one.split("=", 1) for one in block.split())
    environ["LANYINGLOG_SECRET_FILE"] = str(tmp_path / "secret")
    config = load_node_config(environ=environ)
    assert (config.node, config.advertised) == ("n1", Address("log1", 7420))


def _secret(file: Path) -> None:
    file.touch(0o600)
    file.write_text("0" * 64)
