"""Control values: what goes through `codec` comes back, and nothing else comes back."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lanyinglog import codec
from lanyinglog.errors import ProtocolError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20), max_leaves=40
)


@settings(deadline=None)
@given(VALUES)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert codec.unpack(codec.pack(value)) == value


@settings(max_examples=30)
@given(st.lists(SCALARS))
def test_a_tuple_comes_back_as_a_list(some: list[Any]) -> None:
    assert codec.unpack(codec.pack((*some, tuple(some)))) == [*some, some]


@settings(max_examples=300)
@given(st.binary(max_size=200))
@example(b"\xc1")
@example(b"")
def test_any_bytes_give_a_value_or_a_protocol_error(junk: bytes) -> None:
    try:
        value = codec.unpack(junk)
    except ProtocolError:
        return
    assert _is_plain(value)


def _is_plain(value: object) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_plain(inner) for key, inner in value.items())
    if type(value) is list:
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str, bytes)


@settings(deadline=None)
@given(VALUES, st.data())
def test_a_torn_value_is_refused(value: Any, data: st.DataObject) -> None:
    packed = codec.pack(value)
    with pytest.raises(ProtocolError):
        codec.unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


REFUSED = {
    "junk behind the value": b"\x01\x02",
    "bytes as a key": b"\x81\xc4\x01a\x01",
    "bytes as a key of an inner map": b"\x81\xa1x\x81\xc4\x01a\x01",
    "a number as a key": b"\x81\x01\x01",
    "a key twice": b"\x82\xa1a\x01\xa1a\x02",
    "an extension": b"\xc7\x01\x05\x00",
    "an empty extension": b"\xc7\x00\x05",
    "a timestamp": b"\xd6\xff\x00\x00\x00\x01",
    "text that is not UTF-8": b"\xa2\xff\xfe",
    "a lone surrogate": b"\xa3\xed\xa0\x80",
    "a list longer than it may be": msgpack.packb([None] * ((1 << 16) + 1)),
    "a map larger than it may be": msgpack.packb({str(key): None for key in range((1 << 12) + 1)}),
    "a string that announces 4 GiB": b"\xdb\xff\xff\xff\xff",
    "bytes that announce 4 GiB": b"\xc6\xff\xff\xff\xff",
    "a list that announces 4 Gi elements": b"\xdd\xff\xff\xff\xff",
    "nested five thousand deep": b"\x91" * 5_000 + b"\x01",
    "more bytes than a control value has": b"\xc6" + ((1 << 20) + 1).to_bytes(4, "big") + bytes((1 << 20) + 1),
}


@pytest.mark.parametrize("packed", REFUSED.values(), ids=REFUSED)
def test_a_hostile_value_is_refused(packed: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.unpack(packed)


def test_the_largest_value_is_taken() -> None:
    value = bytes(codec.VALUE_BYTES_MAX - 5)
    assert codec.unpack(codec.pack(value)) == value


def test_announced_lengths_cost_no_memory() -> None:
    nested = b"\xdc\xff\xff" * 1_000  # a list of 65,535, whose first element is a list of 65,535 ...
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            codec.unpack(nested)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("value", [None, 1, "text", b"bytes", ["list"]], ids=str)
def test_what_is_no_map_is_refused_where_a_map_belongs(value: object) -> None:
    with pytest.raises(ProtocolError, match="map"):
        codec.unpack_map(codec.pack(value))
