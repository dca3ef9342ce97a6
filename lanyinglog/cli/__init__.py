"""The program ``lanyinglog``: its verbs, and what an ending means in words and in an exit code.

======  ==============================================================================================
code    meaning
======  ==============================================================================================
0       done; also when the reader of a pipe went away, and when ``dev`` or ``node`` was asked to stop
1       failed: definitely, or after some of it was done (the output says how much)
2       wrong usage: an option, a topic, a setting
3       the cluster can't be reached, has no quorum, or did not say how it ended
4       a check found a problem
5       standard output could not be written; what was asked for may be done
130     interrupted with Ctrl-C
143     ended with SIGTERM
======  ==============================================================================================

A verb's module is imported when the verb is called, so that ``--help`` and a short ``publish`` do not pay for the rest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

import lanyinglog
from lanyinglog.cli import encryption, output, streams
from lanyinglog.cli.options import Decorator, option
from lanyinglog.config import ENVIRONMENT_PREFIX

VERBS = {
    "demo": ("lanyinglog.cli.demo:demo", "See the promises hold: a cluster, real lines, a kill, a subscriber."),
    "dev": ("lanyinglog.cli.dev:dev", "Run a cluster in the foreground; Ctrl-C stops it."),
    "cluster": ("lanyinglog.cli.members:cluster", "Start, stop and look at a cluster in the background."),
    "node": ("lanyinglog.cli.node:node", "Run one node in the foreground."),
    "publish": ("lanyinglog.cli.publish:publish", "Publish a text, or each line of a file."),
    "subscribe": ("lanyinglog.cli.subscribe:subscribe", "Print messages as they arrive."),
    "log": ("lanyinglog.cli.log:log", "See and change what a log keeps: age, bytes, messages."),
    "topics": ("lanyinglog.cli.inspect:topics", "List topics, with messages, bytes and the newest seq."),
    "status": ("lanyinglog.cli.inspect:status", "Show each node's role, term and position."),
    "doctor": ("lanyinglog.cli.doctor:doctor", "Find what is wrong or soon will be, and what to do; exit 4."),
    "backup": ("lanyinglog.cli.backup:backup", "Copy a node's log while it runs, every entry checked."),
    "restore": ("lanyinglog.cli.backup:restore", "Make a new cluster that begins with a backup."),
    "verify": ("lanyinglog.cli.inspect:verify", "Check a data directory offline; exit 4 if it is damaged."),
}


_HELP: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""No error: a group without a verb shows its help. Before click 8.2 that was none either."""


class Program(click.Group):
    """The verbs of `VERBS`, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, summary) for name, (_, summary) in VERBS.items()])


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"lanyinglog {lanyinglog.__version__}")
        ctx.exit()


def _file_option(name: str, words: str) -> Decorator[Any]:
    return option(name, type=click.Path(path_type=Path), metavar="FILE", help=words)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Options can also be set in the environment: --server is LANYINGLOG_SERVER.",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
)
@_file_option("--tls-cert", "For a cluster that speaks TLS: the certificate to show,")
@_file_option("--tls-key", "its key,")
@_file_option("--tls-ca", "and who signs the nodes'.")
def program(tls_cert: Path | None, tls_key: Path | None, tls_ca: Path | None) -> None:
    """A Raft-replicated, ordered message log: nothing lost, nothing doubled, nothing reordered."""
    encryption.use(tls_cert, tls_key, tls_ca)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line ``arguments`` (default: this process's) and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except streams.ReaderGone:
        streams.give_up_stdout()
        return output.OK
    except streams.OutputLost as error:
        streams.give_up_stdout()
        output.print_error(error, form=_form_asked(arguments))
        return output.OUTPUT_LOST
    return code


def _run(arguments: list[str]) -> int:
    try:
        code = program.main(args=arguments, prog_name="lanyinglog", standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, _HELP):
            error.show()
            return output.USAGE
        context = getattr(error, "ctx", None)
        pieces = context.command.collect_usage_pieces(context) if context else ["--help"]
        usage = " ".join([context.command_path if context else "lanyinglog", *pieces])
        output.print_wrong_usage(error.format_message(), usage, form=_form_asked(arguments))
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return output.INTERRUPTED
    except SystemExit as ended:  # a verb that had to tell something first
        code = ended.code
    return code if isinstance(code, int) else output.OK


def _form_asked(arguments: Sequence[str]) -> str:
    """What ``--format`` is, as far as a command line tells that could not be read, or was and is done with."""
    form = os.environ.get(f"{ENVIRONMENT_PREFIX}FORMAT", "auto")
    for place, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--format":
            form = "".join(arguments[place + 1 : place + 2])
        elif argument.startswith("--format="):
            form = argument.removeprefix("--format=")
    return form


def main() -> None:
    """The console script."""
    streams.prepare()
    sys.exit(run())
