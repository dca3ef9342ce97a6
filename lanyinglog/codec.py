"""The only door to msgpack: small control values in, bytes out, and nothing surprising back.

No pickle anywhere in the product (audit 27): what a peer sends can become numbers, strings, bytes, lists
and maps with string keys, within bounds, and never code.
"""

from __future__ import annotations

import re
from typing import Any

import msgpack

from lanyinglog.errors import ProtocolError

VALUE_BYTES_MAX = 1 << 20
"""Control values are small; batches and entries travel beside them as raw bytes."""
MAP_KEYS_MAX = 1 << 12

_KEYS_WANTED = "a map's keys are strings, each of them once"
_WIDE_ARRAY = re.compile(rb"[\xdc\xdd]")


_packer = msgpack.Packer(use_bin_type=True)
"""One for all, for a new one takes as long as what it is for. Threads may share it: it never lets go of the
interpreter's lock, as it calls nothing, and what fails leaves nothing behind."""


def pack(value: Any) -> bytes:
    """``value`` (None, bool, int, float, str, bytes, list, tuple, dict with str keys) as msgpack bytes."""
    packed: bytes = _packer.pack(value)
    return packed


def unpack(data: bytes | memoryview) -> Any:
    """The one value in ``data``; `ProtocolError` if it is torn, followed by junk, too deep or too large.

    Costs memory in proportion to ``data``, whatever the lengths in it claim."""
    if len(data) > VALUE_BYTES_MAX:
        raise ProtocolError(f"a control value of {len(data)} bytes is over the limit of {VALUE_BYTES_MAX}")
    try:
        if _WIDE_ARRAY.search(data):
            _check_whole(data)
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            strict_map_key=True,
            object_pairs_hook=_map,
            ext_hook=_refuse_extension,
            max_str_len=VALUE_BYTES_MAX,
            max_bin_len=VALUE_BYTES_MAX,
            max_array_len=1 << 16,
            max_map_len=MAP_KEYS_MAX,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError, TypeError) as error:
        raise ProtocolError(f"a control value is not valid msgpack: {str(error) or 'nested too deep'}") from error


def _check_whole(data: bytes | memoryview) -> None:
    """Raises unless every announced element is there. The unpacker makes room for an array when it is announced:
    3 KiB of heads, each in the first place of the one before, cost it 80 MB; skipping over them makes no objects."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()


def _map(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """msgpack takes bytes for keys too, and the last of two equal keys; who reads another one is misled."""
    found = dict(pairs)
    for key in found:
        if type(key) is not str:
            raise ValueError(_KEYS_WANTED)
    if len(found) != len(pairs):
        raise ValueError(_KEYS_WANTED)
    return found


def _refuse_extension(code: int, _: bytes) -> None:
    raise ValueError(f"extension type {code}")


def unpack_map(data: bytes | memoryview) -> dict[str, Any]:
    """Like `unpack`, for a map with string keys."""
    value = unpack(data)
    if not isinstance(value, dict):
        raise ProtocolError(f"expected a map with string keys, got {type(value).__name__}")
    return value
