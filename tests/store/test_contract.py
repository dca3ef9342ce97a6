"""What floors above may ask of a store: each claim for the LMDB environment and for its memory twin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store.logs import Home, LmdbHome, MemoryHome, applied, entries, entry, records

from lanyinglog.errors import CorruptEntry, StoreError
from lanyinglog.store import layout
from lanyinglog.store.log_store import (
    BLOCK_ENTRIES,
    ENTRY_BYTES_MAX,
    Checkpoint,
    Entry,
    EntryRecord,
    HardState,
    LogStore,
    Mend,
    Writes,
    entry_crc,
)

ALL = 1 << 40


@pytest.fixture(params=["lmdb", "memory"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return LmdbHome(tmp_path / "log") if request.param == "lmdb" else MemoryHome()


@pytest.fixture
def store(home: Home) -> Iterator[LogStore]:
    opened = home.open()
    yield opened
    opened.close()


def numbers(store: LogStore) -> tuple[object, ...]:
    return store.bounds(), store.hard_state(), store.applied(), store.rows(), store.entries(1, 99, bytes_max=ALL)


# ---------------------------------------------------------------------------------------------------------- beginnings
def test_a_new_store_is_empty(store: LogStore) -> None:
    assert numbers(store) == ((1, 0), HardState(), 0, [], [])
    assert store.records(1, 9) == []
    assert store.index_of_seq(1) is None
    assert store.index_of_time(0) is None
    assert store.next_block([1, 2], 0) is None


@pytest.mark.parametrize("index", [-1, 0, 3, 1 << 40])
def test_an_entry_that_is_not_there_is_a_key_error(store: LogStore, index: int) -> None:
    store.write(applied([1, 1]))
    for question in (store.entry, store.term, store.record):
        with pytest.raises(KeyError):
            question(index)


def test_all_is_there_when_the_store_is_opened_again(home: Home) -> None:
    store = home.open()
    store.write(applied([2, 0, 5]))
    before = (*numbers(store), store.records(1, 3), store.index_of_seq(7), store.next_block([7], 0))
    store.close()
    store = home.open()
    assert (*numbers(store), store.records(1, 3), store.index_of_seq(7), store.next_block([7], 0)) == before
    assert store.bounds() == (1, 3)
    store.write(Writes(entries=entries(4, 4)))
    assert store.bounds() == (1, 4)
    store.close()


def test_a_closed_store_answers_nothing(home: Home) -> None:
    store = home.open()
    store.write(applied([1]))
    store.close()
    for question in (lambda: store.entry(1), lambda: store.record(1), store.rows, lambda: store.next_block([7], 0)):
        with pytest.raises(StoreError):
            question()
    store.close()


# ------------------------------------------------------------------------------------------------------------- entries
def test_entries_come_back_as_they_were_written(store: LogStore) -> None:
    written = [entry(1, command=b""), entry(2, command=bytes(range(256))), entry(3, 2, b"x" * 100_000)]
    store.write(Writes(entries=written))
    assert store.bounds() == (1, 3)
    assert [store.entry(index) for index in (1, 2, 3)] == written
    assert [store.term(index) for index in (1, 2, 3)] == [1, 1, 2]


def test_the_largest_entry_is_taken_and_one_byte_more_is_not(store: LogStore) -> None:
    largest = entry(1, command=bytes(ENTRY_BYTES_MAX))
    store.write(Writes(entries=[largest]))
    assert store.entry(1) == largest
    with pytest.raises(AssertionError):
        store.write(Writes(entries=[entry(2, command=bytes(ENTRY_BYTES_MAX + 1))]))
    assert store.bounds() == (1, 1)


@pytest.mark.parametrize(
    ("first", "last", "bytes_max", "expected"),
    [
        (1, 5, ALL, [1, 2, 3, 4, 5]),
        (2, 3, ALL, [2, 3]),
        (4, 99, ALL, [4, 5]),
        (6, 9, ALL, []),
        (3, 2, ALL, []),
        (1, 5, 1, [1]),
        (1, 5, 0, [1]),
        (1, 5, 20, [1, 2]),
        (1, 5, 21, [1, 2, 3]),
    ],
)
def test_a_stretch_of_entries_ends_where_it_should(
    store: LogStore, first: int, last: int, bytes_max: int, expected: list[int]
) -> None:
    store.write(Writes(entries=[entry(index, command=b"0123456789") for index in range(1, 6)]))
    assert [one.index for one in store.entries(first, last, bytes_max=bytes_max)] == expected


def test_a_stretch_before_the_first_entry_is_a_key_error(store: LogStore) -> None:
    store.write(Writes(entries=entries(1, 3)))
    with pytest.raises(KeyError):
        store.entries(0, 3, bytes_max=ALL)


def test_an_entry_whose_crc_is_wrong_is_stored_and_never_served(store: LogStore) -> None:
    """The CRC came from the leader: damage on the way here shows when the entry is read, on every node alike."""
    good = entry(1)
    store.write(Writes(entries=[Entry(1, 1, b"other" + good.command, good.crc), entry(2)]))
    for question in (lambda: store.entry(1), lambda: store.entries(1, 2, bytes_max=ALL)):
        with pytest.raises(CorruptEntry) as caught:
            question()
        assert caught.value.hint == "1"
    assert store.entry(2) == entry(2)


# ---------------------------------------------------------------------------------------------------------- truncation
def test_a_conflict_is_cut_off_and_replaced_in_one_write(store: LogStore) -> None:
    store.write(Writes(entries=entries(1, 5)))
    store.write(Writes(truncate_from=3, entries=entries(3, 4, term=2)))
    assert store.bounds() == (1, 4)
    assert store.entries(1, 9, bytes_max=ALL) == entries(1, 2) + entries(3, 4, term=2)


@pytest.mark.parametrize(("first", "last"), [(1, 0), (3, 2), (5, 4), (6, 5), (99, 5)])
def test_what_is_from_an_index_on_is_cut_off(store: LogStore, first: int, last: int) -> None:
    store.write(Writes(entries=entries(1, 5)))
    store.write(Writes(truncate_from=first))
    assert store.bounds() == (1, last)
    assert store.entries(1, 9, bytes_max=ALL) == entries(1, last)
    with pytest.raises(KeyError):
        store.entry(last + 1)


def test_a_commit_index_never_points_behind_the_log(store: LogStore) -> None:
    """Audit 9: it must not come true later, by entries that were never committed."""
    store.write(Writes(entries=entries(1, 5), hard_state=HardState(1, None, 9)))
    assert store.hard_state().commit == 5
    store.write(Writes(truncate_from=3))
    assert store.hard_state().commit == 2
    store.write(Writes(entries=entries(3, 9)))
    assert store.hard_state().commit == 2


# ------------------------------------------------------------------------------------------------------- what is wrong
def base() -> Writes:
    """Four entries, two of them applied: seqs 1 to 5, the newest message at 1,102."""
    return Writes(
        entries=entries(1, 4, term=3),
        hard_state=HardState(3, "n1", 2),
        checkpoint=Checkpoint(2, records([2, 3])),
    )


REFUSED = {
    "an entry that skips an index": Writes(entries=[entry(6)]),
    "an entry that is there": Writes(entries=[entry(4)]),
    "entries with a gap": Writes(entries=[entry(5), entry(7)]),
    "cutting off what is applied": Writes(truncate_from=2),
    "a term that falls": Writes(hard_state=HardState(2)),
    "an applied index that falls": Writes(checkpoint=Checkpoint(1)),
    "an applied index behind the log": Writes(checkpoint=Checkpoint(5, records([1] * 3, first=3, first_seq=6))),
    "an applied index without its records": Writes(checkpoint=Checkpoint(3)),
    "records beyond the applied index": Writes(
        checkpoint=Checkpoint(3, records([1, 1], first=3, first_seq=6, timestamp=9_000))
    ),
    "a record that skips an index": Writes(checkpoint=Checkpoint(4, [EntryRecord(4, 6, 1, 9_000)])),
    "a record that skips a seq": Writes(checkpoint=Checkpoint(3, [EntryRecord(3, 7, 1, 9_000)])),
    "a record that repeats a seq": Writes(checkpoint=Checkpoint(3, [EntryRecord(3, 5, 1, 9_000)])),
    "a record whose time falls": Writes(checkpoint=Checkpoint(3, [EntryRecord(3, 6, 0, 1_099)])),
    "a message at the time of another": Writes(checkpoint=Checkpoint(3, [EntryRecord(3, 6, 1, 1_103)])),
    "an empty key of a row": Writes(checkpoint=Checkpoint(2, rows={b"": b"x"})),
    "a long key of a row": Writes(checkpoint=Checkpoint(2, rows={b"x" * (layout.KEY_BYTES_MAX + 1): b"x"})),
}


@pytest.mark.parametrize("writes", REFUSED.values(), ids=REFUSED)
def test_a_write_that_breaks_a_rule_is_a_defect_and_writes_nothing(home: Home, writes: Writes) -> None:
    store = home.open()
    store.write(base())
    before = numbers(store)
    with pytest.raises(AssertionError):
        store.write(writes)
    assert numbers(store) == before
    store.close()
    store = home.open()
    assert numbers(store) == before
    store.close()


def test_the_writes_that_are_refused_are_good_but_for_the_fault(store: LogStore) -> None:
    store.write(base())
    assert store.records(1, 2)[-1].timestamp + 2 == 1_103  # the newest message's time: 2 and 3 messages, 100 ns between
    store.write(
        Writes(
            entries=[entry(5, 3)],
            hard_state=HardState(3, "n1", 5),
            checkpoint=Checkpoint(
                3, [EntryRecord(3, 6, 1, 1_104)], {b"x": b"y", b"x" * layout.KEY_BYTES_MAX: b""}, [(1, 0)]
            ),
        )
    )
    assert (store.bounds(), store.applied(), len(store.rows())) == ((1, 5), 3, 2)


# ------------------------------------------------------------------------------------------------- hard state and rows
@pytest.mark.parametrize("vote", [None, "", "n1", "節点", "x" * 255])
def test_hard_state_comes_back(home: Home, vote: str | None) -> None:
    store = home.open()
    store.write(Writes(entries=entries(1, 7), hard_state=HardState(1 << 40, vote, 7)))
    store.close()
    store = home.open()
    assert store.hard_state() == HardState(1 << 40, vote, 7)
    store.close()


def test_a_write_of_nothing_changes_nothing(store: LogStore) -> None:
    store.write(applied([1, 2]))
    before = numbers(store)
    store.write(Writes())
    assert numbers(store) == before


def test_rows_are_put_replaced_and_deleted(store: LogStore) -> None:
    store.write(applied([1]))
    rows = {b"b": b"2", b"a": b"", b"row-1": None, b"row-2": b"new", b"never there": None, b"\xff\x00": bytes(5_000)}
    store.write(Writes(checkpoint=Checkpoint(1, rows=rows)))
    assert store.rows() == [
        (b"a", b""), (b"b", b"2"), (b"row-2", b"new"), (b"row-3", b"value-3"), (b"\xff\x00", bytes(5_000)),
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------------- the indexes
def test_records_come_back_as_they_were(store: LogStore) -> None:
    made = records([2, 0, 3])
    made[0] = EntryRecord(1, 1, 2, 1_000, (0, 5, 65_535))
    store.write(Writes(entries=entries(1, 3), checkpoint=Checkpoint(3, made)))
    assert [store.record(index) for index in (1, 2, 3)] == made
    assert store.records(2, 3) == made[1:]
    assert store.records(-5, 99) == made
    assert store.records(3, 2) == []


COUNTS = [0, 2, 0, 0, 1, 3, 0, 5, 0]


def test_the_entry_of_each_seq_is_found(store: LogStore) -> None:
    store.write(applied(COUNTS))
    found = [store.index_of_seq(seq) for seq in range(14)]
    assert found == [None, 2, 2, 5, 6, 6, 6, 8, 8, 8, 8, 8, None, None]


def test_the_first_entry_at_or_after_each_time_is_found(store: LogStore) -> None:
    store.write(applied(COUNTS))
    made = records(COUNTS)
    for timestamp in range(900, made[-1].timestamp + 10):
        later = (one.index for one in made if one.count and one.timestamp + one.count > timestamp)
        assert store.index_of_time(timestamp) == next(later, None), timestamp


def test_the_next_block_with_one_of_the_topics_is_found(store: LogStore) -> None:
    postings = [(1, 0), (1, 3), (2, 1), (2, 3), (0xFFFF_FFFF, 5)]
    store.write(Writes(entries=entries(1, 1), checkpoint=Checkpoint(1, records([1]), {}, postings)))
    cases = {
        ((1,), 0): 0, ((1,), 1): 3, ((1,), 4): None, ((2,), 0): 1, ((1, 2), 1): 1, ((2, 1), 2): 3, ((), 0): None,
        ((3,), 0): None, ((0xFFFF_FFFF,), 0): 5, ((0xFFFF_FFFF,), 6): None, ((3, 2), 0): 1, ((0,), 0): None,
    }  # fmt: skip
    assert {case: store.next_block(*case) for case in cases} == cases


def test_a_posting_that_is_there_may_be_put_again(store: LogStore) -> None:
    store.write(Writes(entries=entries(1, 1), checkpoint=Checkpoint(1, records([1]), {}, [(1, 0), (1, 0)])))
    store.write(Writes(checkpoint=Checkpoint(1, (), {}, [(1, 0), (1, 1)])))
    assert (store.next_block([1], 0), store.next_block([1], 1), store.next_block([1], 2)) == (0, 1, None)


def test_a_log_of_many_blocks_is_found_through(store: LogStore) -> None:
    counts = [1] * (5 * BLOCK_ENTRIES)
    store.write(applied(counts))
    assert [store.next_block([7], block) for block in range(7)] == [0, 1, 2, 3, 4, 5, None]
    assert [store.index_of_seq(seq) for seq in (1, 64, 65, 320, 321)] == [1, 64, 65, 320, None]


def test_bytes_used_grow_with_the_log(store: LogStore) -> None:
    before = store.bytes_used()
    store.write(Writes(entries=[entry(index, command=bytes(10_000)) for index in range(1, 11)]))
    assert store.bytes_used() >= before + 100_000


def test_the_crc_of_an_entry_covers_all_of_it() -> None:
    one = entry_crc(1, 2, b"three")
    assert len({one, entry_crc(2, 2, b"three"), entry_crc(1, 3, b"three"), entry_crc(1, 2, b"thre")}) == 4


# --------------------------------------------------------------------------------------------------------------- mends
def test_what_is_mended_is_replaced_and_all_else_stays(store: LogStore) -> None:
    store.write(applied([1, 2, 3]))
    before = (*numbers(store), store.records(1, 3))
    mend = Mend(store.entry(2), store.record(2))
    store.write(Writes(mends=[mend]))
    assert (*numbers(store), store.records(1, 3)) == before
    store.write(Writes(mends=[mend], entries=entries(4, 4)))
    assert store.bounds() == (1, 4)


@pytest.mark.parametrize("index", [0, 3, 9])
def test_only_what_was_applied_can_be_mended(store: LogStore, index: int) -> None:
    store.write(applied([1, 1]))
    store.write(Writes(entries=entries(3, 3)))
    made = entry(index)
    with pytest.raises(AssertionError):
        store.write(Writes(mends=[Mend(made, EntryRecord(index, 3, 1, 10))]))
