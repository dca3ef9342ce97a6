"""Frames: whole, in pieces, torn, damaged, oversized; each is found, refused, or waited for, and none costs memory."""

from __future__ import annotations

import struct
import tracemalloc
from itertools import cycle
from typing import Any

import google_crc32c
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanyinglog.errors import FrameTooLarge, ProtocolError
from lanyinglog.wire.frames import (
    HEAD_BYTES,
    HEADER_BYTES_MAX,
    REQUEST_MAX,
    Frame,
    FrameDecoder,
    encode_frame,
    encode_frame_head,
)

LIMIT = 1 << 20


def decode(data: bytes, *, frame_bytes_max: int = LIMIT) -> list[Frame]:
    """All frames in ``data``, which is fed at once."""
    decoder = FrameDecoder(frame_bytes_max=frame_bytes_max)
    decoder.feed(data)
    return take(decoder)


def take(decoder: FrameDecoder) -> list[Frame]:
    frames = []
    while (frame := decoder.next_frame()) is not None:
        frames.append(frame)
    return frames


def raw_frame(
    packed: bytes = b"\x80",
    body: bytes = b"",
    *,
    length: int | None = None,
    kind: int = 8,
    flags: int = 0,
    header_bytes: int | None = None,
    crc: int | None = None,
) -> bytes:
    """A frame that may lie; its CRC32C is right unless told otherwise."""
    head = struct.pack("<BBHI", kind, flags, len(packed) if header_bytes is None else header_bytes, 1)
    total = HEAD_BYTES - 4 + len(packed) + len(body) if length is None else length
    start = struct.pack("<I", total) + head
    right = google_crc32c.extend(google_crc32c.value(start), packed)
    return start + struct.pack("<I", right if crc is None else crc) + packed + body


HEADERS = st.dictionaries(st.text(max_size=8), st.integers(0, 1 << 40) | st.text(max_size=20), max_size=5)
FRAMES = st.builds(Frame, st.integers(0, 255), st.integers(0, REQUEST_MAX), HEADERS, st.binary(max_size=100))
FRAME = Frame(3, 7, {"log": "main", "filters": ["a", "b.>"]}, b"body bytes")


def encode(frame: Frame) -> bytes:
    return encode_frame(frame.kind, frame.request, frame.header, [frame.body])


# ------------------------------------------------------------------------------------------------------ there and back
@given(st.lists(FRAMES, max_size=5))
def test_frames_come_back_as_they_were(frames: list[Frame]) -> None:
    assert decode(b"".join(map(encode, frames))) == frames


