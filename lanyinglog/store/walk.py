"""The walk of an offline check: reads every key and value of a data file, in a process of its own that may die of it.

Run by `verify` as ``python -m lanyinglog.store.walk DIRECTORY DESCRIPTOR [CHECK]``. The walk goes through its
`Phase`s in order and prints one JSON line for each thing that is wrong. Where it is, and what it has counted, it
keeps in a `Place`: memory of the supervising process. When damage inside LMDB's own pages kills the walk (SIGSEGV,
SIGBUS, or an assertion in liblmdb), a new one goes on behind that place.

Entries and records are fetched one by one by the indexes that the state says are there, never by following LMDB from
one to the next: so each answers for itself, and one that is gone shows. The file is opened read-only and unlocked;
the supervisor holds the directory.
"""

from __future__ import annotations

import json
import mmap
import os
import pkgutil
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from enum import IntEnum
from typing import Any

import lmdb
import lmdb.verify

from lanyinglog.errors import CorruptEntry, StoreError
from lanyinglog.store import layout
from lanyinglog.store.layout import Damaged
from lanyinglog.store.log_store import BLOCK_ENTRIES, Entry, EntryRecord
from lanyinglog.store.pages import find_problem
from lanyinglog.store.state import State, at_base, discontinuity, follow

Check = Callable[[Entry], str | None]

_verify_structure: Callable[[str], list[str]] = lmdb.verify.verify


class Phase(IntEnum):
    """The order of the walk; entries and records can be resumed at an index, the others only skipped."""

    PAGES = 0
    META = 1
    ENTRIES = 2
    RECORDS = 3
    ROWS = 4
    POSTINGS = 5
    BASE = 6
    DONE = 7


class Cell(IntEnum):
    """What a `Place` holds, each a u64: where the walk is, and how much it has found to be sound."""

    PHASE = 0
    INDEX = 1
    ENTRIES = 2
    RECORDS = 3
    MESSAGES = 4
    LAST_SEQ = 5
    LAST_TIMESTAMP = 6
    ROWS = 7
    POSTINGS = 8
    BASE_ROWS = 9


class Place:
    """The cells, in a file mapped by both processes."""

    def __init__(self, descriptor: int) -> None:
        size = 8 * len(Cell)
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        self._map = mmap.mmap(descriptor, size)
        self.cells = memoryview(self._map).cast("Q")

    def close(self) -> None:
        self.cells.release()
        self._map.close()


