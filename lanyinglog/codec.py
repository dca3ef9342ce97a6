"""The only door to msgpack: small control values in, bytes out, and nothing surprising back.

No pickle anywhere in the product (audit 27): what a peer sends can become numbers, strings, bytes, lists
and maps with string keys, within bounds, and never code.
"""

from __future__ import annotations

from typing import Any

import msgpack

from lanyinglog.errors import ProtocolError

VALUE_BYTES_MAX = 1 << 20  # control values are small; batches and entries travel beside them as raw bytes


def pack(value: Any) -> bytes:
    """``value`` (None, bool, int, float, str, bytes, list, tuple, dict with str keys) as msgpack bytes."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(data: bytes | memoryview) -> Any:
    """The one value in ``data``; `ProtocolError` if it is torn, followed by junk, too deep or too large."""
    if len(data) > VALUE_BYTES_MAX:
        raise ProtocolError(f"a control value of {len(data)} bytes is over the limit of {VALUE_BYTES_MAX}")
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            strict_map_key=True,
            max_str_len=VALUE_BYTES_MAX,
            max_bin_len=VALUE_BYTES_MAX,
            max_array_len=1 << 16,
            max_map_len=1 << 12,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError, TypeError) as error:
        raise ProtocolError(f"a control value is not valid msgpack: {error}") from error


def unpack_map(data: bytes | memoryview) -> dict[str, Any]:
    """Like `unpack`, for a map with string keys."""
    value = unpack(data)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ProtocolError(f"expected a map with string keys, got {type(value).__name__}")
    return value
