"""Which cluster a verb goes to: flags, variables, and what is said when nobody is there."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from real_programs import Cluster, run

import lanyinglog
from lanyinglog.cli import program, reach
from lanyinglog.cli import run as run_here
from lanyinglog.errors import Unavailable

NOBODY = "127.0.0.1:1"
VERBS_OF_A_CLUSTER = {
    "publish": ["publish", "a", "x"],
    "subscribe": ["subscribe", "a", "--from", "first", "--until", "last"],
    "topics": ["topics"],
    "status": ["status"],
    "doctor": ["doctor"],
    "log info": ["log", "info"],
    "log set": ["log", "set", "--no-max-age"],
    "log purge": ["log", "purge", "nothing", "--yes"],
    "cluster transfer": ["cluster", "transfer"],
    "cluster add": ["cluster", "add", "n9", "--peer", NOBODY],
    "cluster remove": ["cluster", "remove", "n9"],
}
each_verb = pytest.mark.parametrize("words", VERBS_OF_A_CLUSTER.values(), ids=VERBS_OF_A_CLUSTER)


@each_verb
def test_a_flag_beats_a_variable(cluster: Cluster, words: list[str]) -> None:
    environment = {"LANYINGLOG_DIR": str(cluster.directory)}
    done = run(*words, "--server", NOBODY, "--timeout", "0.3", environment=environment)
    assert done.code == 3, done
    assert NOBODY in done.err


@each_verb
def test_two_of_a_kind_are_an_error(cluster: Cluster, words: list[str]) -> None:
    directory = str(cluster.directory)
    flags = run(*words, "--server", NOBODY, "--dir", directory)
    assert (flags.code, flags.out) == (2, b"") and "--dir and --server exclude each other" in flags.err
    variables = run(*words, environment={"LANYINGLOG_DIR": directory, "LANYINGLOG_SERVER": NOBODY})
    assert (variables.code, variables.out) == (2, b"")
    assert "LANYINGLOG_DIR and LANYINGLOG_SERVER exclude each other" in variables.err


@pytest.mark.parametrize("verb", ["publish", "subscribe", "topics", "status", "log info", "doctor", "cluster transfer"])
def test_a_directory_names_the_cluster(cluster: Cluster, verb: str) -> None:
    words, directory = VERBS_OF_A_CLUSTER[verb], str(cluster.directory)
    flag = run(*words, "--dir", directory, environment={"LANYINGLOG_SERVER": NOBODY})
    variable = run(*words, environment={"LANYINGLOG_DIR": directory})
    assert {flag.code, variable.code} <= ({0, 4} if verb == "doctor" else {0}), (flag, variable)
    assert flag.out or verb == "subscribe"


def test_a_directory_names_all_its_nodes(cluster: Cluster) -> None:
    first = cluster.status().rows[0]
    os.kill(first["pid"], signal.SIGKILL)
    try:
        alone = run("publish", "a", "x", "--server", first["client"], "--timeout", "0.5")
        assert alone.code == 3 and "name more of the nodes with --server" in alone.err
        assert run("publish", "a", "x", "--dir", str(cluster.directory)).code == 0
        status = run("status", "--dir", str(cluster.directory))
        assert status.code == 0 and "n1" in status.err
        assert [row["node"] for row in status.rows] == ["n1", "n2", "n3"]
    finally:
        assert cluster.start().code == 0


@pytest.mark.parametrize(
    ("flag", "variable"),
    [("--data", "LANYINGLOG_DIR"), ("--dir", "LANYINGLOG_DATA")],
    ids=["data beats LANYINGLOG_DIR", "dir beats LANYINGLOG_DATA"],
)
def test_a_backup_goes_by_the_flag(cluster: Cluster, tmp_path: Path, flag: str, variable: str) -> None:
    source = cluster.directory / "n1" / "data" if flag == "--data" else cluster.directory
    target = str(tmp_path / "backup")
    done = run("backup", target, flag, str(source), environment={variable: "/does/not/exist"})
    assert done.code == 0, done.err
    made = run("restore", target, "--dir", str(tmp_path / "new"), "--port", str(cluster.port + 10),
               environment={"LANYINGLOG_DATA": "/does/not/exist"})  # fmt: skip
    assert made.code == 0, made.err
    assert (tmp_path / "new" / "cluster.json").is_file()


def test_a_backup_of_two_places_is_none(tmp_path: Path) -> None:
    both = {"LANYINGLOG_DIR": str(tmp_path), "LANYINGLOG_DATA": str(tmp_path)}
    done = run("backup", str(tmp_path / "b"), environment=both)
    assert done.code == 2 and "LANYINGLOG_DIR and LANYINGLOG_DATA exclude each other" in done.err
    server = run("backup", str(tmp_path / "b"), "--dir", str(tmp_path), "--server", NOBODY)
    assert server.code == 2 and "--server goes with --data" in server.err


# ---------------------------------------------------------------------------------------------------- nobody answers
def test_silence_is_told_once_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reach, "SILENCE_S", 0.2)
    assert run_here(["topics", "--server", NOBODY, "--timeout", "2"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("no answer so far") == 1
    assert said.err.index("no answer so far") < said.err.index("no node answered within 2 s")
    assert said.err.count(f"only {NOBODY} was asked: name more of the nodes with --server") == 2
    assert run_here(["topics", "--server", NOBODY, "--timeout", "1", "--format", "json"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "--server" in json.loads(line)["advice"]


def test_who_named_several_is_not_told_to_name_more() -> None:
    done = run("topics", "--server", f"{NOBODY},127.0.0.1:2", "--timeout", "0.3")
    assert done.code == 3
    assert Unavailable.advice in done.err and "name more" not in done.err


@dataclass
class Answering:
    """Stands for a client that finds out, look by look."""

    looks: Iterator[str | None]
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def unanswered(self) -> str | None:
        try:
            return next(self.looks)
        except StopIteration:
            self.ended.set()
            return ""


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        (["", "", "", "", "", ""], 0),
        (["refused", "refused", None, "refused", "refused", "refused"], 0),
        (["", "", "refused", "refused", "refused", "refused"], 1),
    ],
    ids=["nothing to do yet", "an answer in time", "none"],
)
def test_only_silence_is_told(
    looks: list[str | None], told: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reach, "_LOOK_S", 0.001)
    monkeypatch.setattr(reach, "SILENCE_S", 0.003)
    client = Answering(iter(looks))
    reach._watch(client, client.ended, "words")  # type: ignore[arg-type]
    assert capsys.readouterr().err.count("no answer so far") == told


def test_a_client_knows_whether_a_server_has_answered(cluster: Cluster) -> None:
    with lanyinglog.sync.connect(cluster.server) as client:
        assert client.unanswered == ""
        client.topics()
        assert client.unanswered is None
    with lanyinglog.sync.connect(NOBODY, timeout=0.3) as client:
        with pytest.raises(Unavailable):
            client.topics()
        assert NOBODY in (client.unanswered or "")


# --------------------------------------------------------------------------------------------------------- documented
def _commands(group: click.Group, context: click.Context) -> Iterator[click.Command]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, context)
        else:
            yield command


def test_the_options_without_a_variable_are_documented() -> None:
    context = click.Context(program)
    found = set()
    for command in _commands(program, context):
        if command.name != "node":  # whose variables `lanyinglog.config` reads
            found |= {
                option.opts[0]
                for option in command.params
                if isinstance(option, click.Option) and option.envvar is None
            }
    text = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()
    sentence = re.search(r"These have no variable: (.*?)\.\s", text, re.S)
    assert sentence, "docs/cli.md says which options have no variable"
    assert found == set(re.findall(r"`(--[a-z-]+)", sentence[1]))
