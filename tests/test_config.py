"""Settings from a file, the environment and flags: the later wins, and each mistake is named by place and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lanyinglog.config import Address, Limits, load_node_config
from lanyinglog.errors import ConfigError
from lanyinglog.tls import TlsFiles

BASE = 'node = "n1"\ndata = "d"\n'


def _file(directory: Path, text: str) -> Path:
    file = directory / "node.toml"
    file.write_text(BASE + text)
    return file


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = _file(tmp_path, "heartbeat_s = 0.05\nelection_timeout_s = 2\n[limits]\nconnections_max = 10\n")
    environ = {"LANYINGLOG_ELECTION_TIMEOUT_S": "3", "LANYINGLOG_CONNECTIONS_MAX": "20", "LANYINGLOG_SERVER": "h:1"}
    config = load_node_config(file, environ=environ, flags={"connections_max": "30", "cluster": None})
    assert (config.heartbeat_s, config.election_timeout_s, config.limits.connections_max) == (0.05, 3.0, 30)
    assert config.data == tmp_path / "d"


def test_a_node_may_listen_everywhere_when_it_says_where_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text("s" * 32)
    text = f"""{OPEN}
    client_listen = "0.0.0.0:7420"
    peer_listen = "0.0.0.0:7520"
    secret_file = "secret"
    peers = {{n1 = "10.0.0.1:7520"}}
    clients = {{n1 = "log1.example:7420"}}
    """
    config = load_node_config(_file(tmp_path, text))
    assert config.client_listen == Address("0.0.0.0", 7420)
    assert config.advertised == Address("log1.example", 7420)


def test_with_tls_a_port_may_be_open(tmp_path: Path) -> None:
    config = load_node_config(_file(tmp_path, f"{ALL_TLS}\nclient_listen = '10.0.0.1:1'"))
    assert config.tls == TlsFiles(tmp_path / "c", tmp_path / "k", tmp_path / "a")


def test_metrics_may_be_read_from_anywhere_for_they_change_nothing(tmp_path: Path) -> None:
    assert load_node_config(_file(tmp_path, "metrics_listen = '0.0.0.0:1'")).metrics_listen == Address("0.0.0.0", 1)


def test_a_node_is_reached_where_it_listens_unless_told(tmp_path: Path) -> None:
    assert load_node_config(_file(tmp_path, "client_listen = '127.0.0.1:0'")).advertised == Address("127.0.0.1", 0)


def test_maps_in_the_environment_are_lists_of_pairs(tmp_path: Path) -> None:
    config = load_node_config(_file(tmp_path, ""), environ={"LANYINGLOG_PEERS": "n1=127.0.0.1:1,n2=127.0.0.1:2"})
    assert config.peers == {"n1": Address("127.0.0.1", 1), "n2": Address("127.0.0.1", 2)}
    assert config.peer_listen == Address("127.0.0.1", 1)


OPEN = "i_accept_an_open_unencrypted_port = true"
ALL_TLS = "tls_cert = 'c'\ntls_key = 'k'\ntls_ca = 'a'"
MISTAKES = [
    ("nodes = 'x'", "unknown key 'nodes'; did you mean node?"),
    ("colour = 'red'", "unknown key 'colour'; known are node, data"),
    ("peers = 3", "peers must be a table"),
    ("peers = {n1 = 'x'}", "peers.n1 must be host:port"),
    ("peers = {n1 = '127.0.0.1:0'}", "peers.n1 needs a port"),
    ("peers = {n2 = '127.0.0.1:1'}", "peers must have every member, and 'n1'"),
    ("peers = {n1 = '127.0.0.1:1', n2 = '127.0.0.1:1'}", "peers gives two members the same address"),
    ("clients = {n9 = '127.0.0.1:1'}", "clients names n9"),
    ("heartbeat_s = 'often'", "heartbeat_s must be a number, not 'often'"),
    ("heartbeat_s = true", "heartbeat_s must be a number above 0"),
    ("heartbeat_s = nan", "heartbeat_s must be a number above 0"),
    ("election_timeout_s = 0.01", "election_timeout_s must be at least 3 heartbeats"),
    ("cluster = ''", "cluster must be 1 to 64 of"),
    ("secret_file = 'nowhere'", "secret_file: "),
    ("client_listen = 'h:99999'", "client_listen must be host:port with a port of at most 65535"),
    ("tls_cert = 'a'", "tls_key and tls_ca not set: TLS needs tls_cert, tls_key, tls_ca"),
    ("peer_listen = '127.0.0.1:1'\npeers = {n1 = 'a..b:1'}", "peers.n1 = a..b:1 has no name of a host"),
    (f"peer_listen = '127.0.0.1:1'\npeers = {{n1 = '{'a' * 64}:1'}}", "has no name of a host"),
    (f"{OPEN}\nclient_listen = '[::ffff:0.0.0.0]:1'", "by which n1 can be reached"),
    (f"{OPEN}\nclient_listen = '0:1'", "0:1 is no address by which n1 can be reached"),
    (f"{OPEN}\nclient_listen = '0x0.0:1'", "by which n1 can be reached"),
    (f"{ALL_TLS}\npeer_listen = '10.0.0.1:1'", "without a secret"),
    ("metrics_listen = 'x'", "metrics_listen must be host:port"),
    ("client_listen = '0.0.0.0:1'", "client_listen = 0.0.0.0:1 can be reached from the network"),
    (f"{OPEN}\npeer_listen = '10.0.0.1:1'", "peer_listen = 10.0.0.1:1 can be reached from the network, and without a"),
    (f"{OPEN}\nclient_listen = '0.0.0.0:1'", "(flag --clients n1=HOST:1)"),
    (f"{OPEN}\nclient_listen = '[::]:1'", "[::]:1 is no address by which n1 can be reached from elsewhere"),
    ("clients = {n1 = '0.0.0.0:1'}", "name the one that can under clients"),
    ("clients = {n1 = '127.0.0.1:0'}", "clients.n1 needs a port"),
    ("peer_listen = '127.0.0.1:1'\npeers = {n1 = '0.0.0.0:1'}", "(flag --peers n1=HOST:1)"),
    ("i_accept_an_open_unencrypted_port = 'maybe'", "i_accept_an_open_unencrypted_port must be true or false"),
    ("limits = 3", "limits must be a table"),
    ("[limits]\nconnections_max = 0", "connections_max must be a number above 0"),
    ("[limits]\nconnections_max = 1.5", "connections_max must be a whole number, not 1.5"),
    ("[limits]\nconections_max = 5", "unknown key 'conections_max'; did you mean connections_max?"),
    ("[limits]\nentry_bytes_max = 4_194_304", "entry_bytes_max must be 1 to 2097152"),
    ("[limits]\nstore_bytes_max = 1", "store_bytes_max must be 33554432 to"),
    ("log_format = 'xml'", "log_format must be auto, text or json, not 'xml'"),
    ("heartbeat_s = ", "is not valid TOML"),
]


@pytest.mark.parametrize(("text", "words"), MISTAKES, ids=[words[:40] for _, words in MISTAKES])
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_node_config(_file(tmp_path, text))
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("environ", "flags", "words"),
    [
        ({"LANYINGLOG_CONNECTIONS_MAX": "many"}, {}, "environment: connections_max must be a number, not 'many'"),
        ({"LANYINGLOG_PEERS": "n1"}, {}, "environment: peers.n1 must be host:port"),
        ({"LANYINGLOG_CONECTIONS_MAX": "5"}, {}, "LANYINGLOG_CONECTIONS_MAX; did you mean LANYINGLOG_CONNECTIONS_MAX?"),
        ({}, {"connections_max": "many"}, "flags: connections_max must be a number, not 'many'"),
        ({}, {"conections_max": "5"}, "flags: unknown key 'conections_max'; did you mean connections_max?"),
        ({}, {"peer_listen": "x:y"}, "flags: peer_listen must be host:port"),
    ],
)
def test_a_mistake_elsewhere_is_named_with_its_place(
    tmp_path: Path, environ: dict[str, str], flags: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_node_config(_file(tmp_path, ""), environ=environ, flags=flags)
    assert words in caught.value.message


def test_what_is_needed_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"node is not set \(flag, LANYINGLOG_NODE, or node = "):
        load_node_config()


def test_variables_of_other_verbs_are_no_mistake(tmp_path: Path) -> None:
    others = dict.fromkeys(("SERVER", "DIR", "NODES", "PORT", "TIMEOUT", "FORMAT", "ENDS_WITH_FD", "CONFIG"), "1")
    load_node_config(_file(tmp_path, ""), environ={f"LANYINGLOG_{name}": value for name, value in others.items()})


def test_limits_are_valid_as_they_come() -> None:
    assert Limits().entry_bytes_max <= 2 << 20
