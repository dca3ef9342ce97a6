"""Messages, runs and batches: they come back as they were made, and no damage or lie passes."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Mapping

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from lz4 import block as lz4_block

from lanyinglog import codec
from lanyinglog.compression import CODEC_LZ4, CODEC_NONE, CODEC_ZSTD, CODECS
from lanyinglog.errors import BadBatch, BadTopic
from lanyinglog.record import (
    BATCH_BYTES_MAX,
    BATCH_HEADER_BYTES,
    DECODED_BYTES_MAX,
    MESSAGES_MAX,
    RUN_HEADER_BYTES,
    RUNS_MAX,
    Message,
    OutgoingMessage,
    crc32c,
    decode_run,
    encode_batch,
    encode_columns,
    encode_run,
    parse_batch,
    skim_batch,
)

PRODUCER = bytes(range(16))
TOPICS = st.sampled_from(["a", "orders.eu.paris", "日本"])
HEADERS = st.none() | st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4)
MESSAGES = st.lists(
    st.builds(OutgoingMessage, st.binary(max_size=64), st.none() | st.binary(max_size=16), HEADERS),
    min_size=1,
    max_size=12,
)
RUNS = st.lists(st.tuples(TOPICS, MESSAGES, st.sampled_from(sorted(CODECS.values()))), min_size=1, max_size=5)


def encode(runs: list[tuple[str, list[OutgoingMessage], int]], number: int = 1) -> bytes:
    encoded = [encode_run(topic, messages, compression=compression) for topic, messages, compression in runs]
    return encode_batch(PRODUCER, number, encoded)


def expected(topic: str, messages: list[OutgoingMessage], first_seq: int, timestamp: int) -> list[Message]:
    return [
        Message(first_seq + place, timestamp + place, topic, one.key, dict(one.headers or {}), one.payload)
        for place, one in enumerate(messages)
    ]


# ------------------------------------------------------------------------------------------------------ there and back
@settings(deadline=None)
@given(RUNS, st.integers(1, (1 << 64) - 1))
def test_a_batch_comes_back_as_it_was(runs: list[tuple[str, list[OutgoingMessage], int]], number: int) -> None:
    batch = parse_batch(encode(runs, number))
    assert (batch.producer, batch.number) == (PRODUCER, number)
    assert batch.count == sum(len(messages) for _, messages, _ in runs)
    assert [(run.topic, run.count) for run in batch.runs] == [(topic, len(messages)) for topic, messages, _ in runs]
    for view, (topic, messages, _) in zip(batch.runs, runs, strict=True):
        decoded = decode_run(batch.encoded[view.start : view.stop], first_seq=7, timestamp=1_000)
        assert decoded == expected(topic, messages, 7, 1_000)


@given(RUNS, st.binary(max_size=40), st.binary(max_size=40))
def test_a_batch_inside_an_entry_is_skimmed_as_it_was_parsed(
    runs: list[tuple[str, list[OutgoingMessage], int]], before: bytes, behind: bytes
) -> None:
    encoded = encode(runs)
    parsed = parse_batch(encoded)
    producer, number, skimmed = skim_batch(before + encoded + behind, len(before), len(before) + len(encoded))
    assert (producer, number) == (parsed.producer, parsed.number)
    moved = [(topic, count, start - len(before), stop - len(before)) for topic, count, start, stop in skimmed]
    assert moved == [(run.topic, run.count, run.start, run.stop) for run in parsed.runs]


def test_columns_and_messages_make_the_same_run() -> None:
    messages = [OutgoingMessage(b"1"), OutgoingMessage(b"", b"", {}), OutgoingMessage(b"3", b"k", {"h": "v"})]
    columns = encode_columns("t", [b"1", b"", b"3"], [None, b"", b"k"], [None, {}, {"h": "v"}])
    assert encode_run("t", messages) == columns


def test_an_empty_key_is_not_the_same_as_none() -> None:
    run = encode_run("t", [OutgoingMessage(b"", b""), OutgoingMessage(b"", None)])
    assert [message.key for message in decode_run(run, first_seq=1, timestamp=1)] == [b"", None]


@pytest.mark.parametrize("compression", [CODEC_LZ4, CODEC_ZSTD])
def test_compression_makes_a_repetitive_run_smaller(compression: int) -> None:
    messages = [OutgoingMessage(b"a line of a log, " * 8)] * 100
    assert len(encode_run("t", messages, compression=compression)) * 20 < len(encode_run("t", messages))


# -------------------------------------------------------------------------------------------------------------- damage
SMALL_BATCH = encode(
    [
        ("orders.eu", [OutgoingMessage(b"one", b"k", {"h": "v"}), OutgoingMessage(b"two")], CODEC_NONE),
        ("z", [OutgoingMessage(b"three" * 20)], CODEC_ZSTD),
    ]
)
SINGLE_BATCH = encode([("orders.eu", [OutgoingMessage(b"one", b"k", {"h": "v"})], CODEC_NONE)])
SMALL_RUN = encode_run("orders.eu", [OutgoingMessage(b"one", b"k", {"h": "v"}), OutgoingMessage(b"two")])


@pytest.mark.parametrize("at", range(len(SMALL_BATCH)))
def test_every_flip_of_a_byte_of_a_batch_is_found(at: int) -> None:
    for mask in (*(1 << bit for bit in range(8)), 0xFF):
        damaged = bytearray(SMALL_BATCH)
        damaged[at] ^= mask
        with pytest.raises(BadBatch):
            parse_batch(bytes(damaged))


@pytest.mark.parametrize("at", range(len(SINGLE_BATCH)))
def test_every_flip_of_a_byte_of_a_batch_of_one_run_is_found(at: int) -> None:
    for mask in (*(1 << bit for bit in range(8)), 0xFF):
        damaged = bytearray(SINGLE_BATCH)
        damaged[at] ^= mask
        with pytest.raises(BadBatch):
            parse_batch(bytes(damaged))


@pytest.mark.parametrize("at", range(len(SMALL_RUN)))
def test_every_flip_of_a_byte_of_a_run_is_found(at: int) -> None:
    for mask in (*(1 << bit for bit in range(8)), 0xFF):
        damaged = bytearray(SMALL_RUN)
        damaged[at] ^= mask
        with pytest.raises(BadBatch):
            decode_run(bytes(damaged), first_seq=1, timestamp=1)


@pytest.mark.parametrize("length", range(len(SMALL_BATCH)))
def test_a_torn_batch_is_refused(length: int) -> None:
    with pytest.raises(BadBatch):
        parse_batch(SMALL_BATCH[:length])


@pytest.mark.parametrize("length", range(len(SMALL_RUN)))
def test_a_torn_run_is_refused(length: int) -> None:
    with pytest.raises(BadBatch):
        decode_run(SMALL_RUN[:length], first_seq=1, timestamp=1)


@pytest.mark.parametrize("length", range(len(SINGLE_BATCH)))
def test_a_torn_batch_of_one_run_is_refused(length: int) -> None:
    with pytest.raises(BadBatch):
        parse_batch(SINGLE_BATCH[:length])


def test_junk_behind_a_batch_or_a_run_is_refused() -> None:
    with pytest.raises(BadBatch, match="behind the last run"):
        parse_batch(SINGLE_BATCH + b"\0")
    with pytest.raises(BadBatch, match="behind the last run"):
        parse_batch(SMALL_BATCH + b"\0")
    with pytest.raises(BadBatch, match="behind a run"):
        decode_run(SMALL_RUN + b"\0", first_seq=1, timestamp=1)


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_junk_is_no_batch_and_no_run(junk: bytes) -> None:
    with pytest.raises(BadBatch):
        parse_batch(junk)
    with pytest.raises(BadBatch):
        decode_run(junk, first_seq=1, timestamp=1)


def test_runs_in_another_order_are_another_batch() -> None:
    runs = [encode_run("a", [OutgoingMessage(b"1")]), encode_run("b", [OutgoingMessage(b"2")])]
    batch = encode_batch(PRODUCER, 1, runs)
    with pytest.raises(BadBatch, match="CRC32C"):
        parse_batch(batch[:BATCH_HEADER_BYTES] + runs[1] + runs[0])


# ---------------------------------------------------------------------------- lies whose checksums are all in order
def make_run(
    body: bytes,
    *,
    kind: int = 1,
    compression: int = CODEC_NONE,
    topic: bytes = b"t",
    topic_bytes: int | None = None,
    count: int = 1,
    decoded_bytes: int | None = None,
) -> bytes:
    """A run of any content with a CRC32C that is right."""
    size = len(body) if decoded_bytes is None else decoded_bytes
    length = len(topic) if topic_bytes is None else topic_bytes
    rest = struct.pack("<BBHII", kind, compression, length, count, size) + topic + body
    return struct.pack("<II", len(rest) + 4, crc32c(rest)) + rest


def make_batch(
    runs: list[bytes],
    *,
    version: int = 1,
    flags: int = 0,
    run_count: int | None = None,
    number: int = 1,
    count: int | None = None,
) -> bytes:
    """A batch of any content with a CRC32C that is right."""
    messages = sum(struct.unpack_from("<I", run, 12)[0] for run in runs) if count is None else count
    head = struct.pack(
        "<BBH16sQI", version, flags, len(runs) if run_count is None else run_count, PRODUCER, number, messages
    )
    return head + struct.pack("<I", crc32c(head + b"".join(run[4:8] for run in runs))) + b"".join(runs)


def body_of(*payloads: bytes, columns: int = 0, more: bytes = b"", tail: bytes = b"") -> bytes:
    lengths = struct.pack(f"<{len(payloads)}I", *map(len, payloads))
    return bytes([columns]) + lengths + more + b"".join(payloads) + tail


ONE = make_run(body_of(b"x"))
U32 = struct.Struct("<I").pack

LYING_BATCHES = {
    "version 0": make_batch([ONE], version=0),
    "version 2": make_batch([ONE], version=2),
    "a flag": make_batch([ONE], flags=1),
    "number 0": make_batch([ONE], number=0),
    "no runs": make_batch([]),
    "one run more than there are": make_batch([ONE], run_count=2),
    "one run less than there are": make_batch([ONE, ONE], run_count=1),
    "65,535 runs": make_batch([ONE], run_count=0xFFFF),
    "more runs than allowed": make_batch([ONE] * (RUNS_MAX + 1)),
    "one message more than there are": make_batch([ONE], count=2),
    "no messages": make_batch([make_run(b"\0", count=0)]),
    "more messages in a run than allowed": make_batch([make_run(b"\0", count=MESSAGES_MAX + 1)]),
    "more messages in all runs than allowed": make_batch([make_run(b"\0", count=MESSAGES_MAX), ONE]),
    "a body that unfolds too far": make_batch([make_run(b"\0", decoded_bytes=DECODED_BYTES_MAX + 1)]),
    "bodies that together unfold too far": make_batch([make_run(b"\0", decoded_bytes=DECODED_BYTES_MAX), ONE]),
    "an unknown kind of run": make_batch([make_run(body_of(b"x"), kind=2)]),
    "an unknown codec": make_batch([make_run(body_of(b"x"), compression=3)]),
    "a topic longer than the run": make_batch([make_run(body_of(b"x"), topic_bytes=0xFFFF)]),
    "a topic cut off": make_batch([make_run(b"", topic_bytes=2)]),
    "an empty topic": make_batch([make_run(body_of(b"x"), topic=b"")]),
    "a topic that is a filter": make_batch([make_run(body_of(b"x"), topic=b"a.*")]),
    "a topic with a control character": make_batch([make_run(body_of(b"x"), topic=b"a\x1b[2J")]),
    "a topic that is not UTF-8": make_batch([make_run(body_of(b"x"), topic=b"\xff")]),
    "a run that announces 4 GiB": make_batch([b"\xff\xff\xff\xff" + ONE[4:]]),
    "a run that announces less than its head": make_batch([b"\x0f\0\0\0" + ONE[4:]]),
    "a run that announces nothing": make_batch([b"\0\0\0\0" + ONE[4:]]),
    "more bytes than allowed": make_batch([make_run(body_of(bytes(BATCH_BYTES_MAX)))]),
}


@pytest.mark.parametrize("encoded", LYING_BATCHES.values(), ids=LYING_BATCHES)
def test_a_batch_that_lies_is_refused_though_its_checksums_fit(encoded: bytes) -> None:
    with pytest.raises(BadBatch):
        parse_batch(encoded)


def test_the_batches_that_lie_are_good_but_for_the_lie() -> None:
    assert parse_batch(make_batch([ONE, ONE])).count == 2
    assert parse_batch(make_batch([ONE] * RUNS_MAX)).count == RUNS_MAX
    assert parse_batch(make_batch([make_run(b"\0", count=MESSAGES_MAX)])).count == MESSAGES_MAX
    assert parse_batch(make_batch([make_run(b"\0", decoded_bytes=DECODED_BYTES_MAX)])).count == 1
    largest = make_run(body_of(bytes(BATCH_BYTES_MAX - BATCH_HEADER_BYTES - RUN_HEADER_BYTES - 1 - 5)))
    assert len(parse_batch(make_batch([largest])).encoded) == BATCH_BYTES_MAX


def zstd(body: bytes, *, write_content_size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=write_content_size).compress(body)


def lz4(body: bytes) -> bytes:
    packed: bytes = lz4_block.compress(body, store_size=False)
    return packed


BODY = body_of(b"x" * 50)
LYING_RUNS = {
    "no body": make_run(b""),
    "an unknown column": make_run(body_of(b"x", columns=4)),
    "lengths cut off": make_run(b"\0\1\0"),
    "fewer lengths than messages": make_run(b"\0" + U32(0), count=3),
    "a payload longer than the body": make_run(b"\0" + U32(9) + b"x"),
    "a payload of 4 GiB": make_run(b"\0" + U32(0xFFFF_FFFF) + b"x"),
    "payloads that leave bytes over": make_run(body_of(b"x", tail=b"y")),
    "a key column cut off": make_run(body_of(b"x", columns=1)),
    "a key longer than the body": make_run(body_of(b"x", columns=1, more=U32(5))),
    "a key of almost 4 GiB": make_run(body_of(b"x", columns=1, more=U32(0xFFFF_FFFE))),
    "a header column cut off": make_run(body_of(b"x", columns=2)),
    "headers that are no msgpack": make_run(body_of(b"x", columns=2, more=U32(1), tail=b"\xc1")),
    "headers that are no map": make_run(body_of(b"x", columns=2, more=U32(1), tail=b"\x01")),
    "a header that is no text": make_run(body_of(b"x", columns=2, more=U32(4), tail=b"\x81\xa1h\x01")),
    "a header's name that is no text": make_run(body_of(b"x", columns=2, more=U32(4), tail=b"\x81\x01\xa1v")),
    "headers longer than the body": make_run(body_of(b"x", columns=2, more=U32(9), tail=b"\x80")),
    "a decoded length that is not the body's": make_run(body_of(b"x"), decoded_bytes=7),
    "a body that is no zstd": make_run(BODY, compression=CODEC_ZSTD),
    "a torn zstd frame": make_run(zstd(BODY)[:-3], compression=CODEC_ZSTD, decoded_bytes=len(BODY)),
    "junk behind a zstd frame": make_run(zstd(BODY) + b"!", compression=CODEC_ZSTD, decoded_bytes=len(BODY)),
    "two zstd frames": make_run(zstd(BODY) * 2, compression=CODEC_ZSTD, decoded_bytes=len(BODY)),
    "a zstd frame without its size": make_run(
        zstd(BODY, write_content_size=False), compression=CODEC_ZSTD, decoded_bytes=len(BODY)
    ),
    "zstd of nothing": make_run(zstd(b""), compression=CODEC_ZSTD, decoded_bytes=0),
    "zstd of another size": make_run(zstd(BODY), compression=CODEC_ZSTD, decoded_bytes=len(BODY) + 1),
    "a body that is no lz4": make_run(BODY, compression=CODEC_LZ4),
    "a torn lz4 block": make_run(lz4(BODY)[:-3], compression=CODEC_LZ4, decoded_bytes=len(BODY)),
    "junk behind an lz4 block": make_run(lz4(BODY) + b"!", compression=CODEC_LZ4, decoded_bytes=len(BODY)),
    "two lz4 blocks": make_run(lz4(BODY) * 2, compression=CODEC_LZ4, decoded_bytes=2 * len(BODY)),
    "no lz4 block at all": make_run(b"", compression=CODEC_LZ4, decoded_bytes=0),
    "an lz4 block of nothing": make_run(lz4(b""), compression=CODEC_LZ4, decoded_bytes=0),
    "lz4 that is longer than it says": make_run(lz4(BODY), compression=CODEC_LZ4, decoded_bytes=len(BODY) - 1),
    "lz4 that is shorter than it says": make_run(lz4(BODY), compression=CODEC_LZ4, decoded_bytes=len(BODY) + 1),
    "lz4 that can't be as long as it says": make_run(lz4(BODY), compression=CODEC_LZ4, decoded_bytes=DECODED_BYTES_MAX),
    "zstd that calls itself lz4": make_run(zstd(BODY), compression=CODEC_LZ4, decoded_bytes=len(BODY)),
    "lz4 that calls itself zstd": make_run(lz4(BODY), compression=CODEC_ZSTD, decoded_bytes=len(BODY)),
    "a decompression bomb": make_run(
        zstd(bytes(DECODED_BYTES_MAX + 1)), compression=CODEC_ZSTD, decoded_bytes=DECODED_BYTES_MAX + 1
    ),
}


@pytest.mark.parametrize("run", LYING_RUNS.values(), ids=LYING_RUNS)
def test_a_run_that_lies_is_refused_though_its_checksum_fits(run: bytes) -> None:
    with pytest.raises(BadBatch):
        decode_run(run, first_seq=1, timestamp=1)


def test_the_runs_that_lie_are_good_but_for_the_lie() -> None:
    good = make_run(body_of(b"x", columns=3, more=U32(1) + U32(5), tail=b"k\x81\xa1h\xa1v"))
    assert decode_run(good, first_seq=3, timestamp=9) == [Message(3, 9, "t", b"k", {"h": "v"}, b"x")]
    for body, compression in ((zstd(BODY), CODEC_ZSTD), (lz4(BODY), CODEC_LZ4)):
        packed = make_run(body, compression=compression, decoded_bytes=len(BODY))
        assert decode_run(packed, first_seq=3, timestamp=9)[0].payload == b"x" * 50


BOMBS = {
    "differ about the decoded length": make_run(
        zstd(bytes(DECODED_BYTES_MAX)), compression=CODEC_ZSTD, decoded_bytes=1_000
    ),
    "can't have": make_run(lz4(BODY), compression=CODEC_LZ4, decoded_bytes=DECODED_BYTES_MAX),
    "add up": make_run(b"\0" + U32(0xFFFF_FFF0) * 1_000, count=1_000),
}
"""Why each is refused."""


@pytest.mark.parametrize("why", BOMBS)
def test_a_bomb_is_refused_before_it_takes_memory(why: str) -> None:
    assert len(BOMBS[why]) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(BadBatch, match=why):
            decode_run(BOMBS[why], first_seq=1, timestamp=1)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_best_that_lz4_can_do_is_believed() -> None:
    payload = bytes(DECODED_BYTES_MAX - 5)
    run = encode_columns("t", [payload], compression=CODEC_LZ4)
    assert len(run) * 250 < len(payload)
    assert decode_run(run, first_seq=1, timestamp=1)[0].payload == payload


# -------------------------------------------------------------------------------------------- what a producer may make
def test_a_producer_is_told_what_a_broker_would_refuse() -> None:
    run = encode_run("t", [OutgoingMessage(b"x")])
    full = encode_columns("t", [b""] * MESSAGES_MAX, compression=CODEC_ZSTD)
    unfolds = encode_columns("t", [bytes(DECODED_BYTES_MAX - 5)], compression=CODEC_ZSTD)
    with pytest.raises(BadBatch, match="16 bytes"):
        encode_batch(b"short", 1, [run])
    with pytest.raises(BadBatch, match="start at 1"):
        encode_batch(PRODUCER, 0, [run])
    with pytest.raises(BadBatch, match="runs"):
        encode_batch(PRODUCER, 1, [])
    with pytest.raises(BadBatch, match="runs"):
        encode_batch(PRODUCER, 1, [run] * (RUNS_MAX + 1))
    with pytest.raises(BadBatch, match="65537 messages"):
        encode_batch(PRODUCER, 1, [full, run])
    with pytest.raises(BadBatch, match="decoded bytes"):
        encode_batch(PRODUCER, 1, [unfolds, run])
    with pytest.raises(BadBatch, match="at most 1048576"):
        encode_batch(PRODUCER, 1, [encode_run("t", [OutgoingMessage(bytes(BATCH_BYTES_MAX))])])
    for good in (run, full, unfolds):
        assert parse_batch(encode_batch(PRODUCER, 1, [good])).runs


def test_a_run_has_1_to_65536_messages() -> None:
    with pytest.raises(BadBatch):
        encode_run("t", [])
    with pytest.raises(BadBatch):
        encode_columns("t", [b""] * (MESSAGES_MAX + 1))


def test_a_run_unfolds_to_no_more_than_64_mib() -> None:
    with pytest.raises(BadBatch):
        encode_columns("t", [bytes(DECODED_BYTES_MAX - 4)], compression=CODEC_ZSTD)


def test_a_run_needs_a_topic_and_a_known_codec() -> None:
    with pytest.raises(BadTopic):
        encode_run("a.*", [OutgoingMessage(b"x")])
    with pytest.raises(BadBatch, match="codec"):
        encode_run("a", [OutgoingMessage(b"x")], compression=3)


BAD_HEADERS: dict[str, Mapping[str, str]] = {
    "a value that is no text": {"h": 1},  # type: ignore[dict-item]
    "a name that is no text": {b"h": "v"},  # type: ignore[dict-item]
    "a lone surrogate": {"h": "\ud800"},
    "too many": {str(number): "" for number in range(codec.MAP_KEYS_MAX + 1)},
    "too large": {"h": "v" * codec.VALUE_BYTES_MAX},
}


@pytest.mark.parametrize("headers", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_headers_that_no_subscriber_could_read_are_refused(headers: Mapping[str, str]) -> None:
    with pytest.raises(BadBatch):
        encode_run("t", [OutgoingMessage(b"x", None, headers)], compression=CODEC_ZSTD)


def test_the_most_headers_that_are_taken_come_back() -> None:
    headers = {str(number): "v" for number in range(codec.MAP_KEYS_MAX)}
    run = encode_run("t", [OutgoingMessage(b"x", None, headers)])
    assert decode_run(run, first_seq=1, timestamp=1)[0].headers == headers
