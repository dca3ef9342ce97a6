"""The options that verbs share, each of which can be set in the environment, and the verb that knows how errors end.

``--some-option`` is ``LANYINGLOG_SOME_OPTION`` for every verb that has it, but for those that docs/cli.md names.
Options of ``node`` differ in how, not in what: `lanyinglog.config` reads their variables, for it has to put a file's
settings below them.

Options that exclude each other, above all ``--server`` and ``--dir``: `applies` says which of them a verb goes by. A
flag beats a variable. Two of a kind are an error, for a guess could take the wrong cluster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from lanyinglog.cli.output import exit_code, print_error
from lanyinglog.cli.streams import OutputLost
from lanyinglog.config import CLIENT_LISTEN, CLIENT_PORT, ENVIRONMENT_PREFIX, Address, parse_addresses
from lanyinglog.errors import ConfigError, LanyingError, Outcome

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Decorator = Callable[[Decorated], Decorated]


class Verb(click.Command):
    """A command that turns a `LanyingError` into a sentence on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OutputLost:
            raise  # the work may be done: see `lanyinglog.cli.run`
        except LanyingError as error:
            failure = error
        except OSError as error:
            failure = SystemFailure(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
        print_error(failure, form=ctx.params.get("form") or "auto")
        return exit_code(failure)


class SystemFailure(LanyingError):
    """The operating system refused something: a file, a directory, a socket."""

    code = "system"
    outcome = Outcome.DEFINITE
    advice = "the message is the system's"


def _parse_servers(_ctx: click.Context, param: click.Parameter, value: Any) -> tuple[Address, ...]:
    try:
        return parse_addresses("--server", value, default_port=CLIENT_PORT)
    except ConfigError as error:
        raise click.BadParameter(error.message, param=param) from error


def option(name: str, *others: str, **settings: Any) -> Decorator[Any]:
    """``click.option`` with its environment variable."""
    variable = ENVIRONMENT_PREFIX + name.removeprefix("--").upper().replace("-", "_")
    return click.option(name, *others, envvar=variable, **settings)


def applies(context: click.Context, *names: str) -> str | None:
    """Which of the parameters ``names``, that exclude each other, was given; None if none was.

    A flag beats a variable. `ConfigError` for two flags, and for two variables without a flag.
    """
    for source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
        given = [name for name in names if context.get_parameter_source(name) is source]
        if len(given) > 1:
            known = {one.name: one for one in context.command.params if isinstance(one, click.Option)}
            if source is ParameterSource.COMMANDLINE:
                raise ConfigError(f"{' and '.join(known[name].opts[0] for name in given)} exclude each other")
            variables = " and ".join(str(known[name].envvar) for name in given)
            flags = " or ".join(known[name].opts[0] for name in given)
            raise ConfigError(f"{variables} exclude each other, and both are set: unset one, or give {flags}")
        if given:
            return given[0]
    return None


def cluster_options(directory_help: str) -> Decorator[Any]:
    """``--server`` and ``--dir``, given to the verb as ``servers`` and ``directory``; None if that does not apply."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def verb(*, directory: Path | None, **rest: Any) -> Any:
            by_directory = applies(click.get_current_context(), "directory", "servers") == "directory"
            return function(directory=directory if by_directory else None, **rest)

        decorated: Callable[..., Any] = _server_option()(directory_option(required=False, help=directory_help)(verb))
        return decorated

    return decorate


def server_option() -> Decorator[Any]:
    """``--server`` and ``--dir`` for a verb that needs no more than client addresses: given to it as ``servers``."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def verb(*, directory: Path | None, servers: tuple[Address, ...], **rest: Any) -> Any:
            return function(servers=servers if directory is None else _servers_in(directory), **rest)

        decorated: Callable[..., Any] = cluster_options("The cluster's directory: all its nodes, for --server.")(verb)
        return decorated

    return decorate


def _servers_in(directory: Path) -> tuple[Address, ...]:
    from lanyinglog.cli.directory import open_cluster

    return tuple(member.client for member in open_cluster(directory).members)


def _server_option() -> Decorator[Any]:
    return option(
        "--server",
        "servers",
        callback=_parse_servers,
        default=str(CLIENT_LISTEN),
        show_default=True,
        metavar="HOST:PORT[,...]",
        help="Client addresses of the cluster; one is enough, more help when nodes are down.",
    )


def format_option(*extra: str) -> Decorator[Any]:
    """``--format``, given to the verb as ``form``."""
    return option(
        "--format",
        "form",
        type=click.Choice(["auto", "table", "json", *extra]),
        default="auto",
        show_default=True,
        help="auto: a table on a terminal, else one JSON object a line.",
    )


def timeout_option(default_s: float, what: str) -> Decorator[Any]:
    """``--timeout`` in seconds, given to the verb as ``timeout_s``."""
    return option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=default_s,
        show_default=True,
        metavar="SECONDS",
        help=what,
    )


def directory_option(*, required: bool, help: str) -> Decorator[Any]:
    """``--dir``, given to the verb as ``directory``."""
    return option("--dir", "directory", type=click.Path(path_type=Path, file_okay=False), required=required, help=help)
