"""The verbs ``log info``, ``log set`` and ``log purge``: what a log keeps, and changing that.

Limits as people write them: ages ``90s 30m 12h 7d 8w``, sizes ``64MB 256MiB 1.5GB`` (MB is 10^6 bytes, MiB 2^20).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import click

from lanyinglog.cli import output
from lanyinglog.cli.options import Decorator, Verb, format_option, option, server_option, timeout_option
from lanyinglog.cli.reach import connect
from lanyinglog.config import Address
from lanyinglog.errors import ConfigError

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_BYTES: dict[str, int] = {"": 1, "B": 1, **{f"{p}B": 1000**n for n, p in enumerate("kMGT", 1)}}
_BYTES |= {"KB": 1000, **{f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)}}
_COLUMNS = ("limit", "keeps", "has")


def parse_age(text: str) -> int:
    """Seconds in ``text``. `ConfigError`."""
    found = re.fullmatch(r"([0-9]{1,12})([smhdw])", text.strip())
    if not found:
        raise ConfigError(f"--max-age must be a number and one of s m h d w, as in 7d, not {text!r}")
    return int(found[1]) * _SECONDS[found[2]]


def parse_size(text: str) -> int:
    """Bytes in ``text``. `ConfigError`."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]{0,3})", text.strip())
    if not found or found[2] not in _BYTES:
        raise ConfigError(f"--max-bytes must be a size such as 256MB or 1GiB, not {text!r}")
    return round(float(found[1]) * _BYTES[found[2]])


def parse_count(text: str) -> int:
    """A number of messages. `ConfigError`."""
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()):
        raise ConfigError(f"--max-messages must be a number, not {text!r}")
    return int(text)


@click.group(context_settings={"max_content_width": 100})
def log() -> None:
    """See and change what a log keeps."""


@log.command(cls=Verb)
@server_option()
@timeout_option(10.0, "How long to wait for the leader.")
@format_option()
def info(servers: tuple[Address, ...], timeout_s: float, form: str) -> int:
    """Show what the log keeps and what it has, as its leader sees it."""
    with connect(servers, timeout_s=timeout_s, form=form) as client:
        _print(client.log_info(), form)
    return output.OK


def _limit(name: str, what: str) -> Decorator[Any]:
    """``--max-NAME VALUE`` and ``--no-max-NAME``."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        none = click.option(f"--no-max-{name}", is_flag=True, help=f"No limit of {what}.")
        limited: Callable[..., Any] = option(f"--max-{name}", help=f"Limit of {what}.")(none(function))
        return limited

    return decorate


@log.command(name="set", cls=Verb)
@_limit("age", "age, as in 7d: older messages go")
@_limit("bytes", "size, as in 256MB: the oldest messages go")
@_limit("messages", "number: the oldest messages go")
@server_option()
@timeout_option(10.0, "How long to wait for the leader.")
@format_option()
def set_limits(servers: tuple[Address, ...], timeout_s: float, form: str, **limits: Any) -> int:
    """Change what the log keeps, on all nodes; limits that are not named stay.

    What a limit excludes is given up at once and for good.
    """
    changes = _changes(limits)
    with connect(servers, timeout_s=timeout_s, form=form) as client:
        _print(client.set_retention(**changes), form)
    return output.OK


@log.command(cls=Verb)
@click.argument("filter", metavar="FILTER")
@click.option("--yes", is_flag=True, help="Do not ask.")
@server_option()
@timeout_option(10.0, "How long to wait for the leader.")
@format_option()
def purge(filter: str, yes: bool, servers: tuple[Address, ...], timeout_s: float, form: str) -> int:
    """Have nobody read any more what the topics that match FILTER have so far.

    Other topics and the numbers of all messages stay as they are. The space comes back when retention trims that far.
    """
    with connect(servers, timeout_s=timeout_s, form=form) as client:
        stats = client.topics(filter)
        messages = sum(stat.messages for stat in stats)
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigError(
                    f"{messages} messages of {len(stats)} topics would be gone for good: confirm with --yes"
                )
            click.confirm(f"Purge {messages} messages of {len(stats)} topics for good?", abort=True, err=True)
        _print(client.purge(filter), form)
    return output.OK


def _changes(limits: dict[str, Any]) -> dict[str, int | None]:
    from lanyinglog.machine.retention import BOUNDS

    parsers: dict[str, tuple[str, Callable[[str], int]]] = {
        "age": ("age_s", parse_age),
        "bytes": ("bytes", parse_size),
        "messages": ("messages", parse_count),
    }
    changes: dict[str, int | None] = {}
    for name, (key, parse) in parsers.items():
        given, none = limits[f"max_{name}"], limits[f"no_max_{name}"]
        if given is not None and none:
            raise ConfigError(f"--max-{name} and --no-max-{name} exclude each other")
        if given is not None:
            limit = changes[key] = parse(given)
            low, high = BOUNDS[key]
            if not low <= limit <= high:
                shown = (_duration(low), _duration(high)) if name == "age" else (low, high)
                raise ConfigError(f"--max-{name} must be {shown[0]} to {shown[1]}, not {given}")
        elif none:
            changes[key] = None
    if not changes:
        raise ConfigError("nothing to change: give --max-age, --max-bytes, --max-messages or their --no- forms")
    return changes


def _print(info: dict[str, Any], form: str) -> None:
    if not output.is_table(form):
        output.print_json(info)
        return
    age = info["max_age_s"]
    rows = [
        {"limit": "age", "keeps": None if age is None else _duration(age), "has": None},
        {"limit": "bytes", "keeps": _size(info["max_bytes"]), "has": _size(info["bytes"])},
        {"limit": "messages", "keeps": info["max_messages"], "has": info["messages"]},
    ]
    output.print_table(rows, _COLUMNS)
    output.note(f"seq {info['first_seq']} to {info['last_seq']}; the leader's file has {_size(info['file_bytes'])}")
    if info.get("problem"):
        output.note(f"the leader can't remove old entries: {info['problem']}")


def _duration(seconds: int) -> str:
    unit = next(unit for unit in reversed(_SECONDS) if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def _size(size: int | None) -> str | None:
    if size is None:
        return None
    for unit in ("TB", "GB", "MB", "kB"):
        if size >= _BYTES[unit]:
            return f"{size / _BYTES[unit]:.4g}{unit}"
    return f"{size}B"
