"""What a log's bytes look like on disk: the keys and values of its LMDB environment, as pure functions.

A data directory holds ``data.mdb`` (everything), ``lock.mdb`` (LMDB's table of readers) and ``owner.lock`` (an flock
that the one process using the directory holds); ``new`` is where a data file is made before it gets its name. The
environment has eight named databases:

==========  ===================================  ====================================================================
database    key                                  value
==========  ===================================  ====================================================================
entries     index u64 BE                         term u64, length u32, entry CRC u32, header CRC u32, command
records     index u64 BE                         CRC u32, first_seq u64, count u32, timestamp u64, end_bytes u64,
                                                 dropped u32 each
rows        the state machine's, 1 to 511 bytes  CRC u32, the state machine's bytes
postings    topic id u32 BE, block u32 BE        CRC u32
base        the state machine's                  like rows: the state as of the entry before the first
staged      the state machine's                  like rows: of a snapshot that is arriving
arrivals    index u64 BE                         like entries: the first two behind that snapshot
meta        ``format``                           CRC u32, format version u32
meta        ``identity``                         CRC u32, msgpack map: log, node, cluster
meta        ``state``                            CRC u32, 19 u64 and flags u8 (see `encode_state`), vote: length
                                                 u16, UTF-8
==========  ===================================  ====================================================================

Keys are big-endian, so that LMDB's byte order is numeric order and entries and records are always appended; values
are little-endian. The *entry CRC* is `entry_crc`, the very number that came from the leader. The *header CRC* covers
the key and the 16 bytes before it, so that a term can be told from a header without its command. Every other *CRC* is
CRC32C over the key and the rest of the value: LMDB has no checksums, and a value under the wrong key is as wrong as
a flipped one.

Changing anything here raises `FORMAT_VERSION`; the value under ``format`` itself never changes its shape, so that
any version can tell any other what it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import google_crc32c

from lanyinglog import codec
from lanyinglog.errors import CorruptEntry, ProtocolError, StoreError
from lanyinglog.store.log_store import ENTRY_BYTES_MAX, Entry, EntryRecord, HardState, SnapshotHead, entry_crc
from lanyinglog.store.state import State

FORMAT_VERSION = 3

DATA_FILE = "data.mdb"
OWNER_FILE = "owner.lock"
NEW_DIRECTORY = "new"

ENTRIES = b"entries"
RECORDS = b"records"
ROWS = b"rows"
POSTINGS = b"postings"
BASE = b"base"
STAGED = b"staged"
ARRIVALS = b"arrivals"
META = b"meta"
DATABASES = (ENTRIES, RECORDS, ROWS, POSTINGS, BASE, STAGED, ARRIVALS, META)

FORMAT_KEY = b"format"
IDENTITY_KEY = b"identity"
STATE_KEY = b"state"

KEY_BYTES_MAX = 511
"""LMDB's limit, compiled in; it has no empty keys either."""

_INDEX = struct.Struct(">Q")
_POSTING = struct.Struct(">II")
_ENTRY = struct.Struct("<QII")
_U32 = struct.Struct("<I")
_RECORD = struct.Struct("<QIQQ")
_STATE = struct.Struct("<19QBH")
_JOINED, _STAGING, _INSTALLING = 1, 2, 4
ENTRY_HEADER_BYTES = _ENTRY.size + _U32.size
_NO_VOTE = 0xFFFF
_NO_HEAD = SnapshotHead(0, 0, 0, 0)


class Damaged(Exception):
    """A value fails its CRC32C or makes no sense; who reads it knows what it is called and what follows."""


# ------------------------------------------------------------------------------------------------------------ sealing
def seal(key: bytes, body: bytes) -> bytes:
    """``body`` with the CRC32C of key and body in front."""
    crc: int = google_crc32c.value(key + body)
    return _U32.pack(crc) + body


def unseal(key: bytes, value: bytes) -> bytes:
    """The body of a sealed value; `Damaged` if its CRC32C does not fit it and its key."""
    body = value[_U32.size :]
    if len(value) < _U32.size or google_crc32c.value(key + body) != _U32.unpack_from(value)[0]:
        raise Damaged("fails its CRC32C")
    return body


# ------------------------------------------------------------------------------------------------------------ entries
def index_key(index: int) -> bytes:
    """The key of an entry and of its record."""
    return _INDEX.pack(index)


