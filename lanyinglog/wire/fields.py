"""Reading the header of a frame: each field is there, has its type and lies in its range, or the frame is refused.

Keys that a reader does not know are ignored, so that a later version can add some, unless they begin with ``!``:
such a key changes the meaning of the frame, and one who does not know it must refuse the frame. Version 1 has none.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from lanyinglog.errors import ProtocolError

U32_MAX = 0xFFFF_FFFF
SEQ_MAX = (1 << 63) - 1
"""The largest seq, timestamp, count of bytes or other 64-bit number: what every language's signed integer holds."""
NAME_BYTES_MAX = 255
TEXT_BYTES_MAX = 8_192


class Fields:
    """The header of a frame of ``kind`` (its name, for error messages)."""

    __slots__ = ("_header", "_kind")

    def __init__(self, kind: str, header: Mapping[str, Any]) -> None:
        for key in header:
            if key.startswith("!"):
                raise ProtocolError(f"{kind}: the critical field {key!r} is unknown here")
        self._kind = kind
        self._header = header

    def integer(self, name: str, low: int = 0, high: int = SEQ_MAX) -> int:
        """An integer ``low`` .. ``high``."""
        value = self._value(name)
        if type(value) is not int or not low <= value <= high:
            raise self._wrong(name, value, f"an integer from {low} to {high}")
        return value

    def integer_or_zero(self, name: str) -> int:
        """An integer like `integer`, or nil, or no such field."""
        return 0 if self._header.get(name) is None else self.integer(name)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._value(name)
        if type(value) is not bool:
            raise self._wrong(name, value, "true or false")
        return value

    def text(self, name: str, *, bytes_max: int = NAME_BYTES_MAX) -> str:
        """A string of at most ``bytes_max`` bytes of UTF-8."""
        value = self._value(name)
        if type(value) is not str or len(value.encode()) > bytes_max:
            raise self._wrong(name, value, f"a string of at most {bytes_max} bytes")
        return value

    def text_or_none(self, name: str, *, bytes_max: int = NAME_BYTES_MAX) -> str | None:
        """A string like `text`, or nil, or no such field."""
        return None if self._header.get(name) is None else self.text(name, bytes_max=bytes_max)

    def texts(self, name: str, *, count_max: int) -> tuple[str, ...]:
        """A list of at most ``count_max`` strings of at most ``NAME_BYTES_MAX`` bytes each."""
        value = self._value(name)
        if type(value) is not list or len(value) > count_max:
            raise self._wrong(name, value, f"a list of at most {count_max} strings")
        if not all(type(item) is str and len(item.encode()) <= NAME_BYTES_MAX for item in value):
            raise self._wrong(name, value, f"a list of strings of at most {NAME_BYTES_MAX} bytes")
        return tuple(value)

    def integers(self, name: str, *, count: int, low: int, high: int) -> list[int]:
        """A list of exactly ``count`` integers ``low`` .. ``high``."""
        value = self._value(name)
        if (
            type(value) is not list
            or len(value) != count
            or not all(type(item) is int and low <= item <= high for item in value)
        ):
            raise self._wrong(name, value, f"a list of {count} integers from {low} to {high}")
        return value

    def map(self, name: str) -> dict[str, Any]:
        """A map with string keys."""
        value = self._value(name)
        if type(value) is not dict:
            raise self._wrong(name, value, "a map")
        return value

    def fail(self, reason: str) -> ProtocolError:
        """The error for a rule about several fields."""
        return ProtocolError(f"{self._kind}: {reason}")

    def _value(self, name: str) -> Any:
        try:
            return self._header[name]
        except KeyError:
            raise ProtocolError(f"{self._kind}: the field {name!r} is missing") from None

    def _wrong(self, name: str, value: object, expected: str) -> ProtocolError:
        # Not `repr`: what a stranger nested a thousand deep would end in a RecursionError.
        return ProtocolError(f"{self._kind}: {name} is {reprlib.repr(value)}, expected {expected}")
