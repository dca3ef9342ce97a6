"""Messages, runs and batches: the bytes a producer makes, and a broker stores and forwards unread.

A **batch** is what one publish request carries and the unit of atomicity (P3) and of deduplication (P4): a fixed
header, then one or more **runs**. A run is the messages of one topic in sending order, encoded as columns and, if
the producer likes, compressed. The broker looks at the headers alone (`parse_batch`): per batch it costs some
microseconds, per message nothing. A run carries its own CRC32C, so it can be forwarded alone, byte for byte, and a
subscriber checks what the producer wrote.

All integers are little-endian. Layout of a batch::

    0   1   version, 1
    1   1   flags, 0
    2   2   number of runs, 1 to RUNS_MAX
    4   16  producer id
    20  8   batch number, from 1, rising by one
    28  4   messages in all runs
    32  4   CRC32C of bytes 0..32 and then of the CRC32C field of each run, in order
    36  ..  the runs

and of a run::

    0   4   length of the rest of the run
    4   4   CRC32C of all that follows
    8   1   kind, 1
    9   1   codec of the body (`compression`): 0 none, 1 zstd, 2 lz4
    10  2   length T of the topic
    12  4   number of messages N, 1 to MESSAGES_MAX
    16  4   length of the body once decompressed; in all runs of a batch at most DECODED_BYTES_MAX
    20  T   topic, UTF-8
    ..      body

and of a decompressed body::

    0   1   columns: 1 = keys, 2 = headers
    1   4N  length of each payload
    ..  4N  length of each key, 0xFFFFFFFF for none          (only with column 1)
    ..  4N  length of each header map, 0 for none            (only with column 2)
    ..      payloads, then keys, then header maps (msgpack, str -> str)

Columns and not one message after the other, because one `struct` call then reads all lengths: about a third of
the cost of a msgpack message in Python.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import google_crc32c

from lanyinglog import codec
from lanyinglog.compression import CODEC_NONE, CODEC_NUMBERS, compress, decompress
from lanyinglog.errors import BadBatch, LanyingError, ProtocolError
from lanyinglog.topics import check_topic

BATCH_BYTES_MAX = 1 << 20
"""A batch, encoded. One message must fit: see `MESSAGE_BYTES_MAX`."""
MESSAGES_MAX = 65_536
"""Messages a batch may hold."""
RUNS_MAX = 1_024
"""Runs (topics) a batch may hold."""
DECODED_BYTES_MAX = 64 << 20
"""The bodies of a batch's runs once decompressed, together: what a subscriber must be ready to hold. Without it a
batch of 1 MiB could unfold to 10 GiB, a run at a time."""

_BATCH = struct.Struct("<BBH16sQI")  # and a CRC32C
_RUN = struct.Struct("<BBHII")  # behind length and CRC32C
_SKIMMED = struct.Struct("<I6xHI")  # of a run: its length, that of its topic, and its messages
_PAIR = struct.Struct("<II")
_U32 = struct.Struct("<I")
_BATCH_AND_CRC = struct.Struct("<BBH16sQII")
_PAIR_AND_RUN = struct.Struct("<IIBBHII")
_SINGLE = struct.Struct("<BBH16sQIIIIBBHII")  # a batch of one run: both headers
_SKIMMED_SINGLE = struct.Struct("<2xH16sQI4xI6xHI")  # the same, as in `_SKIMMED`
BATCH_HEADER_BYTES = _BATCH.size + _U32.size
RUN_HEADER_BYTES = _PAIR.size + _RUN.size
MESSAGE_BYTES_MAX = BATCH_BYTES_MAX - BATCH_HEADER_BYTES - RUN_HEADER_BYTES - 1 - 3 * 4
"""Topic, payload, key and headers (packed) of a message together: with a flag byte and three lengths they fill a
batch."""
_KIND_RUN = 1
_NO_KEY = 0xFFFF_FFFF
_COLUMN_KEYS = 1
_COLUMN_HEADERS = 2
_SINGLE_TOPIC_AT = _SINGLE.size
_SINGLE_CRC_AT = BATCH_HEADER_BYTES + 4  # that of the run
_SINGLE_CHECKED_AT = _SINGLE_CRC_AT + 4

crc32c = google_crc32c.value


class OutgoingMessage(NamedTuple):
    """A message on its way in: ``payload`` and ``key`` are bytes, ``headers`` a str -> str map."""

    payload: bytes
    key: bytes | None = None
    headers: Mapping[str, str] | None = None


class Message(NamedTuple):
    """A message as a subscriber sees it. ``timestamp`` is nanoseconds since the epoch, unique in the log."""

    seq: int
    timestamp: int
    topic: str
    key: bytes | None
    headers: Mapping[str, str]
    payload: bytes


# Not frozen, as what is made for each batch of each entry on each node: that would cost three times as much.
@dataclass(slots=True)
class RunView:
    """Where a run lies in its batch: bytes ``start`` to ``stop``, header included."""

    topic: str
    count: int
    start: int
    stop: int


@dataclass(slots=True)
class BatchView:
    """A batch as the broker sees it: headers parsed, messages not. ``encoded`` is forwarded as it is."""

    producer: bytes
    number: int
    count: int
    runs: tuple[RunView, ...]
    encoded: bytes


RunParts = tuple[bytes, bytes]
"""An encoded run: all but its body, and its body, so that a large one is copied once less."""
SkimmedRun = tuple[str, int, int, int]
"""Topic, messages, start and stop of a run in an entry. A plain tuple, for each node makes one for each batch."""


# ------------------------------------------------------------------------------------------------ producer's side
def encode_run(topic: str, messages: Sequence[OutgoingMessage], *, compression: int = CODEC_NONE) -> bytes:
    """``messages`` (at least one) of one ``topic`` as a run. Raises `BadTopic`, `BadBatch`."""
    return encode_columns(
        topic,
        [message.payload for message in messages],
        [message.key for message in messages],
        [message.headers for message in messages],
        compression=compression,
    )


def encode_columns(
    topic: str,
    payloads: Sequence[bytes],
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[Mapping[str, str] | None] | None = None,
    *,
    lengths: Sequence[int] | None = None,
    compression: int = CODEC_NONE,
) -> bytes:
    """`encode_in_parts`, put together."""
    parts = encode_in_parts(topic, payloads, keys, headers, lengths=lengths, compression=compression)
    return b"".join(parts)


def encode_in_parts(
    topic: str,
    payloads: Sequence[bytes],
    keys: Sequence[bytes | None] | None = None,
    headers: Sequence[Mapping[str, str] | None] | None = None,
    *,
    lengths: Sequence[int] | None = None,
    compression: int = CODEC_NONE,
) -> RunParts:
    """Like `encode_run`, in parts, for who has columns already: ``keys`` and ``headers`` are as long as ``payloads``,
    or None where no message has any. ``lengths`` are those of the payloads, if they are known: thousands of payloads do
    not fit the processor's cache, and each look at them costs as much as the copy."""
    check_topic(topic)
    if not 1 <= len(payloads) <= MESSAGES_MAX:
        raise BadBatch(f"a run of {len(payloads)} messages; 1 to {MESSAGES_MAX} are allowed")
    body = _encode_body(payloads, keys, headers, list(map(len, payloads)) if lengths is None else lengths)
    decoded_bytes = len(body)
    if decoded_bytes > DECODED_BYTES_MAX:
        raise BadBatch(f"a run of {decoded_bytes} bytes; at most {DECODED_BYTES_MAX} are allowed")
    body = compress(compression, body)
    name = topic.encode()
    head = _RUN.pack(_KIND_RUN, compression, len(name), len(payloads), decoded_bytes) + name
    crc = google_crc32c.extend(crc32c(head), body)
    return _PAIR.pack(len(head) + len(body) + 4, crc) + head, body


