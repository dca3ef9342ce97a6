"""The options that verbs share, each of which can be set in the environment, and the verb that knows how errors end.

``--some-option`` is ``LANYINGLOG_SOME_OPTION`` for every verb that has it. Options of ``node`` differ in how, not in
what: `lanyinglog.config` reads their variables, for it has to put a file's settings below them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

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


def server_option() -> Decorator[Any]:
    """``--server``: one or more client addresses, given to the verb as ``servers``."""
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
