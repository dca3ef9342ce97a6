"""The verb ``subscribe``: messages as they arrive, for people, for programs, or as they went in.

JSON: ``seq, timestamp, topic, key, headers, payload``; bytes that are no UTF-8 text are ``key_b64`` and
``payload_b64`` instead. Raw: the payload and a newline, nothing else.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

import click

from lanyinglog.cli import output
from lanyinglog.cli.json_lines import to_line
from lanyinglog.cli.options import Verb, format_option, option, server_option, timeout_option
from lanyinglog.cli.positions import parse_start
from lanyinglog.cli.reach import connect
from lanyinglog.cli.streams import reader_watched
from lanyinglog.config import Address
from lanyinglog.record import Message

if TYPE_CHECKING:
    from lanyinglog.client.blocking import Subscription


def _parse_until(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | int | None:
    if value is None or value == "last":
        return value
    if re.fullmatch(r"[0-9]{1,19}", value) and 1 <= int(value) < 1 << 63:
        return int(value)
    raise click.BadParameter(f"{value!r} is neither last nor a seq", param=param)


@click.command(cls=Verb)
@click.argument("filters", nargs=-1, required=True, metavar="FILTER...")
@option("--from", "start", default="new", show_default=True, metavar="first|new|SEQ|TIME", help="Where to begin.")
@option("--until", callback=_parse_until, metavar="last|SEQ", help="Where to end; last: at what is the newest now.")
@option("--count", type=click.IntRange(1), help="End after so many messages.")
@server_option()
@timeout_option(30.0, "How long no node may be of use.")
@format_option("raw")
def subscribe(
    filters: tuple[str, ...],
    start: str,
    until: str | int | None,
    count: int | None,
    servers: tuple[Address, ...],
    timeout_s: float,
    form: str,
) -> int:
    """Print the messages of all topics that match a FILTER (orders.*, orders.>, >), in order, each once.

    TIME is ISO-8601, nanoseconds, or a time ago such as -5m. A node that goes away is replaced by another one.
    """
    place = parse_start(start, now_ns=time.time_ns())
    write = _writer(form)
    with (
        connect(servers, timeout_s=timeout_s, form=form) as client,
        reader_watched(),
        client.subscribe(
            list(filters),
            start=place.word or place.seq or "first",
            start_timestamp=place.timestamp,
            until=until,
        ) as subscription,
    ):
        try:
            _print_all(subscription, write, count)
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                output.note(f"\nto go on here: --from {subscription.next_seq}")
            raise
    return output.OK


def _print_all(subscription: Subscription, write: Callable[[list[Message]], None], count: int | None) -> None:
    for messages in subscription.batches():
        if count is not None:
            messages = messages[:count]
            count -= len(messages)
        write(messages)
        if count == 0:
            return


def _writer(form: str) -> Callable[[list[Message]], None]:
    """Prints a list of messages, and flushes: whoever reads the pipe sees them now."""
    line = {"raw": _raw_line, "table": _terminal_line, "json": to_line}[
        ("table" if output.is_table(form) else "json") if form == "auto" else form
    ]

    def write(messages: list[Message]) -> None:
        sys.stdout.buffer.write(b"".join(map(line, messages)))
        sys.stdout.buffer.flush()

    return write


def _raw_line(message: Message) -> bytes:
    return message.payload + b"\n"


def _terminal_line(message: Message) -> bytes:
    """One line whatever is in it: control characters would let a message write over the screen."""
    shown = [f"{message.seq:>10}  {_clock(message.timestamp)}  {message.topic}"]
    if message.key is not None:
        shown.append(f"[{_visible(message.key)}]")
    shown += [f"{_visible(name.encode())}={_visible(value.encode())}" for name, value in message.headers.items()]
    shown.append(_visible(message.payload))
    return ("  ".join(shown) + "\n").encode(errors="replace")


def _clock(timestamp: int) -> str:
    return f"{datetime.fromtimestamp(timestamp // 1_000_000_000):%H:%M:%S}.{timestamp // 1_000_000 % 1000:03}"


def _visible(value: bytes) -> str:
    return "".join(_visible_characters(value.decode(errors="backslashreplace")))


def _visible_characters(text: str) -> Iterable[str]:
    return (one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