def _encode_body(
    payloads: Sequence[bytes],
    keys: Sequence[bytes | None] | None,
    headers: Sequence[Mapping[str, str] | None] | None,
    payload_lengths: Sequence[int],
) -> bytes:
    columns = 0
    lengths = array("I", payload_lengths)
    tail: list[bytes] = []
    if keys is not None and any(key is not None for key in keys):
        columns |= _COLUMN_KEYS
        lengths.extend([_NO_KEY if key is None else len(key) for key in keys])
        tail += [key for key in keys if key]
    if headers is not None and any(headers):
        columns |= _COLUMN_HEADERS
        maps = [pack_headers(one) if one else b"" for one in headers]
        lengths.extend(map(len, maps))
        tail += maps
    if sys.byteorder == "big":
        lengths.byteswap()
    return b"".join([bytes((columns,)), lengths.tobytes(), *payloads, *tail])


def pack_headers(headers: Mapping[str, str]) -> bytes:
    """A message's ``headers`` as they lie in a run; `BadBatch` for any that no subscriber would read back."""
    if len(headers) > codec.MAP_KEYS_MAX:
        raise BadBatch(f"{len(headers)} headers; at most {codec.MAP_KEYS_MAX} are allowed")
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in headers.items()):
        raise BadBatch("headers map str to str")
    try:
        packed = codec.pack(dict(headers))
    except UnicodeEncodeError as error:
        raise BadBatch(f"a header is not valid Unicode: {error}") from error
    if len(packed) > codec.VALUE_BYTES_MAX:
        raise BadBatch(f"headers of {len(packed)} bytes; at most {codec.VALUE_BYTES_MAX} are allowed")
    return packed