@given(
    st.lists(st.integers(0, 20_000), min_size=1, max_size=4),
    st.lists(st.one_of(st.integers(1, 40), st.integers(3_000, 9_000)), min_size=1, max_size=8),
)
def test_large_frames_come_back_from_small_and_large_pieces(sizes: list[int], pieces: list[int]) -> None:
    """Pieces come round and round, so that small ones follow large ones in all places of a frame."""
    frames = [Frame(5, number, {"n": size}, bytes(range(256)) * (size // 256 + 1)) for number, size in enumerate(sizes)]
    stream = b"".join(map(encode, frames))
    decoder = FrameDecoder(frame_bytes_max=LIMIT)
    found: list[Frame] = []
    at = 0
    for piece in cycle(pieces):
        if at >= len(stream):
            break
        decoder.feed(stream[at : at + piece])
        at += piece
        found += take(decoder)
    assert found == frames
    assert all(type(frame.body) is bytes for frame in found)
    assert decoder.buffered_bytes == 0


@pytest.mark.parametrize("piece", [2, 70, 5_000])
def test_a_decoder_keeps_no_more_than_the_frame_that_has_begun(piece: int) -> None:
    """However small the pieces, and although each of them ends inside a frame."""
    body = bytes(300_000)
    stream = encode(Frame(5, 1, {}, body)) + encode(Frame(5, 2, {}, b"x" * 90)) * 3_000
    decoder = FrameDecoder(frame_bytes_max=LIMIT)
    tracemalloc.start()
    try:
        for at in range(0, len(stream), piece):
            decoder.feed(stream[at : at + piece])
            while decoder.next_frame() is not None:
                pass
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 3 * len(body)


@given(st.lists(FRAMES, max_size=4), st.data())
def test_frames_come_back_however_the_stream_is_cut(frames: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encode, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    decoder = FrameDecoder(frame_bytes_max=LIMIT)
    found = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.feed(stream[start:stop])
        found += take(decoder)
    assert found == frames
    assert decoder.buffered_bytes == 0


def test_a_frame_comes_with_its_last_byte_and_not_before() -> None:
    decoder = FrameDecoder(frame_bytes_max=LIMIT)
    stream = encode(FRAME)
    for at in range(len(stream) - 1):
        decoder.feed(stream[at : at + 1])
        assert decoder.next_frame() is None
        assert decoder.buffered_bytes == at + 1
    decoder.feed(stream[-1:])
    assert decoder.next_frame() == FRAME


@pytest.mark.parametrize("length", range(len(encode(FRAME))))
def test_a_torn_frame_is_no_frame(length: int) -> None:
    assert decode(encode(FRAME)[:length]) == []


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes_can_be_fed(kind: type[Any]) -> None:
    decoder = FrameDecoder(frame_bytes_max=LIMIT)
    decoder.feed(kind(encode(FRAME)))
    assert take(decoder) == [FRAME]


def test_the_parts_of_a_body_follow_one_another() -> None:
    whole = encode_frame(2, 1, {}, [b"abc", bytearray(b"de"), memoryview(b"f")])
    assert decode(whole) == [Frame(2, 1, {}, b"abcdef")]
    assert encode_frame_head(2, 1, {}, 6) + b"abcdef" == whole


def test_a_body_that_was_taken_stays_when_more_is_fed() -> None:
    decoder = FrameDecoder(frame_bytes_max=LIMIT)
    decoder.feed(encode(FRAME))
    frame = decoder.next_frame()
    decoder.feed(encode(FRAME._replace(body=b"XXXXXXXXXX")))
    assert frame == FRAME


# -------------------------------------------------------------------------------------------------------------- damage
@pytest.mark.parametrize("at", range(len(encode(FRAME)) - len(FRAME.body)))
def test_every_flip_before_the_body_is_found(at: int) -> None:
    for mask in (*(1 << bit for bit in range(8)), 0xFF):
        damaged = bytearray(encode(FRAME))
        damaged[at] ^= mask
        with pytest.raises(ProtocolError):
            # What a longer header would take in is there, so that waiting for it is no way out.
            decode(bytes(damaged) + bytes(HEADER_BYTES_MAX))


REFUSED = {
    "a flag": raw_frame(flags=1),
    "a length below the head's": raw_frame(length=11),
    "no length": raw_frame(length=0),
    "a header longer than the frame": raw_frame(header_bytes=2),
    "a header of 65,535 bytes in a frame of 17": raw_frame(header_bytes=0xFFFF),
    "a wrong CRC32C": raw_frame(crc=0),
    "no header": raw_frame(b""),
    "a header that is no map": raw_frame(b"\x90"),
    "a header that is no msgpack": raw_frame(b"\xc1"),
    "a header with junk behind": raw_frame(b"\x80\x80"),
    "a torn header": raw_frame(b"\x81\xa1a"),
    "a header with a key that is no text": raw_frame(b"\x81\x01\x01"),
    "a header that announces 4 Gi keys": raw_frame(b"\xdf\xff\xff\xff\xff"),
    "a header that announces 4 GiB of text": raw_frame(b"\x81\xa1a\xdb\xff\xff\xff\xff"),
    "a request for a web page": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "a TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
}


@pytest.mark.parametrize("stream", REFUSED.values(), ids=REFUSED)
def test_what_is_no_frame_is_refused(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(stream)


def test_the_refused_frames_are_good_but_for_the_fault() -> None:
    assert decode(raw_frame()) == [Frame(8, 1, {}, b"")]
    assert decode(raw_frame(msgpack.packb({"a": 1}), b"b")) == [Frame(8, 1, {"a": 1}, b"b")]


def test_frames_before_the_fault_are_delivered() -> None:
    decoder = FrameDecoder(frame_bytes_max=LIMIT)
    decoder.feed(encode(FRAME) * 2 + raw_frame(crc=0) + encode(FRAME))
    assert [decoder.next_frame(), decoder.next_frame()] == [FRAME, FRAME]
    for _ in range(3):
        with pytest.raises(ProtocolError, match="CRC32C"):
            decoder.next_frame()


def test_after_a_fault_nothing_is_buffered() -> None:
    decoder = FrameDecoder(frame_bytes_max=LIMIT)
    decoder.feed(raw_frame(crc=0) + bytes(100))
    with pytest.raises(ProtocolError):
        decoder.next_frame()
    decoder.feed(bytes(1_000))
    assert decoder.buffered_bytes == 0


# -------------------------------------------------------------------------------------------------------------- bounds
def test_a_frame_of_the_largest_size_is_taken_and_one_byte_more_is_not() -> None:
    fits = raw_frame(body=bytes(100 - HEAD_BYTES - 1))
    assert len(fits) == 100
    assert len(decode(fits, frame_bytes_max=100)) == 1
    with pytest.raises(FrameTooLarge):
        decode(raw_frame(body=bytes(100 - HEAD_BYTES)), frame_bytes_max=100)


def test_a_hostile_length_is_refused_on_its_four_bytes() -> None:
    with pytest.raises(FrameTooLarge):
        decode(b"\xff\xff\xff\xff")
    with pytest.raises(ProtocolError, match="head alone"):
        decode(b"\x0b\0\0\0")
    assert decode(b"\xff\xff\xff") == []


def test_a_damaged_header_is_refused_before_its_body_has_come() -> None:
    with pytest.raises(ProtocolError, match="CRC32C"):
        decode(raw_frame(crc=0, length=LIMIT // 2))


@pytest.mark.parametrize("bit", range(20))
def test_a_flipped_bit_in_the_length_is_found_before_the_body_has_come(bit: int) -> None:
    """Longer, it would take what follows for its body; shorter, it would end too soon."""
    damaged = bytearray(raw_frame(body=bytes(300)))
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        decode(bytes(damaged[: HEAD_BYTES + 1]))


def test_flags_and_header_length_are_refused_before_the_header_has_come() -> None:
    with pytest.raises(ProtocolError, match="flags"):
        decode(raw_frame(flags=0x80, header_bytes=1_000, length=LIMIT // 2)[:HEAD_BYTES])
    with pytest.raises(ProtocolError, match="does not fit"):
        decode(raw_frame(header_bytes=1_000, length=500)[:HEAD_BYTES])


def test_a_frame_that_is_announced_and_never_sent_costs_no_memory() -> None:
    tracemalloc.start()
    try:
        decode(raw_frame(length=LIMIT - 4), frame_bytes_max=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


def test_a_limit_that_was_changed_holds_from_the_next_frame_on() -> None:
    decoder = FrameDecoder(frame_bytes_max=50)
    decoder.feed(raw_frame() + raw_frame(body=bytes(60)))
    assert decoder.next_frame() is not None
    decoder.frame_bytes_max = 100
    assert decoder.next_frame() is not None


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_junk_gives_frames_or_a_protocol_error(junk: bytes) -> None:
    try:
        decode(junk, frame_bytes_max=250)
    except ProtocolError:
        pass


def test_bytes_are_copied_a_constant_number_of_times() -> None:
    """A frame of 256 KiB, fed a byte at a time, looks at its head once: else this takes minutes."""
    frame = raw_frame(body=bytes(256 << 10))
    decoder = FrameDecoder(frame_bytes_max=LIMIT)
    for at in range(len(frame)):
        decoder.feed(frame[at : at + 1])
        if at + 1 < len(frame):
            assert decoder.next_frame() is None
    assert len(take(decoder)) == 1


def test_a_header_that_is_repeated_is_nobody_elses_to_change() -> None:
    flat, deep = {"log": "main"}, {"log": "main", "start": {"seq": 1}, "filters": ["a"]}
    found = decode(
        b"".join(encode_frame(8, request, header) for request, header in enumerate((flat, flat, deep, deep)))
    )
    assert [frame.header for frame in found] == [flat, flat, deep, deep]
    found[2].header["start"]["seq"] = 9
    found[2].header["filters"].append("b")
    assert found[3].header == deep


def test_an_empty_header_is_refused_however_it_comes() -> None:
    empty = raw_frame(b"")
    for cut in range(1, len(empty) + 1):
        decoder = FrameDecoder(frame_bytes_max=LIMIT)
        decoder.feed(empty[:cut])
        with pytest.raises(ProtocolError):
            take(decoder)
            decoder.feed(empty[cut:])
            take(decoder)


def test_a_repeated_header_is_checked_every_time() -> None:
    good = encode_frame(8, 1, {"log": "main"})
    bad = bytearray(encode_frame(8, 2, {"log": "main"}))
    bad[12] ^= 1  # its CRC32C
    decoder = FrameDecoder(frame_bytes_max=LIMIT)
    decoder.feed(good + bytes(bad))
    assert decoder.next_frame() == Frame(8, 1, {"log": "main"}, b"")
    with pytest.raises(ProtocolError, match="CRC32C"):
        decoder.next_frame()
