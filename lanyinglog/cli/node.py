"""The verb ``node``: one node in the foreground, from a settings file, flags or both."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from lanyinglog.cli.options import Decorator, Verb, option
from lanyinglog.cli.processes import claim, end_with_parent
from lanyinglog.config import NodeConfig, load_node_config
from lanyinglog.errors import ConfigError


def _setting(name: str, key: str, **settings: Any) -> Decorator[Any]:
    """An option whose environment variable `lanyinglog.config` reads."""
    return click.option(name, key, default=None, **settings)


def _limits(pairs: tuple[str, ...]) -> dict[str, str]:
    limits = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--limit must be NAME=NUMBER, not {pair!r}")
        limits[key] = value
    return limits


@click.command(cls=Verb)
@option("--config", "file", type=click.Path(path_type=Path, dir_okay=False), help="Settings in TOML.")
@_setting("--id", "node", metavar="ID", help="This node's name: a-z 0-9 -")
@_setting("--data", "data", metavar="DIR", help="Its data directory.")
@_setting("--client-listen", "client_listen", metavar="H:P", help="Where clients connect.  [127.0.0.1:7420]")
@_setting("--peer-listen", "peer_listen", metavar="H:P", help="Where peers connect.  [its own address in --peers]")
@_setting("--peers", "peers", metavar="ID=H:P,...", help="Peer addresses of all members, this one included.")
@_setting("--join", "join", is_flag=True, help="This node is new: it waits to be added to a cluster that runs.")
@_setting(
    "--clients",
    "clients",
    metavar="ID=H:P,...",
    help="Where clients reach members; its own it tells all.  [--client-listen]",
)
@_setting("--metrics-listen", "metrics_listen", metavar="H:P", help="Where /metrics and /ready are.  [nowhere]")
@_setting("--cluster", "cluster", metavar="NAME", help="Nodes of another cluster are turned away.")
@_setting(
    "--secret-file", "secret_file", metavar="FILE", help="What peers must know to be heard; a must beyond loopback."
)
@_setting("--tls-cert", "tls_cert", metavar="FILE", help="Client and peer port speak TLS: this node's certificate,")
@_setting("--tls-key", "tls_key", metavar="FILE", help="its key,")
@_setting("--tls-ca", "tls_ca", metavar="FILE", help="and who signs the certificates of nodes and clients.")
@_setting("--heartbeat", "heartbeat_s", metavar="SECONDS", help="[0.1]")
@_setting("--election-timeout", "election_timeout_s", metavar="SECONDS", help="[1.0]")
@_setting("--log-format", "log_format", metavar="FORMAT", help="text, json, or auto: text on a terminal.  [auto]")
@click.option("--limit", "limits", multiple=True, metavar="NAME=N", help="Overrule a limit, e.g. connections_max=50.")
@click.option(
    "--i-accept-an-open-unencrypted-port",
    "i_accept_an_open_unencrypted_port",
    is_flag=True,
    default=None,
    help="Allow addresses beyond loopback: anybody who reaches the port can read and write.",
)
def node(file: Path | None, limits: tuple[str, ...], **flags: Any) -> int:
    """Run one node in the foreground until SIGTERM or Ctrl-C.

    Settings come from --config, then LANYINGLOG_<KEY> (docs/settings.md), then the flags.
    """
    config = load_node_config(file, environ=os.environ, flags={**flags, **_limits(limits)})
    return run_node(config)


def run_node(config: NodeConfig) -> int:
    """Runs the node as the one process that does; returns its exit code."""
    end_with_parent(os.environ)
    with claim(config.data, node=config.node):
        from lanyinglog.node import run

        return run(config)