def encode_batch(producer: bytes, number: int, runs: Sequence[bytes | RunParts]) -> bytes:
    """``runs`` (from `encode_run` or `encode_in_parts`) as one batch of ``producer`` (16 bytes). Raises `BadBatch` when
    over a limit."""
    if len(producer) != 16:
        raise BadBatch(f"a producer id has 16 bytes, not {len(producer)}")
    if number < 1:
        raise BadBatch(f"batch numbers start at 1, got {number}")
    if not 1 <= len(runs) <= RUNS_MAX:
        raise BadBatch(f"a batch of {len(runs)} runs; 1 to {RUNS_MAX} are allowed")
    heads = [run if isinstance(run, bytes) else run[0] for run in runs]
    count = sum(_U32.unpack_from(head, 12)[0] for head in heads)
    if count > MESSAGES_MAX:
        raise BadBatch(f"a batch of {count} messages; at most {MESSAGES_MAX} are allowed")
    decoded_bytes = sum(decoded_bytes_of(head) for head in heads)
    if decoded_bytes > DECODED_BYTES_MAX:
        raise BadBatch(f"a batch of {decoded_bytes} decoded bytes; at most {DECODED_BYTES_MAX} are allowed")
    header = _BATCH.pack(1, 0, len(runs), producer, number, count)
    parts = [part for run in runs for part in ((run,) if isinstance(run, bytes) else run)]
    total = BATCH_HEADER_BYTES + sum(map(len, parts))
    if total > BATCH_BYTES_MAX:
        raise BadBatch(f"a batch of {total} bytes; at most {BATCH_BYTES_MAX} are allowed")
    return b"".join([header, _U32.pack(crc32c(header + b"".join(head[4:8] for head in heads))), *parts])


# -------------------------------------------------------------------------------------------------- broker's side
def parse_batch(encoded: bytes) -> BatchView:
    """The headers of a batch, every bound and every CRC32C checked; `BadBatch` names what is wrong."""
    stop = len(encoded)
    if not _SINGLE_TOPIC_AT <= stop <= BATCH_BYTES_MAX:
        return _parse_runs(encoded)
    # One look at both headers of a batch of one run, as small ones are. Whatever is not as it should be is left to
    # `_parse_runs`, which knows what to say about it.
    version, flags, runs, producer, number, count, crc, *of_run = _SINGLE.unpack_from(encoded)
    length, run_crc, kind, run_codec, topic_bytes, messages, size = of_run
    body_at = _SINGLE_TOPIC_AT + topic_bytes
    if (
        (version, flags, runs, kind) != (1, 0, 1, _KIND_RUN)
        or number < 1
        or not 1 <= count == messages <= MESSAGES_MAX
        or run_codec not in CODEC_NUMBERS
        or size > DECODED_BYTES_MAX
        or not body_at <= stop == BATCH_HEADER_BYTES + 4 + length
        or crc32c(encoded[_SINGLE_CHECKED_AT:]) != run_crc
        or crc32c(encoded[: _BATCH.size] + encoded[_SINGLE_CRC_AT:_SINGLE_CHECKED_AT]) != crc
    ):
        return _parse_runs(encoded)
    topic = _parse_topic(encoded[_SINGLE_TOPIC_AT:body_at])
    return BatchView(producer, number, count, (RunView(topic, count, BATCH_HEADER_BYTES, stop),), encoded)