class Walk:
    """One pass over ``directory`` from where ``place`` says; problems go to ``report(kind, index, message)``."""

    def __init__(self, directory: str, place: Place, check: Check | None, report: Callable[..., None]) -> None:
        self._directory = directory
        self._data = os.path.join(directory, layout.DATA_FILE)
        self._cells = place.cells
        self._check = check
        self._report = report
        self._state = State()
        self._trusted = False
        self._databases: dict[bytes, Any] = {}

    def run(self) -> None:
        phases = (self._walk_pages, self._walk_meta, self._walk_entries, self._walk_records, self._walk_rows)
        cells = self._cells
        if cells[Cell.PHASE] > Phase.META:
            self._open(quiet=True)
        for phase, walk in enumerate((*phases, self._walk_postings, self._walk_base)):
            if phase >= cells[Cell.PHASE]:
                cells[Cell.PHASE] = phase
                walk()
                if cells[Cell.PHASE] == Phase.DONE:
                    return
                cells[Cell.INDEX] = 0
        cells[Cell.PHASE] = Phase.DONE

    # --------------------------------------------------------------------------------------------------- LMDB's pages
    def _walk_pages(self) -> None:
        """LMDB's structure, read as plain bytes: what its own verifier finds, and whether the meta pages agree."""
        problem = find_problem(self._data)
        if problem is not None:
            self._report("pages", None, problem)
        try:
            for message in _verify_structure(self._directory):
                self._report("pages", None, message)
        except lmdb.verify.VerifyError as error:
            self._report("pages", None, str(error))

    # ----------------------------------------------------------------------------------------------------------- meta
    def _walk_meta(self) -> None:
        self._open(quiet=False)

    def _open(self, *, quiet: bool) -> None:
        """Opens the environment and reads the meta values; ends the walk if there is nothing to walk."""
        try:
            self._env = lmdb.open(
                self._directory,
                map_size=max(os.path.getsize(self._data), mmap.PAGESIZE),
                max_dbs=len(layout.DATABASES),
                readonly=True,
                lock=False,
            )
            self._databases = {name: self._env.open_db(name, create=False) for name in layout.DATABASES}
            self._txn = self._env.begin()
            keys = (layout.FORMAT_KEY, layout.IDENTITY_KEY, layout.STATE_KEY)
            form, identity, state = (self._value(layout.META, key) for key in keys)
        except lmdb.Error as error:
            self._report("meta", None, f"the environment can't be opened: {error}")
            self._cells[Cell.PHASE] = Phase.DONE
            return
        try:
            whose, self._state = layout.decode_meta(self._directory, form, identity, state)
            layout.check_transaction(self._directory, self._state, self._txn.id())
            self._trusted = True
        except StoreError as error:
            self._state = self._guess_state()
            if not quiet:
                self._report("meta", None, error.message)
        else:
            if not quiet:
                self._check_state(whose)

    def _check_state(self, whose: layout.Identity) -> None:
        state = self._state
        hard = state.hard
        print(json.dumps({**asdict(whose), "first": state.first, "last": state.last, "applied": state.applied}))
        print(json.dumps({"term": hard.term, "vote": hard.vote, "commit": hard.commit}), flush=True)
        if hard.commit > state.last:
            self._report("meta", None, f"the commit index is {hard.commit}, the last entry {state.last}")
        if state.applied > state.last:
            self._report("meta", None, f"the applied index is {state.applied}, the last entry {state.last}")
        if state.installing:
            print(json.dumps({"installing": True}), flush=True)
            self._cells[Cell.PHASE] = Phase.DONE  # the old log is going and the new one has not come
        for name, wanted in layout.expected_counts(state).items():
            count = self._count(name)
            if count != wanted:
                self._report("meta", None, f"there are {count} {name.decode()}, the state says {wanted}")

    def _guess_state(self) -> State:
        """Bounds to walk when the state is lost: as many entries and records as LMDB counts."""
        return State(last=self._count(layout.ENTRIES), applied=self._count(layout.RECORDS))

    # -------------------------------------------------------------------------------------------------------- entries
    def _walk_entries(self) -> None:
        cells, state = self._cells, self._state
        term = 0
        for index in range(max(state.first, cells[Cell.INDEX]), state.last + 1):
            cells[Cell.INDEX] = index
            value = self._fetch(layout.ENTRIES, index, "entry")
            if value is None:
                continue
            try:
                found = layout.decode_term(index, value)
                if found < term:
                    self._report("entry", index, f"entry {index} has term {found}, the one before {term}")
                term = found
                entry = layout.decode_entry(index, value)
            except CorruptEntry as error:
                self._report("entry", index, error.message)
                continue
            problem = self._check(entry) if self._check is not None else None
            if problem is not None:
                self._report("entry", index, f"entry {index}: {problem}")
            cells[Cell.ENTRIES] += 1
        if self._trusted and term > state.hard.term:
            self._report("meta", None, f"the term is {state.hard.term}, an entry has term {term}")

    # -------------------------------------------------------------------------------------------------------- records
    def _walk_records(self) -> None:
        cells, state = self._cells, self._state
        start = max(state.first, cells[Cell.INDEX])
        before: State | None = at_base(state) if start == state.first else None
        for index in range(start, state.applied + 1):
            cells[Cell.INDEX] = index
            value = self._fetch(layout.RECORDS, index, "record")
            record = None if value is None else self._decode_record(index, value)
            if record is None:
                before = None  # what comes next can't be compared with a record that is not known
                continue
            problem = None if before is None else discontinuity(before, record)
            if problem is not None:
                self._report("record", index, problem)
            before = follow(before or State(), record)
            cells[Cell.RECORDS] += 1
            cells[Cell.MESSAGES] += record.count
            cells[Cell.LAST_SEQ] = before.next_seq - 1
            cells[Cell.LAST_TIMESTAMP] = before.last_timestamp
        if before is not None and self._trusted and before.next_seq != state.next_seq:
            self._report("meta", None, f"the records end at seq {before.next_seq}, the state says {state.next_seq}")

    def _decode_record(self, index: int, value: bytes) -> EntryRecord | None:
        try:
            return layout.decode_record(index, value)
        except CorruptEntry as error:
            self._report("record", index, error.message)
            return None

    # ----------------------------------------------------------------------------------------------- rows and postings
    def _walk_rows(self) -> None:
        self._walk_keys(layout.ROWS, "row", Cell.ROWS, layout.unseal)

    def _walk_base(self) -> None:
        self._walk_keys(layout.BASE, "base row", Cell.BASE_ROWS, layout.unseal)

    def _walk_postings(self) -> None:
        oldest, newest = (each // BLOCK_ENTRIES for each in (self._state.first, self._state.applied))

        def check(key: bytes, value: bytes) -> None:
            _, block = layout.decode_posting(key, value)
            if self._trusted and not oldest <= block <= newest:
                raise Damaged(f"is of block {block}, the log has blocks {oldest} to {newest}")

        self._walk_keys(layout.POSTINGS, "posting", Cell.POSTINGS, check)

    def _walk_keys(self, name: bytes, kind: str, cell: Cell, check: Callable[[bytes, bytes], object]) -> None:
        """By cursor, for these keys are known only from what is there; no more of them than LMDB counts, for
        damaged pages may lead in a circle."""
        before = b""
        try:
            cursor = self._txn.cursor(db=self._databases[name])
            for _, (key, value) in zip(range(self._count(name)), cursor, strict=False):
                words = f"{kind} {key.hex() if kind == 'posting' else repr(key)}"
                try:
                    check(key, value)
                    self._cells[cell] += 1
                except Damaged as error:
                    self._report(kind, None, f"{words} {error}")
                if key <= before:
                    self._report(kind, None, f"{words} is out of order")
                before = key
        except lmdb.Error as error:
            self._report(kind, None, f"the {name.decode()} behind {before!r} can't be read: {error}")
            self._renew()

    # ----------------------------------------------------------------------------------------------------------- LMDB
    def _fetch(self, name: bytes, index: int, kind: str) -> bytes | None:
        """The value of an index; None, and reported, if it is missing or LMDB can't reach it."""
        try:
            value = self._txn.get(layout.index_key(index), db=self._databases[name])
        except lmdb.Error as error:
            self._report(kind, index, f"{kind} {index} can't be read: {error}")
            self._renew()
            return None
        if value is None:
            self._report(kind, index, f"{kind} {index} is missing")
        return value

    def _value(self, name: bytes, key: bytes) -> bytes | None:
        return self._txn.get(key, db=self._databases[name])

    def _count(self, name: bytes) -> int:
        return int(self._txn.stat(self._databases[name])["entries"])

    def _renew(self) -> None:
        """LMDB refuses every further read of a transaction that has met a damaged page."""
        self._txn.abort()
        self._txn = self._env.begin()


def print_problem(kind: str, index: int | None, message: str) -> None:
    print(json.dumps([kind, index, message]), flush=True)


def main(arguments: list[str]) -> None:
    """DIRECTORY, the descriptor of the place, and perhaps the dotted name of a `Check`."""
    directory, descriptor, *check = arguments
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it dies where others would have a bug to report
    found: Check | None = pkgutil.resolve_name(check[0]) if check else None
    Walk(directory, Place(int(descriptor)), found, print_problem).run()


if __name__ == "__main__":
    main(sys.argv[1:])
