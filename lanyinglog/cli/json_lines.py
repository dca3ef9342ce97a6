"""Messages as JSON, one a line: what ``subscribe --format json`` prints, ``publish --json`` reads.

Text is text; what is no UTF-8 is in base64 under ``key_b64`` and ``payload_b64``. Of what is read ``seq`` and
``timestamp`` are ignored, for a log gives its own, and so is all that is not known here.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from lanyinglog.errors import BadBatch
from lanyinglog.record import Message

LINE_BYTES_MAX = 8 << 20
"""The largest message may take six bytes for each of its own (as control characters), and its names some more."""


class Parsed(NamedTuple):
    """A message to publish; ``topic`` None if its line names none."""

    topic: str | None
    payload: bytes
    key: bytes | None
    headers: Mapping[str, str]


def to_line(message: Message) -> bytes:
    """``message`` with its newline."""
    row: dict[str, Any] = {"seq": message.seq, "timestamp": message.timestamp, "topic": message.topic}
    row.update(_text_or_base64("key", message.key))
    row["headers"] = message.headers
    row.update(_text_or_base64("payload", message.payload))
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def _text_or_base64(name: str, value: bytes | None) -> dict[str, str | None]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_b64": base64.b64encode(value).decode()}


def from_line(line: bytes, number: int) -> Parsed:
    """The message on line ``number`` of its file. `BadBatch` says what is wrong with it."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("it is no object")
        topic, headers = row.get("topic"), row.get("headers") or {}
        if topic is not None and not isinstance(topic, str):
            raise ValueError("topic is no text")
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise ValueError("headers is no object of texts")
        payload = _bytes(row, "payload")
        if payload is None:
            raise ValueError("it has neither payload nor payload_b64")
        return Parsed(topic, payload, _bytes(row, "key"), headers)
    except (ValueError, RecursionError) as error:
        why = "no JSON" if isinstance(error, json.JSONDecodeError | RecursionError) else str(error)
        raise BadBatch(f"line {number} is no message: {why}") from error


def _bytes(row: Mapping[str, Any], name: str) -> bytes | None:
    coded, text = row.get(f"{name}_b64"), row.get(name)
    if coded is not None and text is not None:
        raise ValueError(f"it has both {name} and {name}_b64")
    if coded is not None:
        if not isinstance(coded, str):
            raise ValueError(f"{name}_b64 is no text")
        try:
            return base64.b64decode(coded, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{name}_b64 is no base64") from error
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{name} is no text")
    return None if text is None else text.encode()