def _parse_runs(encoded: bytes) -> BatchView:
    """`parse_batch`, run by run."""
    if not BATCH_HEADER_BYTES <= len(encoded) <= BATCH_BYTES_MAX:
        raise BadBatch(f"a batch of {len(encoded)} bytes; {BATCH_HEADER_BYTES} to {BATCH_BYTES_MAX} are allowed")
    version, flags, run_count, producer, number, count, crc = _BATCH_AND_CRC.unpack_from(encoded)
    if version != 1 or flags != 0:
        raise BadBatch(f"batch version {version} with flags {flags}; this node knows version 1 without flags")
    if not 1 <= run_count <= RUNS_MAX or number < 1:
        raise BadBatch(f"a batch of {run_count} runs with number {number}")
    runs = []
    checks = [encoded[: _BATCH.size]]
    messages = decoded_bytes = 0
    at = BATCH_HEADER_BYTES
    for _ in range(run_count):
        run, decoded = _parse_run(encoded, at)
        checks.append(encoded[at + 4 : at + 8])
        messages += run.count
        decoded_bytes += decoded
        runs.append(run)
        at = run.stop
    if at != len(encoded):
        raise BadBatch(f"{len(encoded) - at} bytes behind the last run")
    if crc32c(b"".join(checks)) != crc:
        raise BadBatch("the batch fails its CRC32C")
    if messages != count or count > MESSAGES_MAX:
        raise BadBatch(f"the batch counts {count} messages, its runs {messages}")
    if decoded_bytes > DECODED_BYTES_MAX:
        raise BadBatch(f"a batch of {decoded_bytes} decoded bytes; at most {DECODED_BYTES_MAX} are allowed")
    return BatchView(producer, number, count, tuple(runs), encoded)


def decoded_bytes_of(encoded: bytes, at: int = 0) -> int:
    """What the header of the run at ``at`` says of its body once decompressed."""
    decoded: int = _U32.unpack_from(encoded, at + 16)[0]
    return decoded


def _parse_run(encoded: bytes, at: int) -> tuple[RunView, int]:
    """The run whose header starts at ``at``, and its decoded bytes; its body is checked by CRC32C, not looked into."""
    if at + RUN_HEADER_BYTES > len(encoded):
        raise BadBatch("a run's header is cut off")
    length, crc, kind, run_codec, topic_bytes, count, decoded_bytes = _PAIR_AND_RUN.unpack_from(encoded, at)
    stop = at + 4 + length
    if length < RUN_HEADER_BYTES - 4 or stop > len(encoded):
        raise BadBatch(f"a run of {length} bytes does not fit its batch")
    if crc32c(encoded[at + 8 : stop]) != crc:
        raise BadBatch("a run fails its CRC32C")
    if kind != _KIND_RUN or run_codec not in CODEC_NUMBERS:
        raise BadBatch(f"a run of unknown kind {kind} or codec {run_codec}")
    if not 1 <= count <= MESSAGES_MAX or decoded_bytes > DECODED_BYTES_MAX:
        raise BadBatch(f"a run of {count} messages and {decoded_bytes} decoded bytes")
    body_at = at + RUN_HEADER_BYTES + topic_bytes
    if body_at > stop:
        raise BadBatch("a run's topic is cut off")
    topic = _parse_topic(encoded[at + RUN_HEADER_BYTES : body_at])
    return RunView(topic, count, at, stop), decoded_bytes


@lru_cache(maxsize=4096)
def _parse_topic(name: bytes) -> str:
    try:
        return check_topic(name.decode())
    except (UnicodeDecodeError, LanyingError) as error:
        raise BadBatch(f"a run's topic: {error}") from error