def key_index(key: bytes) -> int:
    """The index in a key; `Damaged` if it is not 8 bytes long."""
    if len(key) != _INDEX.size:
        raise Damaged(f"has a key of {len(key)} bytes")
    (index,) = _INDEX.unpack(key)
    return int(index)


def encode_entry(entry: Entry) -> bytes:
    """Header and command in one copy; ``entry.crc`` is stored as it came, so that damage on the way here shows."""
    assert len(entry.command) <= ENTRY_BYTES_MAX, f"entry {entry.index} has {len(entry.command)} bytes"
    head = _ENTRY.pack(entry.term, len(entry.command), entry.crc)
    crc = google_crc32c.value(_INDEX.pack(entry.index) + head)
    return b"".join((head, _U32.pack(crc), entry.command))


def _entry_header(index: int, value: bytes | memoryview) -> tuple[int, int, int]:
    """``(term, command bytes, entry CRC)`` from the checked header; `CorruptEntry` otherwise."""
    if len(value) < ENTRY_HEADER_BYTES:
        raise corrupt_entry(index, "is cut off inside its header")
    head = bytes(value[: _ENTRY.size])
    if google_crc32c.value(_INDEX.pack(index) + head) != _U32.unpack_from(value, _ENTRY.size)[0]:
        raise corrupt_entry(index, "has a header that fails its CRC32C")
    term, length, crc = _ENTRY.unpack(head)
    if len(value) != ENTRY_HEADER_BYTES + length:
        raise corrupt_entry(index, f"has {len(value) - ENTRY_HEADER_BYTES} bytes, its header says {length}")
    return term, length, crc


def decode_entry(index: int, value: bytes | memoryview) -> Entry:
    """The entry stored as ``value`` under ``index``, header and command checked; `CorruptEntry`."""
    term, _, crc = _entry_header(index, value)
    command = bytes(value[ENTRY_HEADER_BYTES:])
    if entry_crc(index, term, command) != crc:
        raise corrupt_entry(index, "fails its CRC32C")
    return Entry(index, term, command, crc)


def decode_term(index: int, value: bytes | memoryview) -> int:
    """The entry's term, from its checked header; the command is not looked at. `CorruptEntry`."""
    return _entry_header(index, value)[0]


def corrupt_entry(index: int, what: str) -> CorruptEntry:
    """``hint`` is the index, for who wants to repair it."""
    return CorruptEntry(f"entry {index} {what}", hint=str(index))


# ------------------------------------------------------------------------------------------------------------ records
def encode_record(record: EntryRecord) -> bytes:
    dropped = struct.pack(f"<{len(record.dropped)}I", *record.dropped)
    body = _RECORD.pack(record.first_seq, record.count, record.timestamp, record.end_bytes) + dropped
    return seal(_INDEX.pack(record.index), body)


def decode_record(index: int, value: bytes) -> EntryRecord:
    """The record stored as ``value`` under ``index``; `CorruptEntry`, for the entry can't be served without it."""
    try:
        body = unseal(_INDEX.pack(index), value)
        first_seq, count, timestamp, end_bytes = _RECORD.unpack_from(body)
        dropped = struct.unpack(f"<{(len(body) - _RECORD.size) // 4}I", body[_RECORD.size :])
    except (Damaged, struct.error) as error:
        raise corrupt_entry(index, f"has a record that is damaged: {error}") from error
    return EntryRecord(index, first_seq, count, timestamp, dropped, end_bytes)


# ----------------------------------------------------------------------------------------------------------- postings
def posting_key(topic_id: int, block: int) -> bytes:
    return _POSTING.pack(topic_id, block)


def encode_posting(key: bytes) -> bytes:
    """A posting's value: nothing but its seal, since the key says it all."""
    return seal(key, b"")


def decode_posting(key: bytes, value: bytes) -> tuple[int, int]:
    """``(topic id, block)``; `Damaged`."""
    if len(key) != _POSTING.size or unseal(key, value):
        raise Damaged("is not a posting")
    topic_id, block = _POSTING.unpack(key)
    return topic_id, block


# --------------------------------------------------------------------------------------------------------------- meta
@dataclass(frozen=True, slots=True)
class Identity:
    """Whose directory it is: a node that starts on another's must stop before it votes or acknowledges."""

    log: str
    node: str
    cluster: str


def encode_identity(identity: Identity) -> bytes:
    body = codec.pack({"log": identity.log, "node": identity.node, "cluster": identity.cluster})
    return seal(IDENTITY_KEY, body)


