"""The verbs that only look: ``topics``, ``status`` and ``verify``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from lanyinglog.cli import output, rollcall
from lanyinglog.cli.directory import is_cluster, open_cluster
from lanyinglog.cli.options import Verb, cluster_options, format_option, server_option, timeout_option
from lanyinglog.cli.reach import connect
from lanyinglog.config import Address
from lanyinglog.errors import ConfigError

_TOPIC_COLUMNS = ("topic", "messages", "bytes", "last_seq", "last_time")


@click.command(cls=Verb)
@cluster_options("The cluster's directory, in place of --server: as `cluster status`.")
@timeout_option(rollcall.ANSWER_S, "How long a node may take to answer.")
@format_option()
def status(directory: Path | None, servers: tuple[Address, ...], timeout_s: float, form: str) -> int:
    """Show each node of the cluster: role, term, positions.

    Exit 3 without quorum; standard error says what is missing. A narrow terminal shows fewer columns.
    """
    from lanyinglog.cli.cluster import rows_of

    if directory is None:
        return rollcall.show(rollcall.roll_from(servers, timeout_s=timeout_s), form=form)
    return rollcall.show(rows_of(open_cluster(directory), timeout_s=timeout_s), form=form)


@click.command(cls=Verb)
@click.argument("filter_", metavar="[FILTER]", default=">")
@server_option()
@timeout_option(10.0, "How long to wait for an answer.")
@format_option()
def topics(filter_: str, servers: tuple[Address, ...], timeout_s: float, form: str) -> int:
    """List the topics that match FILTER, by name, with messages, bytes and the newest seq of each."""
    with connect(servers, timeout_s=timeout_s, form=form) as client:
        rows = [_topic_row(stat) for stat in client.topics(filter_)]
    output.print_rows(rows, _TOPIC_COLUMNS, form=form, empty="no topics yet", droppable=("last_seq", "bytes"))
    return output.OK


def _topic_row(stat: Any) -> dict[str, Any]:
    return {
        "topic": stat.topic,
        "messages": stat.messages,
        "bytes": stat.bytes,
        "last_seq": stat.last_seq,
        "last_timestamp": stat.last_timestamp,
        "last_time": output.local_time(stat.last_timestamp),
    }


@click.command(cls=Verb)
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False, exists=True))
@format_option()
def verify(directory: Path, form: str) -> int:
    """Check every entry of a node's data directory, or of each node of a cluster's directory, offline.

    Exit 4 if something is damaged; the output names it.
    """
    from lanyinglog.store.verify import verify as verify_data

    worst = output.OK
    for name, data in _data_directories(directory):
        report = verify_data(data)
        worst = worst if report.ok else output.PROBLEM_FOUND
        row = {"node": name, "directory": str(data), "ok": report.ok, **report.as_dict()}
        if output.is_table(form):
            _print_report(row)
        else:
            output.print_json(row)
    return worst


def _data_directories(directory: Path) -> Iterator[tuple[str | None, Path]]:
    """``(node, directory of a log)`` for whatever kind of directory this is: a cluster's, a node's, a node's data, or
    a log's. The node is None if it is not known."""
    if is_cluster(directory):
        nodes: list[tuple[str | None, Path]] = [
            (member.node, member.data) for member in open_cluster(directory).members if member.data.is_dir()
        ]
        if not nodes:
            raise ConfigError(f"{directory} is a cluster whose nodes have never run: there is no data to check")
    elif (directory / "node.toml").is_file() and (directory / "data").is_dir():
        nodes = [(directory.name, directory / "data")]
    else:
        nodes = [(None, directory)]
    for node, data in nodes:
        logs = sorted(file.parent for file in data.glob("*/data.mdb"))
        for log in logs or [data]:
            yield node, log


def _print_report(row: dict[str, Any]) -> None:
    click.echo(f"{row['node'] or row['directory']}: {'ok' if row['ok'] else 'DAMAGED'}")
    for key, value in row.items():
        if key not in ("node", "ok", "problems"):
            click.echo(f"  {key.replace('_', ' ')}: {value}")
    for problem in row.get("problems", ()):
        click.echo(f"  problem: {problem}")
