"""One log on disk: an LMDB environment whose every write is one atomic transaction, synced before it returns.

Opening takes the directory for this process (an flock on ``owner.lock``: LMDB's own locks protect against other
processes but break silently when one process opens an environment twice), checks that format, log, node and cluster
are the expected ones, and reads the `State`. From then on `write` is the only door in. LMDB runs in its default
mode: copy-on-write pages, one fdatasync, then the meta page through an O_DSYNC descriptor. ``metasync=False`` may
lose the last transaction in a power cut, ``writemap`` turns a full disk into SIGBUS; neither is ever used.

Reads run in short transactions that end inside the call: a reader left open pins every page freed since. They trust
nothing that is not checked: each value has a CRC32C over itself and its key, a key missing inside the bounds of the
state is damage, and an answer "there is nothing" is believed only when both neighbours prove it.

Errors: a full disk or map aborts the transaction and leaves the store as it was (`StorageFull`). Any other failure
of a write is an `OSError` and final: after a failed sync a later one can succeed with the data gone, so every
further `write` raises it again and the caller ends the process.

Not here: an I/O error while reading a mapped page. The kernel delivers it as SIGBUS, which ends the process.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import lmdb

from lanyinglog.errors import StorageFull, StoreError
from lanyinglog.store import installation, layout
from lanyinglog.store.directory import make_directory, sync_directory, take_directory
from lanyinglog.store.layout import Damaged, Identity
from lanyinglog.store.log_store import (
    BLOCK_ENTRIES,
    Checkpoint,
    Entry,
    EntryRecord,
    HardState,
    SnapshotHead,
    Trim,
    Writes,
)
from lanyinglog.store.mending import put_mends
from lanyinglog.store.pages import check_pages
from lanyinglog.store.room import FULL, PAGES_PER_TRANSACTION, Room, pages_at_most
from lanyinglog.store.search import find_seq, find_time
from lanyinglog.store.state import State, advance

MAP_BYTES = (1 << 40) if sys.maxsize > 1 << 32 else (1 << 30)
"""The address space to reserve, hence the largest log: 1 TiB (1 GiB on a 32-bit machine). It costs nothing until it
is used: the file grows only by what is written. `set_mapsize` on a running node would need every reader to stop."""

_MAP_BYTES_MIN = 1 << 28
_MAP_BYTES_NEW = 1 << 20


class LmdbStore:
    """See the module and `LogStore`. Make one with `open`; `close` only when no other call is running."""

    def __init__(self, directory: str, owner: int, data: int, env: lmdb.Environment, identity: Identity) -> None:
        self.directory = directory
        self.identity = identity
        self._owner = owner
        self._env = env
        self._page_bytes: int = env.stat()["psize"]
        self._data = data
        self._has_room = True
        self._room = Room(data, limit=env.info()["map_size"])
        self._writing = threading.Lock()
        self._failure: OSError | None = None
        self._databases = self._open_databases()
        with self._reading() as txn:
            stored, self._state = self._check_meta(txn)
            counts = {name: txn.stat(each)["entries"] for name, each in self._databases.items()}
        if stored != identity:
            raise StoreError(f"{directory} belongs to {_words(stored)}, not to {_words(identity)}")
        _check_counts(directory, self._state, counts)
        named = (layout.ENTRIES, layout.RECORDS, layout.ROWS, layout.POSTINGS, layout.BASE, layout.META)
        handles = [self._databases[name] for name in named]
        self._entries, self._records, self._rows, self._postings, self._base, self._meta = handles

    # ------------------------------------------------------------------------------------------------------- opening
    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        log: str = "main",
        node: str,
        cluster: str = "",
        map_bytes: int = MAP_BYTES,
        create: bool = True,
    ) -> LmdbStore:
        """The store in ``directory``, made if there is none and ``create``; `StoreError` says why it can't be used."""
        path = os.path.abspath(os.fspath(directory))
        data = os.path.join(path, layout.DATA_FILE)
        identity = Identity(log, node, cluster)
        if not create and not os.path.exists(data):
            raise StoreError(f"{path} holds no log")
        try:
            with ExitStack() as undo:
                make_directory(path)
                owner = take_directory(path)
                undo.callback(os.close, owner)
                if not os.path.exists(data):
                    _create(path, identity)
                check_pages(data)
                # Closed behind LMDB's own: to close any descriptor of a file is to drop the process's locks on it.
                descriptor = os.open(data, os.O_RDWR | os.O_CLOEXEC)
                undo.callback(os.close, descriptor)
                env = _open_environment(path, map_bytes)
                undo.callback(env.close)
                env.reader_check()
                _extend_file(data, env)
                store = cls(path, owner, descriptor, env, identity)
                undo.pop_all()
                return store
        except OSError as error:
            raise StoreError(f"{path} can't be used: {error}") from error

    def _open_databases(self) -> dict[bytes, Any]:
        try:
            # Handles outlive only a transaction that commits; this one has nothing to write.
            with self._env.begin(write=True) as txn:
                return {name: self._env.open_db(name, txn=txn, create=False) for name in layout.DATABASES}
        except lmdb.Error as error:
            raise StoreError(f"{self.directory} holds an LMDB environment that is not a lanyinglog log") from error

    def _check_meta(self, txn: lmdb.Transaction[bytes]) -> tuple[Identity, State]:
        meta = self._databases[layout.META]
        keys = (layout.FORMAT_KEY, layout.IDENTITY_KEY, layout.STATE_KEY)
        form, identity, value = (txn.get(key, db=meta) for key in keys)
        stored, state = layout.decode_meta(self.directory, form, identity, value)
        layout.check_transaction(self.directory, state, txn.id())
        return stored, state

    @contextmanager
    def _reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        try:
            with self._env.begin() as txn:
                yield txn
        except lmdb.Error as error:
            raise StoreError(f"{self.directory}: {error}") from error

    @contextmanager
    def _viewing(self) -> Iterator[lmdb.Transaction[memoryview]]:
        """Values are views into the map, valid until the transaction ends: for what is large and copied once."""
        try:
            with self._env.begin(buffers=True) as txn:
                yield txn
        except lmdb.Error as error:
            raise StoreError(f"{self.directory}: {error}") from error

    # ------------------------------------------------------------------------------------------------------- numbers
    def bounds(self) -> tuple[int, int]:
        return self._state.first, self._state.last

    def hard_state(self) -> HardState:
        return self._state.hard

    def applied(self) -> int:
        return self._state.applied

    def joined(self) -> bool:
        return self._state.joined

    def installing(self) -> bool:
        return self._state.installing

    def bytes_used(self) -> int:
        return self._end(0)

    # ------------------------------------------------------------------------------------------------------- writing
    def write(self, writes: Writes) -> None:
        after = advance(self._state, writes) if self._failure is None else self._state
        self._transact(lambda txn: self._put(txn, writes, after), pages=pages_at_most(writes, self._page_bytes))

    def install_step(self) -> bool:
        if self._state.installing:
            pages = installation.step_pages(self._page_bytes)
            self._transact(lambda txn: installation.take_step(txn, self._databases, self._state), pages=pages)
        return self._state.installing

    def _transact(self, change: Callable[[lmdb.Transaction[bytes]], State], *, pages: int) -> None:
        """One synced transaction of ``change``, which gives the state behind it and takes at most ``pages``."""
        if self._failure is not None:
            raise self._failure
        alone = self._writing.acquire(blocking=False)
        assert alone, "two writes at a time"
        try:
            self._set_aside(pages)
            with self._env.begin(write=True) as txn:
                after = change(txn)._replace(transaction=txn.id())
                # Written even when nothing else is: LMDB skips the sync of a transaction without a dirty page.
                txn.put(layout.STATE_KEY, layout.encode_state(after), db=self._meta)
            self._state = after
            self._has_room = self._room.has_reserve(self._end(PAGES_PER_TRANSACTION), self._free_bytes)
        except lmdb.Error as error:
            raise self._write_error(error) from error
        finally:
            self._writing.release()

    def _end(self, pages: int) -> int:
        """Where the file ends if ``pages`` are added, in bytes."""
        return int(self._env.info()["last_pgno"] + 1 + pages) * self._page_bytes

    def _set_aside(self, pages: int) -> None:
        try:
            if self._room.set_aside(self._end(pages)):
                self._env.reader_check()  # it may grow because of a reader that was killed: it still holds its pages
        except OSError as error:
            if error.errno not in FULL:
                raise self._failed(error.errno or errno.EIO, str(error)) from error
            raise StorageFull(f"the disk of {self.directory} is full: {error}") from error

    def has_room(self) -> bool:
        return self._has_room

    def _free_bytes(self) -> int:
        """Pages inside the file that hold nothing, or nearly so: the few of the list of free pages count as free."""
        with self._reading() as txn:
            trees = [self._env.stat(), *(txn.stat(each) for each in self._databases.values())]
        used = sum(tree["branch_pages"] + tree["leaf_pages"] + tree["overflow_pages"] for tree in trees)
        return self._end(0) - used * self._page_bytes

    def _put(self, txn: lmdb.Transaction[bytes], writes: Writes, after: State) -> State:
        if writes.mends and not put_mends(txn, self._databases, self._state, writes.mends):
            raise StoreError(f"{self.directory} is damaged: a page has keys that do not belong there")
        for index in range(writes.truncate_from or self._state.last + 1, self._state.last + 1):
            txn.delete(layout.index_key(index), db=self._entries)
        for entry in writes.entries:
            key = layout.index_key(entry.index)
            self._append(txn, self._entries, key, layout.encode_entry(entry))
        if writes.checkpoint is not None:
            after = self._put_checkpoint(txn, writes.checkpoint, after)
        if writes.trim is not None:
            after = self._put_trim(txn, writes.trim, after)
        return installation.stage(txn, self._databases, writes, after)

    def _put_checkpoint(self, txn: lmdb.Transaction[bytes], checkpoint: Checkpoint, after: State) -> State:
        for record in checkpoint.records:
            self._append(txn, self._records, layout.index_key(record.index), layout.encode_record(record))
        rows = self._put_rows(txn, self._rows, checkpoint.rows, after.rows)
        postings = after.postings
        for topic_id, block in checkpoint.postings:
            key = layout.posting_key(topic_id, block)
            postings += txn.put(key, layout.encode_posting(key), db=self._postings, overwrite=False)
        return after._replace(rows=rows, postings=postings)

    def _put_trim(self, txn: lmdb.Transaction[bytes], trim: Trim, after: State) -> State:
        for index in range(self._state.first, trim.first):
            txn.delete(layout.index_key(index), db=self._entries)
            txn.delete(layout.index_key(index), db=self._records)
        postings = after.postings
        for topic_id, block in trim.postings:
            postings -= txn.delete(layout.posting_key(topic_id, block), db=self._postings)
        base_rows = self._put_rows(txn, self._base, trim.rows, after.base_rows)
        return after._replace(postings=postings, base_rows=base_rows)

    def _put_rows(
        self, txn: lmdb.Transaction[bytes], database: Any, rows: Mapping[bytes, bytes | None], count: int
    ) -> int:
        """Changes ``rows`` of ``database``; how many it has then, ``count`` if there was nothing to change."""
        for key, row in rows.items():
            assert 1 <= len(key) <= layout.KEY_BYTES_MAX, f"a row key of {len(key)} bytes"
            if row is None:
                txn.delete(key, db=database)
            else:
                txn.put(key, layout.seal(key, row), db=database)
        return int(txn.stat(database)["entries"]) if rows else count

    def _append(self, txn: lmdb.Transaction[bytes], database: Any, key: bytes, value: bytes) -> None:
        if not txn.put(key, value, db=database, append=True):
            raise StoreError(f"{self.directory} is damaged: index {layout.key_index(key)} is not behind all others")

    def _write_error(self, error: lmdb.Error) -> Exception:
        if isinstance(error, lmdb.MapFullError):
            return StorageFull(f"{self.directory} has reached the {self._env.info()['map_size']} bytes it may use")
        if error.code in FULL:
            return StorageFull(f"the disk of {self.directory} is full: {error}")
        # LMDB's own codes are negative; whatever they say, this environment can't be written any more.
        return self._failed(error.code if error.code > 0 else errno.EIO, str(error))

    def _failed(self, code: int, words: str) -> OSError:
        self._failure = OSError(code, f"{self.directory}: {words}")
        return self._failure

    # ------------------------------------------------------------------------------------------------------- entries
    def entry(self, index: int) -> Entry:
        with self._viewing() as txn:
            return layout.decode_entry(index, self._entry_value(txn, index))

    def entries(self, first: int, last: int, *, bytes_max: int) -> list[Entry]:
        found: list[Entry] = []
        taken = 0
        with self._viewing() as txn:
            state = self._stored_state(txn)
            if first < state.first:
                raise KeyError(first)
            for index in range(first, min(last, state.last) + 1):
                entry = layout.decode_entry(index, self._entry_value(txn, index))
                found.append(entry)
                taken += len(entry.command)
                if taken >= bytes_max:
                    break
        return found

    def term(self, index: int) -> int:
        with self._viewing() as txn:
            return layout.decode_term(index, self._entry_value(txn, index))

    def _entry_value(self, txn: lmdb.Transaction[memoryview], index: int) -> memoryview:
        value = txn.get(layout.index_key(index), db=self._entries) if index > 0 else None
        if value is None:
            state = self._stored_state(txn)
            if state.first <= index <= state.last:
                raise layout.corrupt_entry(index, "is missing")
            raise KeyError(index)
        return value

    def _stored_state(self, txn: lmdb.Transaction[Any]) -> State:
        """The state as this transaction sees it: the one in memory may already be a newer one."""
        try:
            return layout.decode_state(bytes(txn.get(layout.STATE_KEY, b"", db=self._meta)))
        except Damaged as error:
            raise StoreError(f"{self.directory} is damaged: its state {error}") from error

    # --------------------------------------------------------------------------------------------- what apply decided
    def record(self, index: int) -> EntryRecord:
        with self._reading() as txn:
            return self._record(txn, index)

    def records(self, first: int, last: int) -> list[EntryRecord]:
        with self._reading() as txn:
            state = self._stored_state(txn)
            return [self._record(txn, index) for index in range(max(first, state.first), min(last, state.applied) + 1)]

    def _record(self, txn: lmdb.Transaction[bytes], index: int) -> EntryRecord:
        value = txn.get(layout.index_key(index), db=self._records) if index > 0 else None
        if value is None:
            state = self._stored_state(txn)
            if state.first <= index <= state.applied:
                raise layout.corrupt_entry(index, "has lost its record")
            raise KeyError(index)
        return layout.decode_record(index, value)

    def index_of_seq(self, seq: int) -> int | None:
        with self._reading() as txn:
            state = self._stored_state(txn)
            return find_seq(lambda index: self._record(txn, index), state.first, state.applied, seq)

    def index_of_time(self, timestamp: int) -> int | None:
        with self._reading() as txn:
            state = self._stored_state(txn)
            return find_time(lambda index: self._record(txn, index), state.first, state.applied, timestamp)

    def rows(self) -> list[tuple[bytes, bytes]]:
        with self._reading() as txn:
            return self._all_rows(txn, self._rows, self._stored_state(txn).rows)

    def base(self) -> SnapshotHead:
        return self._state.base

    def base_rows(self, first: int, *, after: bytes = b"", bytes_max: int | None = None) -> list[tuple[bytes, bytes]]:
        with self._reading() as txn:
            state = self._stored_state(txn)
            if first != state.first:
                raise KeyError(first)
            if bytes_max is None and not after:
                return self._all_rows(txn, self._base, state.base_rows)
            found = []
            size = 0
            for key, row in self._rows_behind(txn, self._base, after):
                found.append((key, row))
                size += len(key) + len(row)
                if bytes_max is not None and size >= bytes_max:
                    break
            return found

    def _all_rows(self, txn: lmdb.Transaction[bytes], database: Any, expected: int) -> list[tuple[bytes, bytes]]:
        found = list(self._rows_behind(txn, database, b""))
        if len(found) != expected:
            raise StoreError(f"{self.directory} is damaged: it has {len(found)} rows, its state says {expected}")
        return found

    def _rows_behind(self, txn: lmdb.Transaction[bytes], database: Any, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        with txn.cursor(db=database) as cursor:
            if not (cursor.set_range(after + b"\0") if after else cursor.first()):
                return
            for key, value in cursor:
                try:
                    yield key, layout.unseal(key, value)
                except Damaged as error:
                    raise StoreError(f"{self.directory} is damaged: row {key!r} {error}") from error

    def next_block(self, topic_ids: Sequence[int], block: int) -> int | None:
        nearest: int | None = None
        with self._reading() as txn, txn.cursor(db=self._postings) as cursor:
            first = self._stored_state(txn).first
            if topic_ids and first > 1 and first % BLOCK_ENTRIES and block == first // BLOCK_ENTRIES:
                return block
            for topic_id in topic_ids:
                found = self._next_block(cursor, topic_id, block)
                if found is not None and (nearest is None or found < nearest):
                    nearest = found
                    if found == block:
                        break
        return nearest

    def _next_block(self, cursor: lmdb.Cursor[bytes], topic_id: int, block: int) -> int | None:
        """The answer lies between two postings. Both are checked, for a damaged key can lead the search astray or
        hide the posting that was asked for; two whole neighbours on either side of the place prove the answer."""
        place = (topic_id, block)
        found = self._posting(cursor) if cursor.set_range(layout.posting_key(*place)) else None
        if found != place and (cursor.prev() if found else cursor.last()):
            before = self._posting(cursor)
            if before >= place:
                raise StoreError(f"{self.directory} is damaged: postings {before} and {found} are out of order")
        if found is None or found[0] != topic_id:
            return None
        if found < place:
            raise StoreError(f"{self.directory} is damaged: posting {found} is out of order")
        return found[1]

    def _posting(self, cursor: lmdb.Cursor[bytes]) -> tuple[int, int]:
        try:
            return layout.decode_posting(cursor.key(), cursor.value())
        except Damaged as error:
            raise StoreError(f"{self.directory} is damaged: posting {cursor.key().hex()} {error}") from error

    # ------------------------------------------------------------------------------------------------------- closing
    def close(self) -> None:
        with self._writing:
            if self._owner >= 0:
                self._env.close()
                os.close(self._data)
                os.close(self._owner)
                self._owner = -1


def _create(path: str, identity: Identity) -> None:
    """Makes the data file aside and renames it when it is whole and synced: one that is there and empty is then a
    log that was lost, which must not pass for a new one (its node would have forgotten whom it voted for)."""
    aside = os.path.join(path, layout.NEW_DIRECTORY)
    shutil.rmtree(aside, ignore_errors=True)
    os.mkdir(aside, 0o700)
    try:
        with (
            lmdb.open(aside, map_size=_MAP_BYTES_NEW, max_dbs=len(layout.DATABASES), mode=0o600, lock=False) as env,
            env.begin(write=True) as txn,
        ):
            meta = [env.open_db(name, txn=txn) for name in layout.DATABASES][-1]
            txn.put(layout.FORMAT_KEY, layout.encode_format(), db=meta)
            txn.put(layout.IDENTITY_KEY, layout.encode_identity(identity), db=meta)
            txn.put(layout.STATE_KEY, layout.encode_state(State(joined=False, transaction=txn.id())), db=meta)
        os.rename(os.path.join(aside, layout.DATA_FILE), os.path.join(path, layout.DATA_FILE))
        os.rmdir(aside)
        sync_directory(path)
    except lmdb.Error as error:
        raise StoreError(f"{path}: a log can't be made here: {error}") from error


def _open_environment(path: str, map_bytes: int) -> lmdb.Environment:
    """Reserves ``map_bytes`` of address space, or half as often as it takes where a process may not have as much
    (`ulimit -v`, a kernel with a small address space)."""
    while True:
        try:
            return lmdb.open(path, map_size=map_bytes, max_dbs=len(layout.DATABASES), mode=0o600)
        except lmdb.MemoryError as error:
            if map_bytes // 2 < _MAP_BYTES_MIN:
                raise StoreError(f"{path}: no address space for a map of {map_bytes} bytes") from error
            map_bytes //= 2
        except lmdb.Error as error:
            raise StoreError(f"{path} can't be opened: {error}") from error


def _extend_file(data: str, env: lmdb.Environment) -> None:
    """Makes the file reach the end of its last page: to read beyond the end of a mapped file that was cut short is
    SIGBUS, whereas a hole reads as zeros, which fail their checks. By name, not by descriptor: closing one drops
    LMDB's locks."""
    bytes_needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if os.path.getsize(data) < bytes_needed:
        os.truncate(data, bytes_needed)


def _check_counts(directory: str, state: State, counts: Mapping[bytes, int]) -> None:
    """LMDB counts the keys of each database: a subtree that is gone, or an old one that came back, shows here."""
    for name, wanted in layout.expected_counts(state).items():
        if counts[name] != wanted:
            raise StoreError(f"{directory} is damaged: it has {counts[name]} {name.decode()}, its state says {wanted}")


def _words(identity: Identity) -> str:
    cluster = f" of cluster {identity.cluster!r}" if identity.cluster else ""
    return f"log {identity.log!r} on node {identity.node!r}{cluster}"