def decode_identity(value: bytes) -> Identity:
    """`Damaged` unless it is what `encode_identity` wrote."""
    try:
        fields = codec.unpack_map(unseal(IDENTITY_KEY, value))
        return Identity(**fields)
    except (ProtocolError, TypeError) as error:
        raise Damaged(str(error)) from error


def encode_format(version: int = FORMAT_VERSION) -> bytes:
    return seal(FORMAT_KEY, _U32.pack(version))


def decode_format(value: bytes) -> int:
    """The format version of the directory; `Damaged`."""
    body = unseal(FORMAT_KEY, value)
    if len(body) != _U32.size:
        raise Damaged("is not a format version")
    (version,) = _U32.unpack(body)
    return int(version)


def encode_state(state: State) -> bytes:
    """first, last, term, commit, applied, next_seq, record_timestamp, last_timestamp, rows, postings, base_seq,
    base_timestamp, base_rows, of the snapshot that is arriving first, last_seq, last_timestamp, rows and how many of
    them are here; transaction; flags (1 joined, 2 one is arriving, 4 it is being installed); vote."""
    hard, head = state.hard, state.staging or _NO_HEAD
    vote = b"" if hard.vote is None else hard.vote.encode()
    assert len(vote) < _NO_VOTE, f"a vote of {len(vote)} bytes"
    numbers = _STATE.pack(
        *(state.first, state.last, hard.term, hard.commit, state.applied),
        *(state.next_seq, state.record_timestamp, state.last_timestamp, state.rows, state.postings),
        *(state.base_seq, state.base_timestamp, state.base_rows),
        *(head.first, head.last_seq, head.last_timestamp, head.rows, state.staged_rows),
        state.transaction,
        _JOINED * state.joined | _STAGING * (state.staging is not None) | _INSTALLING * state.installing,
        _NO_VOTE if hard.vote is None else len(vote),
    )
    return seal(STATE_KEY, numbers + vote)


def decode_state(value: bytes) -> State:
    """`Damaged` unless it is what `encode_state` wrote."""
    body = unseal(STATE_KEY, value)
    try:
        first, last, term, commit, applied, *rest, flags, length = _STATE.unpack_from(body)
        vote = None if length == _NO_VOTE else body[_STATE.size :].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise Damaged(str(error)) from error
    *numbers, head_first, head_seq, head_timestamp, head_rows, staged_rows, transaction = rest
    state = State(first, last, HardState(term, vote, commit), applied, *numbers)
    return state._replace(
        joined=bool(flags & _JOINED),
        staging=SnapshotHead(head_first, head_seq, head_timestamp, head_rows) if flags & _STAGING else None,
        staged_rows=staged_rows,
        installing=bool(flags & _INSTALLING),
        transaction=transaction,
    )


def expected_counts(state: State) -> dict[bytes, int]:
    """How many keys each database has by ``state``: nothing is expected while a snapshot replaces the log."""
    if state.installing:
        return {}
    return {
        ENTRIES: state.last - state.first + 1,
        RECORDS: state.applied - state.first + 1,
        ROWS: state.rows,
        POSTINGS: state.postings,
        BASE: state.base_rows,
        STAGED: state.staged_rows,
    }


def decode_meta(
    directory: str, form: bytes | None, identity: bytes | None, state: bytes | None
) -> tuple[Identity, State]:
    """The three meta values of ``directory``, in the order that tells the most; `StoreError` in words."""
    if form is None:
        raise StoreError(f"{directory} holds an LMDB environment that is not a lanyinglog log")
    try:
        version = decode_format(form)
    except Damaged as error:
        raise StoreError(f"{directory} is damaged: its format version {error}") from error
    if version != FORMAT_VERSION:
        raise StoreError(f"{directory} has storage format {version}; this program reads and writes {FORMAT_VERSION}")
    try:
        return decode_identity(identity or b""), decode_state(state or b"")
    except Damaged as error:
        raise StoreError(f"{directory} is damaged: its identity or state {error}") from error


def check_transaction(directory: str, state: State, transaction: int) -> None:
    """`StoreError` unless ``state`` was written by the very ``transaction`` whose pages it was read from: a damaged
    page number may lead to a tree of an older transaction, in which every checksum is right."""
    if state.transaction != transaction:
        raise StoreError(
            f"{directory} is damaged: transaction {transaction} leads to a state of transaction {state.transaction}"
        )
