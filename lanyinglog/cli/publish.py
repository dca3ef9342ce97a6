"""The verb ``publish``: a text, or each line of a file, as messages.

A line goes in byte for byte, without its newline; what follows the last newline of a file counts as a line if it is
not empty. So ``subscribe --format raw`` gives back the file. Lines are read in blocks and handed on in lists: the work
for each line is a split. The text ``-`` is all of standard input as one message; it loses a newline at its end, as a
line does, so the same holds for it.

What is told at the end is what is stored (P7). So whatever ends the input, what was read before is settled first: a
line that is none, or input that can't be read, costs as long as the cluster takes; Ctrl-C and SIGTERM `SETTLE_S`, and
a second one of them nothing. What is open even then is told as such.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lanyinglog.cli import output, streams
from lanyinglog.cli.json_lines import LINE_BYTES_MAX, Parsed, from_line
from lanyinglog.cli.options import Verb, format_option, option, server_option, timeout_option
from lanyinglog.cli.reach import connect
from lanyinglog.compression import CODECS
from lanyinglog.config import Address
from lanyinglog.errors import BadBatch, BadTopic, LanyingError, Outcome
from lanyinglog.record import BATCH_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGES_MAX, pack_headers
from lanyinglog.topics import check_topic

if TYPE_CHECKING:
    from lanyinglog.client.blocking import Client, Publisher

BLOCK_BYTES = 1 << 19
"""Read at a time; from a pipe, what there is. A block of the largest message's size could hold a line that is too
large, and each line would have to be looked at."""
SETTLE_S = 2.0
"""What is on its way when a signal comes gets so long: an election, or 24 MiB of buffer and pipeline."""
_LOOK_MS = 500
"""Who waits for input looks so often whether there is still somebody to hand it on to."""
_DASH = Path("-")


def _parse_headers(_ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    headers = {}
    for text in value:
        name, equals, content = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param=param)
        headers[name] = content
    return headers


@click.command(cls=Verb)
@click.argument("topic", required=False)
@click.argument("text", required=False)
@option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    help="Each line of this file is a message; - is standard input.",
)
@option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    help="Each line is a message as subscribe --format json prints it, to its own topic or to TOPIC.",
)
@option(
    "--batch",
    type=click.IntRange(1, MESSAGES_MAX),
    help=f"Messages a batch at most.  [as many as {BATCH_BYTES_MAX >> 20} MiB hold]",
)
@option("--key", help="The key of each message.")
@option("--header", "headers", multiple=True, callback=_parse_headers, metavar="NAME=VALUE", help="May be repeated.")
@option("--compress", type=click.Choice(sorted(CODECS)), default="none", show_default=True, help="For each batch.")
@server_option()
@timeout_option(30.0, "How long there may be no acknowledgement.")
@format_option()
def publish(
    topic: str | None,
    text: str | None,
    file: Path | None,
    json_file: Path | None,
    batch: int | None,
    key: str | None,
    headers: Mapping[str, str],
    compress: str,
    servers: tuple[Address, ...],
    timeout_s: float,
    form: str,
) -> int:
    """Publish TEXT, or each line of --file, to TOPIC, in order, each once, and say what was acknowledged.

    The TEXT - is all of standard input as one message; without TEXT and --file each line of it is one, unless it is a
    terminal. Acknowledged means: on the disks of a majority of the nodes.
    """
    file, json_file = _not_beaten(text=text, file=file, json_file=json_file)
    _check_usage(topic, text, file, json_file, has_own=key is not None or bool(headers))
    key_bytes = None if key is None else os.fsencode(key)
    if json_file is not None:
        return _publish_json(json_file, topic, batch, compress, servers, timeout_s=timeout_s, form=form)
    assert topic is not None
    room = _room(topic, key_bytes, headers)
    if text is not None:
        payload = os.fsencode(text) if text != str(_DASH) else _read_payload(room)
    with connect(servers, timeout_s=timeout_s, form=form) as client:
        if text is not None:
            return _publish_one(client, topic, payload, key=key_bytes, headers=headers, form=form)
        publisher = _publisher(client, batch, compress)
        if key_bytes is None and not headers:
            send: Callable[[Sequence[bytes]], None] = lambda lines: publisher.send_many(topic, lines)  # noqa: E731
        else:

            def send(lines: Sequence[bytes]) -> None:
                for line in lines:
                    publisher.send(topic, line, key=key_bytes, headers=headers)

        return _publish_lines(publisher, send, file or _DASH, room, form=form)


def _not_beaten(*, text: str | None, file: Path | None, json_file: Path | None) -> tuple[Path | None, Path | None]:
    """``file`` and ``json_file``, without what a variable says if the command line says what to publish."""
    source = click.get_current_context().get_parameter_source
    said = {name for name in ("text", "file", "json_file") if source(name) is ParameterSource.COMMANDLINE}
    if text is None:
        said.discard("text")
    return (file if "file" in said or not said else None, json_file if "json_file" in said or not said else None)


def _check_usage(
    topic: str | None, text: str | None, file: Path | None, json_file: Path | None, *, has_own: bool
) -> None:
    if json_file is not None:
        if text is not None or file is not None or has_own:
            raise click.UsageError("--json brings payload, key and headers: no TEXT, --file, --key or --header with it")
        return
    if topic is None:
        raise click.UsageError("give a TOPIC")
    if (text is not None and file is not None) or (text is None and file is None and os.isatty(streams.STDIN)):
        raise click.UsageError("give either a TEXT or a --file (- is standard input)")


def _publish_json(
    file: Path,
    topic: str | None,
    batch: int | None,
    compress: str,
    servers: tuple[Address, ...],
    *,
    timeout_s: float,
    form: str,
) -> int:
    numbers = itertools.count(1)
    with connect(servers, timeout_s=timeout_s, form=form) as client:
        publisher = _publisher(client, batch, compress)

        def send(lines: Sequence[bytes]) -> None:
            for line, number in zip(lines, numbers, strict=False):  # in this order: no number is lost
                if line.strip():
                    send_one(number, from_line(line, number))

        def send_one(number: int, parsed: Parsed) -> None:
            to = topic or parsed.topic
            if to is None:
                raise BadBatch(f"line {number} is no message: it has no topic, and no TOPIC was given")
            try:
                publisher.send(to, parsed.payload, key=parsed.key, headers=parsed.headers)
            except (BadTopic, BadBatch) as error:
                raise BadBatch(f"line {number}: {error.message}") from error

        return _publish_lines(publisher, send, file, LINE_BYTES_MAX, form=form)


def _publisher(client: Client, batch: int | None, compress: str) -> Publisher:
    compression = None if compress == "none" else compress
    return client.publisher(batch_messages=batch or MESSAGES_MAX, compression=compression)


def _room(topic: str, key: bytes | None, headers: Mapping[str, str]) -> int:
    """The bytes that a payload may have beside ``topic``, ``key`` and ``headers``. `BadTopic`, `BadBatch`."""
    packed = pack_headers(headers) if headers else b""
    return MESSAGE_BYTES_MAX - len(check_topic(topic).encode()) - len(key or b"") - len(packed)


def _publish_one(
    client: Client, topic: str, payload: bytes, *, key: bytes | None, headers: Mapping[str, str], form: str
) -> int:
    began = time.monotonic()
    ack = client.publish(topic, payload, key=key, headers=headers)
    _print_ending(1, ack.seq, ack.seq, time.monotonic() - began, form=form)
    return output.OK


def _publish_lines(
    publisher: Publisher, send: Callable[[Sequence[bytes]], None], file: Path, room: int, *, form: str
) -> int:
    """Whatever ends it, SIGTERM too, the output says how much is acknowledged, and how much else may be stored."""
    began = time.monotonic()

    def tell_ending() -> None:
        seconds, unknown = time.monotonic() - began, publisher.unknown
        _print_ending(publisher.acknowledged, publisher.first_seq, publisher.last_seq, seconds, unknown, form=form)

    with _ended_by_sigterm():
        try:
            with _progress(publisher, file) as tell, publisher:
                _send_all(publisher, send, read_lines(file, room, publisher.raise_failure), tell)
        except BaseException as error:
            if isinstance(error, LanyingError) and publisher.unknown:
                error.outcome = Outcome.UNKNOWN  # of the whole, whatever is known of the batch that failed
            try:
                tell_ending()
            except (streams.OutputLost, streams.ReaderGone):
                streams.give_up_stdout()  # what went wrong before counts more
            raise
        tell_ending()
    return output.OK


def _send_all(
    publisher: Publisher,
    send: Callable[[Sequence[bytes]], None],
    blocks: Iterable[tuple[Sequence[bytes], int]],
    tell: Callable[[int], None],
) -> None:
    """Returns when all is acknowledged. What ends it before is raised once what was sent is settled."""
    try:
        try:
            for lines, read_bytes in blocks:
                send(lines)
                tell(read_bytes)
        except (BadBatch, OSError):
            publisher.flush()  # what is before it is in order
            raise
        publisher.flush()
        tell(0)
    except (KeyboardInterrupt, SystemExit):
        with suppress(TimeoutError, LanyingError):  # what is open is told, and the signal counts more
            publisher.flush_within(SETTLE_S)
        raise


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the program as Ctrl-C does, with what there is to tell; a second one without waiting for anything,
    a third one at once."""

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, last)
        raise SystemExit(output.TERMINATED)

    def last(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(output.TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# -------------------------------------------------------------------------------------------------------------- input
def _read_payload(room: int) -> bytes:
    """All of standard input, without a newline at its end. `BadBatch` if that is more than ``room`` bytes."""
    pieces: list[bytes] = []
    size = 0
    while size <= room + 1 and (piece := _read(streams.STDIN)):
        pieces.append(piece)
        size += len(piece)
    payload = b"".join(pieces).removesuffix(b"\n")
    if len(payload) > room:
        raise _too_long("standard input", size, room, ended=False)
    return payload


def _nothing_to_see() -> None:
    pass


def read_lines(
    file: Path, room: int, look: Callable[[], None] = _nothing_to_see
) -> Iterator[tuple[Sequence[bytes], int]]:
    """Lists of lines of ``file`` without their newlines, each with the bytes read for it; from a pipe as they come.
    ``look`` is called now and then while nothing comes; what it raises ends the wait.

    Raises `BadBatch` for a line of more than ``room`` bytes, behind those before it, and without looking for its end.
    """
    descriptor = streams.STDIN if file == _DASH else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    rest: list[bytes] = []  # pieces of a line whose end has not come
    rest_bytes = number = 0
    try:
        while block := _read(descriptor, look):
            *lines, last = block.split(b"\n")
            if lines:
                lines[0] = b"".join([*rest, lines[0]])
                fitting = lines
                if rest_bytes + len(block) > room:
                    fitting = list(takewhile(lambda line: len(line) <= room, lines))
                rest, rest_bytes = [], 0
                number += len(fitting)
                yield fitting, len(block)
                if len(fitting) < len(lines):
                    raise _too_long(f"line {number + 1}", len(lines[len(fitting)]), room, ended=True)
            rest.append(last)
            rest_bytes += len(last)
            if rest_bytes > room:
                raise _too_long(f"line {number + 1}", rest_bytes, room, ended=False)
        if rest_bytes:
            yield [b"".join(rest)], 0
    finally:
        if file != _DASH:
            os.close(descriptor)


def _read(descriptor: int, look: Callable[[], None] = _nothing_to_see) -> bytes:
    """What there is; waits for it, also if another program that has the stream made it non-blocking."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    try:
        while True:
            while not poll.poll(_LOOK_MS):
                look()
            with suppress(BlockingIOError):
                return os.read(descriptor, BLOCK_BYTES)
    except OSError as error:
        if descriptor == streams.STDIN:
            error.filename = "standard input"
        raise


def _too_long(what: str, size: int, room: int, *, ended: bool) -> BadBatch:
    return BadBatch(
        f"{what} has {size} bytes{'' if ended else ' or more'}; at most {max(0, room)} are allowed, for a message is at"
        f" most {MESSAGE_BYTES_MAX} with its topic, key and headers"
    )


# ------------------------------------------------------------------------------------------------------------- output
def _print_ending(
    acknowledged: int, first_seq: int | None, last_seq: int | None, seconds: float, unknown: int = 0, *, form: str
) -> None:
    place = "" if last_seq is None else f", seq {first_seq:,}" + ("" if last_seq == first_seq else f" to {last_seq:,}")
    told = f"{acknowledged:,} acknowledged{place}"
    open_end = f"; {unknown:,} more have an unknown outcome: they may be stored" if unknown else ""
    row = {"acknowledged": acknowledged, "first_seq": first_seq, "last_seq": last_seq, "seconds": round(seconds, 6)}
    try:
        if output.is_table(form):
            rate = f", {acknowledged / seconds:,.0f}/s" if acknowledged > 1 and seconds > 0 else ""
            click.echo(f"{told}, in {seconds:.3g} s{rate}{open_end}")
        else:
            output.print_json({**row, "unknown": unknown} if unknown else row)
    except streams.OutputLost as error:
        raise streams.OutputLost(f"{error.message}; {told}{open_end}") from error


@contextmanager
def _progress(publisher: Publisher, file: Path) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal; the function given is told of bytes read."""
    if not sys.stderr.isatty():
        yield lambda read_bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    total = None if file == _DASH else file.stat().st_size or None
    columns: list[Any] = [
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[acknowledged]:,} acknowledged"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("publish", total=total, acknowledged=0)
        yield lambda read_bytes: bar.update(task, advance=read_bytes, acknowledged=publisher.acknowledged)
