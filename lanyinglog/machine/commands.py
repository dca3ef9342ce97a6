"""Entries: how a group commit's batches lie in one Raft entry, and which bytes the engine itself writes.

An entry groups what arrived while the disk was busy. Its first byte is the engine's own command type, so that the
stored entry is the engine's command to the byte and nothing is copied to add or strip a wrapper. Little-endian::

    0   1   0, the engine's "regular" command
    1   1   version, 1
    2   2   number of commands
    4   4   0, reserved
    8   8   timestamp of the entry's first message, ns (hybrid logical clock, given by the leader)
    16  ..  commands: u8 kind, three zero bytes, u32 length, bytes

Kinds: 1 a batch; 2 retention settings, 3 a trim (`retention`), 4 the members (`members`), 5 a purge (`purge`), each of
them alone in its entry.

A new leader's no-op is the single byte 1.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

NO_OP = b"\x01"
KIND_BATCH = 1
KIND_SETTINGS = 2
KIND_TRIM = 3
KIND_MEMBERS = 4
KIND_PURGE = 5
_HEAD = struct.Struct("<BBHIQ")
_COMMAND = struct.Struct("<BxxxI")
HEAD_BYTES = _HEAD.size
COMMAND_HEAD_BYTES = _COMMAND.size
COMMANDS_MAX = 0xFFFF


CommandPlace = tuple[int, int, int]
"""Kind of a command, and where it lies: bytes start to stop of the entry. A plain tuple: see `record.SkimmedRun`."""


@dataclass(frozen=True, slots=True)
class EntryView:
    """An entry's parts; a no-op has no commands and timestamp 0."""

    timestamp: int
    commands: tuple[CommandPlace, ...]


def encode_entry(timestamp: int, batches: Sequence[bytes]) -> bytes:
    """One entry of ``batches`` (1 to COMMANDS_MAX), its first message at ``timestamp`` ns."""
    assert 1 <= len(batches) <= COMMANDS_MAX
    parts = [_HEAD.pack(0, 1, len(batches), 0, timestamp)]
    for batch in batches:
        parts += (_COMMAND.pack(KIND_BATCH, len(batch)), batch)
    return b"".join(parts)


def encode_command(timestamp: int, kind: int, body: bytes) -> bytes:
    """One entry of a single command that is no batch; ``timestamp`` ns is when it was given."""
    return _HEAD.pack(0, 1, 1, 0, timestamp) + _COMMAND.pack(kind, len(body)) + body


def parse_entry(command: bytes) -> EntryView:
    """The parts of an entry. `ValueError` for bytes no leader of this version writes."""
    if command == NO_OP:
        return EntryView(0, ())
    if len(command) < HEAD_BYTES:
        raise ValueError(f"an entry of {len(command)} bytes")
    engine_type, version, count, reserved, timestamp = _HEAD.unpack_from(command)
    if engine_type != 0 or version != 1 or reserved != 0:
        raise ValueError(f"an entry of type {engine_type}, version {version}")
    commands = []
    at = HEAD_BYTES
    for _ in range(count):
        if at + COMMAND_HEAD_BYTES > len(command):
            raise ValueError("a command's head is cut off")
        kind, length = _COMMAND.unpack_from(command, at)
        at += COMMAND_HEAD_BYTES
        if at + length > len(command):
            raise ValueError("a command is cut off")
        end = at + length
        commands.append((kind, at, end))
        at = end
    if at != len(command):
        raise ValueError(f"{len(command) - at} bytes behind the last command")
    return EntryView(timestamp, tuple(commands))
