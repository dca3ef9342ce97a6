"""The command line against a node that speaks TLS."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from certificates import Authority
from real_programs import Cluster, Result, run

from lanyinglog.cli import encryption
from lanyinglog.cli.processes import free_port
from lanyinglog.tls import TlsFiles


@dataclass(frozen=True)
class Encrypted:
    server: str
    client: TlsFiles

    def run(self, *arguments: str) -> Result:
        """The program with the client's certificate."""
        flags = zip(("--tls-cert", "--tls-key", "--tls-ca"), map(str, self.client.paths), strict=True)
        return run(*(word for pair in flags for word in pair), *arguments)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    """One node, which leads."""
    directory = tmp_path_factory.mktemp("encrypted")
    authority, port = Authority(directory / "tls"), free_port(nodes=1)
    files = authority.issue("node", "127.0.0.1")
    command = [sys.executable, "-m", "lanyinglog", "node", "--id", "n1", "--data", str(directory / "data")]
    command += ["--client-listen", f"127.0.0.1:{port}", "--peer-listen", "127.0.0.1:0", "--log-format", "json"]
    command += ["--peers", f"n1=127.0.0.1:{port + 100}"]
    command += ["--tls-cert", str(files.cert), "--tls-key", str(files.key), "--tls-ca", str(files.ca)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stderr is not None
            next(line for line in map(json.loads, process.stderr) if line["event"] == "leader")
            yield Encrypted(f"127.0.0.1:{port}", authority.issue("client"))
        finally:
            process.terminate()
            process.wait(30)


def test_verbs_go_through_tls(node: Encrypted) -> None:
    assert node.run("publish", "a.b", "x", "--server", node.server).rows[0]["acknowledged"] == 1
    assert node.run("topics", "--server", node.server).rows[0]["topic"] == "a.b"
    (row,) = node.run("status", "--server", node.server).rows
    assert row["role"] == "leader"
    asked = node.run("doctor", "--server", node.server)
    assert asked.code == 0
    assert [one["ok"] for one in asked.rows if one["check"] == "certificate"] == [True]


def test_the_environment_will_do(node: Encrypted) -> None:
    names = ("LANYINGLOG_TLS_CERT", "LANYINGLOG_TLS_KEY", "LANYINGLOG_TLS_CA")
    environment = dict(zip(names, map(str, node.client.paths), strict=True))
    assert run("status", "--server", node.server, environment=environment).code == 0


def test_a_local_cluster_without_tls_does_not_care_what_others_have(node: Encrypted, cluster: Cluster) -> None:
    names = ("LANYINGLOG_TLS_CERT", "LANYINGLOG_TLS_KEY", "LANYINGLOG_TLS_CA")
    environment = dict(zip(names, map(str, node.client.paths), strict=True))
    for verb in (("cluster", "status"), ("cluster", "start"), ("publish", "a", "x"), ("doctor",)):
        done = run(*verb, "--dir", str(cluster.directory), environment=environment)
        assert done.code == 0, (verb, done.err)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        pytest.param("node = 'n1'", True, id="without"),
        pytest.param("# tls_cert = 'n1.pem'\nnode = 'n1'", True, id="in-a-comment-only"),
        pytest.param("tls_cert = 'n1.pem'", False, id="with"),
        pytest.param("node = ", False, id="no-settings"),
        pytest.param(None, False, id="no-file"),
    ],
)
def test_what_a_nodes_settings_say_decides(tmp_path: Path, text: str | None, plain: bool) -> None:
    files = Authority(tmp_path).issue("client")
    file = tmp_path / "node.toml"
    if text is not None:
        file.write_text(text)
    encryption.use(*files.paths)
    try:
        encryption.go_by(file)
        assert (encryption.context() is None) == plain
    finally:
        encryption.use(None, None, None)


def test_a_nodes_own_variables_are_its_own(node: Encrypted, tmp_path: Path) -> None:
    """One of the three may be in the environment and the others in its file."""
    file = tmp_path / "node.toml"
    file.write_text(f"node = 'n1'\ndata = 'd'\ntls_cert = '{node.client.cert}'\ntls_ca = '{node.client.ca}'\n")
    refused = run("node", "--config", str(file), environment={"LANYINGLOG_TLS_KEY": str(tmp_path / "absent")})
    assert "absent can't be read" in refused.err + refused.out.decode()


@pytest.mark.parametrize(
    "verb", [("status",), ("publish", "a", "x", "--timeout", "1"), ("doctor",)], ids=lambda v: v[0]
)
def test_without_a_certificate_the_error_says_what_may_be_missing(node: Encrypted, verb: tuple[str, ...]) -> None:
    refused = run(*verb, "--server", node.server)
    assert refused.code == 3
    assert "as a node with TLS does to who shows no certificate" in refused.err


def test_files_that_make_no_sense_are_wrong_usage(node: Encrypted, tmp_path: Path) -> None:
    some = run("--tls-cert", str(node.client.cert), "status", "--server", node.server)
    assert (some.code, "tls_key and tls_ca not set" in some.err) == (2, True)
    absent = Encrypted(node.server, TlsFiles(tmp_path / "x", node.client.key, node.client.ca))
    refused = absent.run("status", "--server", node.server)
    assert (refused.code, "x can't be read" in refused.err) == (2, True)