def skim_batch(encoded: bytes, at: int, stop: int) -> tuple[bytes, int, Sequence[SkimmedRun]]:
    """Producer, number and runs of a batch inside checked bytes (an entry's CRC32C covers it): offsets are into
    ``encoded``, no CRC again."""
    if stop - at >= _SINGLE_TOPIC_AT:
        run_count, producer, number, _, length, topic_bytes, messages = _SKIMMED_SINGLE.unpack_from(encoded, at)
        run_at = at + BATCH_HEADER_BYTES
        if run_count == 1 and run_at + 4 + length == stop:
            at += _SINGLE_TOPIC_AT
            return producer, number, ((encoded[at : at + topic_bytes].decode(), messages, run_at, stop),)
    _, _, run_count, producer, number, _ = _BATCH.unpack_from(encoded, at)
    at += BATCH_HEADER_BYTES
    runs = []
    for _ in range(run_count):
        length, topic_bytes, messages = _SKIMMED.unpack_from(encoded, at)
        topic = encoded[at + RUN_HEADER_BYTES : at + RUN_HEADER_BYTES + topic_bytes].decode()
        runs.append((topic, messages, at, at + 4 + length))
        at += 4 + length
    assert at == stop, "a stored batch has the length that was checked when it came in"
    return producer, number, runs


# ---------------------------------------------------------------------------------------------- subscriber's side
def decode_run(run: bytes | memoryview, *, first_seq: int, timestamp: int) -> list[Message]:
    """The messages of a run: message *i* has ``first_seq + i`` and ``timestamp + i``. `BadBatch` if damaged."""
    run = bytes(run)
    view, decoded_bytes = _parse_run(run, 0)
    if view.stop != len(run):
        raise BadBatch(f"{len(run) - view.stop} bytes behind a run")
    topic_bytes = _RUN.unpack_from(run, 8)[2]
    body = decompress(run[9], run[RUN_HEADER_BYTES + topic_bytes :], decoded_bytes)
    try:
        return _decode_body(body, view, first_seq, timestamp)
    except struct.error as error:
        raise BadBatch(f"a run's columns are cut off: {error}") from error


def _decode_body(body: bytes, view: RunView, first_seq: int, timestamp: int) -> list[Message]:
    count = view.count
    if not body:
        raise BadBatch("a run has no body")
    columns = body[0]
    if columns & ~(_COLUMN_KEYS | _COLUMN_HEADERS):
        raise BadBatch(f"a run with unknown columns {columns:#x}")
    at = 1
    lengths = struct.unpack_from(f"<{count}I", body, at)
    at += 4 * count
    key_lengths: Sequence[int] = ()
    header_lengths: Sequence[int] = ()
    if columns & _COLUMN_KEYS:
        key_lengths = struct.unpack_from(f"<{count}I", body, at)
        at += 4 * count
    if columns & _COLUMN_HEADERS:
        header_lengths = struct.unpack_from(f"<{count}I", body, at)
        at += 4 * count
    ends = list(accumulate(lengths, initial=at))
    payloads = [body[start:stop] for start, stop in pairwise(ends)]
    at = ends[-1]
    keys: Iterable[bytes | None] = [None] * count
    if key_lengths:
        keys, at = _slices(body, at, [None if length == _NO_KEY else length for length in key_lengths])
    maps: Iterable[Mapping[str, str]] = [{}] * count
    if header_lengths:
        packed, at = _slices(body, at, [length or None for length in header_lengths])
        maps = [{} if one is None else _decode_headers(one) for one in packed]
    if at != len(body):
        raise BadBatch(f"a run's columns add up to {at} bytes, its body has {len(body)}")
    topic = view.topic
    return list(
        map(
            Message._make,
            zip(
                range(first_seq, first_seq + count),
                range(timestamp, timestamp + count),
                [topic] * count,
                keys,
                maps,
                payloads,
                strict=True,
            ),
        )
    )


def _decode_headers(packed: bytes) -> dict[str, str]:
    try:
        headers = codec.unpack_map(packed)
    except ProtocolError as error:
        raise BadBatch(f"a message's headers: {error}") from error
    if not all(isinstance(value, str) for value in headers.values()):
        raise BadBatch("a message's headers map str to something else than str")
    return headers


def _slices(body: bytes, at: int, lengths: Sequence[int | None]) -> tuple[list[bytes | None], int]:
    out: list[bytes | None] = []
    for length in lengths:
        if length is None:
            out.append(None)
        else:
            out.append(body[at : at + length])
            at += length
    return out, at
