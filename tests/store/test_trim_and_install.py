"""Trimming and installing on disk, held by both stores: what is gone is gone, what is kept is whole, always."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lanyinglog.errors import StoreError
from lanyinglog.store import installation, layout
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.log_store import (
    BLOCK_ENTRIES,
    Checkpoint,
    Entry,
    EntryRecord,
    HardState,
    LogStore,
    SnapshotHead,
    Stage,
    Trim,
    Writes,
    entry_crc,
)
from lanyinglog.store.memory import MemoryDisk, MemoryStore
from lanyinglog.store.verify import verify


def entry(index: int, term: int = 1, command: bytes = b"c") -> Entry:
    return Entry(index, term, command, entry_crc(index, term, command))


class Place:
    """Somewhere a store can be opened, closed and opened again."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._disk = MemoryDisk()
        self._store: LogStore | None = None

    def open(self) -> LogStore:
        self.close()
        if self.directory is None:
            self._store = MemoryStore(self._disk)
        else:
            self._store = LmdbStore.open(self.directory, node="n1", map_bytes=1 << 28)
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def is_sound(self) -> bool:
        self.close()
        return self.directory is None or verify(self.directory).ok


@pytest.fixture(params=["lmdb", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "log" if request.param == "lmdb" else None)
    yield place
    place.close()


def fill(store: LogStore, last: int) -> None:
    """Entries 1 to ``last``, one message each, of topic 1 (even) or 2 (odd); all applied."""
    store.write(
        Writes(
            entries=[entry(i) for i in range(1, last + 1)],
            hard_state=HardState(3, "n2", last),
            checkpoint=Checkpoint(
                last,
                [EntryRecord(i, i, 1, 10 * i, (), 100 * i) for i in range(1, last + 1)],
                {b"m": b"now", b"gone": b"soon"},
                [(1 + i % 2, i // BLOCK_ENTRIES) for i in range(1, last + 1)],
            ),
        )
    )


def trim(first: int, last_trimmed: int = 0) -> Trim:
    """To ``first``, when the log began at ``last_trimmed + 1``."""
    postings = [(1 + i % 2, i // BLOCK_ENTRIES) for i in range(last_trimmed + 1, first)]
    return Trim(first, first - 1, 10 * (first - 1), {b"m": b"then"}, postings)


# ---------------------------------------------------------------------------------------------------------- trimming
def test_what_is_trimmed_is_gone_and_the_rest_is_as_it_was(place: Place) -> None:
    store = place.open()
    fill(store, 200)
    store.write(Writes(trim=trim(100)))
    for reopened in (False, True):
        store = place.open() if reopened else store
        assert store.bounds() == (100, 200)
        assert store.base() == SnapshotHead(100, 99, 990, 1)
        assert store.base_rows(100) == [(b"m", b"then")]
        assert store.rows() == [(b"gone", b"soon"), (b"m", b"now")]
        for look_up in (store.entry, store.record, store.term):
            with pytest.raises(KeyError):
                look_up(99)
        with pytest.raises(KeyError):
            store.entries(99, 120, bytes_max=1 << 20)
        assert store.entry(100) == entry(100) and store.record(100).first_seq == 100
        assert [each.index for each in store.records(1, 101)] == [100, 101]
        assert store.index_of_seq(99) is None and store.index_of_seq(100) == 100
        assert store.index_of_time(0) == 100
    assert place.is_sound()


def test_the_first_block_of_a_trimmed_log_has_every_topic_for_some_of_its_postings_are_gone(place: Place) -> None:
    store = place.open()
    fill(store, 200)
    store.write(Writes(trim=trim(70)))
    assert store.next_block([1], 0) == 2, "postings of trimmed entries are gone"
    assert store.next_block([1], 1) == 1, "the log begins inside of block 1"
    assert store.next_block([7], 1) == 1 and store.next_block([7], 2) is None
    assert store.next_block([], 1) is None
    store.write(Writes(trim=trim(128, 69)))
    assert store.next_block([1], 1) == 2 and store.next_block([7], 2) is None


def test_trims_in_steps_and_in_one_leave_the_same(place: Place) -> None:
    store = place.open()
    fill(store, 200)
    for first in (2, 64, 65, 130, 199):
        store.write(Writes(trim=trim(first, store.bounds()[0] - 1)))
    assert store.bounds() == (199, 200)
    assert store.base() == SnapshotHead(199, 198, 1980, 1)
    assert place.is_sound()


@pytest.mark.parametrize(
    ("applied", "first"),
    [(10, 11), (10, 12), (12, 12), (12, 13)],
    ids=["beyond the checkpoint", "far beyond", "one entry left", "none left"],
)
def test_a_trim_keeps_what_is_not_in_a_checkpoint_and_two_entries(place: Place, applied: int, first: int) -> None:
    store = place.open()
    fill(store, 10)
    more = [entry(11), entry(12)]
    store.write(Writes(entries=more, hard_state=HardState(3, "n2", 12)))
    if applied == 12:
        records = [EntryRecord(i, i, 1, 10 * i, (), 100 * i) for i in (11, 12)]
        store.write(Writes(checkpoint=Checkpoint(12, records)))
    with pytest.raises(AssertionError):
        store.write(Writes(trim=trim(first)))
    assert store.bounds() == (1, 12)


def test_a_trim_may_not_rest_on_a_checkpoint_of_its_own_transaction(place: Place) -> None:
    """The base is made of entries whose records are on disk; in the same transaction they are not yet."""
    store = place.open()
    fill(store, 10)
    records = [EntryRecord(i, i, 1, 10 * i, (), 100 * i) for i in (11, 12)]
    checkpoint = Checkpoint(12, records)
    with pytest.raises(AssertionError):
        store.write(Writes(entries=[entry(11), entry(12)], checkpoint=checkpoint, trim=trim(11)))


# -------------------------------------------------------------------------------------------------------- installing
HEAD = SnapshotHead(501, 5_000, 50_000, 30)
SNAPSHOT = [(f"k{i:02}".encode(), f"row {i}".encode()) for i in range(30)]
ARRIVALS = [entry(501, 2), entry(502, 3)]


def stage_all(store: LogStore) -> None:
    store.write(Writes(stage=Stage(HEAD, SNAPSHOT[:20], restart=True)))
    store.write(Writes(stage=Stage(HEAD, SNAPSHOT[20:]), install=ARRIVALS))


def check_installed(store: LogStore) -> None:
    assert not store.installing()
    assert store.bounds() == (501, 502) and store.applied() == 500
    assert store.hard_state() == HardState(3, "n2", 502), "term and vote are what they were"
    assert store.rows() == SNAPSHOT and store.base_rows(501) == SNAPSHOT
    assert store.base() == HEAD
    assert store.entries(501, 502, bytes_max=1 << 20) == ARRIVALS
    assert store.records(1, 600) == [] and store.next_block([1, 2], 0) is None
    with pytest.raises(KeyError):
        store.entry(200)


def test_a_staged_snapshot_changes_nothing_until_it_is_whole(place: Place) -> None:
    store = place.open()
    fill(store, 200)
    store.write(Writes(stage=Stage(HEAD, SNAPSHOT[:20], restart=True)))
    for reopened in (False, True):
        store = place.open() if reopened else store
        assert not store.installing() and store.bounds() == (1, 200) and store.base_rows(1) == []
        assert store.rows() == [(b"gone", b"soon"), (b"m", b"now")]
    assert place.is_sound()


def test_a_new_snapshot_forgets_the_part_of_another(place: Place) -> None:
    store = place.open()
    fill(store, 200)
    store.write(Writes(stage=Stage(SnapshotHead(400, 1, 1, 9), [(b"alien", b"row")], restart=True)))
    stage_all(place.open())
    store = place.open()
    while store.install_step():
        pass
    check_installed(store)
    assert place.is_sound()


@pytest.mark.parametrize("keys", [3, 64])
def test_an_installation_goes_on_after_a_crash_between_any_two_steps(
    place: Place, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "STEP_KEYS_MAX", keys)
    store = place.open()
    fill(store, 60)
    stage_all(store)
    steps = 0
    while (store := place.open()).installing():
        assert store.hard_state() == HardState(3, "n2", 60)
        with pytest.raises(AssertionError):
            store.write(Writes())
        store.install_step()
        steps += 1
    assert steps > 2
    check_installed(store)
    more = [EntryRecord(i, 5_000 + i - 500, 1, 50_000 + i, (), 1) for i in (501, 502)]
    store.write(Writes(checkpoint=Checkpoint(502, more, {b"k00": b"new"}, [(9, 7)])))
    assert place.is_sound()


def failed_install(store: MemoryStore, *, lands: bool) -> None:
    store.fail_next_write(OSError(errno.EIO, "lost"), lands=lands)
    with pytest.raises(OSError):
        store.write(Writes(stage=Stage(HEAD, SNAPSHOT[20:]), install=ARRIVALS))


@pytest.mark.parametrize("lands", [True, False])
def test_a_power_cut_in_the_deciding_write_leaves_the_old_log_or_the_new(lands: bool) -> None:
    disk = MemoryDisk()
    store = MemoryStore(disk)
    fill(store, 60)
    store.write(Writes(stage=Stage(HEAD, SNAPSHOT[:20], restart=True)))
    failed_install(store, lands=lands)
    store = MemoryStore(disk)
    while store.install_step():
        pass
    if lands:
        check_installed(store)
    else:
        assert store.bounds() == (1, 60)


def incomplete(store: LogStore) -> None:
    store.write(Writes(stage=Stage(HEAD, SNAPSHOT[:20], restart=True), install=ARRIVALS))


def older(store: LogStore) -> None:
    head = SnapshotHead(199, 5, 5, 1)
    store.write(Writes(stage=Stage(head, SNAPSHOT[:1], restart=True), install=[entry(199), entry(200)]))


def with_other_entries(store: LogStore) -> None:
    store.write(Writes(stage=Stage(HEAD, SNAPSHOT, restart=True), install=[entry(502), entry(503)]))


def with_a_damaged_entry(store: LogStore) -> None:
    bad = Entry(502, 3, b"changed", ARRIVALS[1].crc)
    store.write(Writes(stage=Stage(HEAD, SNAPSHOT, restart=True), install=[ARRIVALS[0], bad]))


def of_another(store: LogStore) -> None:
    store.write(Writes(stage=Stage(HEAD, SNAPSHOT[:20], restart=True)))
    store.write(Writes(stage=Stage(SnapshotHead(600, 1, 1, 30), SNAPSHOT[20:])))


@pytest.mark.parametrize("attempt", [incomplete, older, with_other_entries, with_a_damaged_entry, of_another])
def test_a_snapshot_that_must_not_replace_the_log_never_does(place: Place, attempt: Callable[[LogStore], None]) -> None:
    store = place.open()
    fill(store, 200)
    with pytest.raises(AssertionError):
        attempt(store)
    assert not store.installing() and place.open().bounds() == (1, 200)


def test_base_rows_come_in_bounded_parts_and_only_of_the_base_that_is_asked_for(place: Place) -> None:
    store = place.open()
    fill(store, 60)
    stage_all(store)
    while store.install_step():
        pass
    found: list[tuple[bytes, bytes]] = []
    while part := store.base_rows(501, after=found[-1][0] if found else b"", bytes_max=40):
        assert sum(len(key) + len(row) for key, row in part) < 40 + 20
        found += part
    assert found == SNAPSHOT
    with pytest.raises(KeyError):
        store.base_rows(500)


# ------------------------------------------------------------------------------------------------------------ joining
def test_a_directory_made_anew_has_not_joined_until_it_is_written_so(tmp_path: Path) -> None:
    place = Place(tmp_path / "log")
    assert not place.open().joined()
    place.open().write(Writes(joined=True))
    assert place.open().joined()
    place.close()


def test_verify_says_that_a_snapshot_is_being_installed(tmp_path: Path) -> None:
    place = Place(tmp_path / "log")
    store = place.open()
    fill(store, 60)
    stage_all(store)
    store.install_step()
    place.close()
    assert (found := verify(tmp_path / "log")).ok and found.installing


def test_verify_finds_a_posting_of_a_block_that_is_trimmed(tmp_path: Path) -> None:
    place = Place(tmp_path / "log")
    store = place.open()
    fill(store, 200)
    store.write(Writes(trim=Trim(150, 149, 1490, {b"m": b"then"}, ())))
    place.close()
    assert verify(tmp_path / "log").counts == {"posting": 4}


def test_a_lost_base_row_is_found_at_start(tmp_path: Path) -> None:
    place = Place(tmp_path / "log")
    store = place.open()
    fill(store, 200)
    store.write(Writes(trim=trim(100)))
    assert isinstance(store, LmdbStore)
    with store._env.begin(write=True) as txn:
        txn.delete(b"m", db=store._base)
        state = store._state._replace(transaction=txn.id())
        txn.put(layout.STATE_KEY, layout.encode_state(state), db=store._meta)
    with pytest.raises(StoreError, match="0 base"):
        place.open()
