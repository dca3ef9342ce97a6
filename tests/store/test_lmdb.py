"""The LMDB environment itself: whose directory it is, who may use it, what a kill or a power cut leaves, and what a
full or failing disk does."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest
from store.logs import MAP_BYTES, LmdbHome, Model, applied, check_same, entries, entry, records

from lanyinglog.errors import CorruptEntry, StorageFull, StoreError
from lanyinglog.store import layout
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.log_store import Checkpoint, HardState, Mend, Writes
from lanyinglog.store.verify import verify

ALL = 1 << 40


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "n1" / "main"


def open_store(directory: Path, **changed: Any) -> LmdbStore:
    return LmdbStore.open(directory, **{"node": "n1", "cluster": "c", "map_bytes": MAP_BYTES, **changed})


def written(directory: Path, writes: Writes | None = None) -> Path:
    """``directory`` with a log in it, closed."""
    store = open_store(directory)
    store.write(writes or applied([1] * 10))
    store.close()
    return directory


@contextmanager
def tampering(directory: Path) -> Iterator[dict[bytes, Any]]:
    """A transaction past the checks, which leaves no trace but what the caller does: databases by name, and the
    transaction itself as ``txn``."""
    with (
        lmdb.open(str(directory), map_size=MAP_BYTES, max_dbs=len(layout.DATABASES)) as env,
        env.begin(write=True) as txn,
    ):
        databases = {name: env.open_db(name, txn=txn) for name in layout.DATABASES}
        before = txn.get(layout.STATE_KEY, db=databases[layout.META])
        yield {**databases, b"txn": txn}
        if txn.get(layout.STATE_KEY, db=databases[layout.META]) == before:
            state = layout.decode_state(before)._replace(transaction=txn.id())
            txn.put(layout.STATE_KEY, layout.encode_state(state), db=databases[layout.META])


# --------------------------------------------------------------------------------------------------- whose and in use
@pytest.mark.parametrize("changed", [{"node": "n2"}, {"log": "other"}, {"cluster": "d"}], ids=str)
def test_the_directory_of_another_is_refused(directory: Path, changed: dict[str, str]) -> None:
    written(directory)
    with pytest.raises(StoreError, match="belongs to log 'main' on node 'n1' of cluster 'c'"):
        open_store(directory, **changed)
    open_store(directory).close()


def test_a_directory_that_is_not_there_is_not_made_unless_asked_for(directory: Path) -> None:
    with pytest.raises(StoreError, match="holds no log"):
        open_store(directory, create=False)
    assert not directory.exists()


def test_a_directory_is_used_once_at_a_time(directory: Path) -> None:
    store = open_store(directory)
    with pytest.raises(StoreError, match=f"in use; owner.lock names process {os.getpid()}"):
        open_store(directory)
    with pytest.raises(StoreError, match="in use"):
        verify(directory)
    store.write(applied([1]))
    store.close()
    open_store(directory).close()


HOLDER = """
import sys
from lanyinglog.store.environment import LmdbStore
store = LmdbStore.open(sys.argv[1], node="n1", cluster="c", map_bytes=1 << 28)
print("open", flush=True)
sys.stdin.read()
"""


def child(program: str, *arguments: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_directory_in_use_by_another_process_is_refused_until_that_is_gone(directory: Path) -> None:
    with child(HOLDER, str(directory)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        for use in (open_store, verify):
            with pytest.raises(StoreError, match=f"process {holder.pid}"):
                use(directory)
        holder.kill()
    open_store(directory).close()
    assert verify(directory).ok


def test_a_directory_that_can_not_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="can't be used"):
        open_store(tmp_path / "file" / "log")


def test_what_is_made_is_for_its_owner_alone(directory: Path) -> None:
    written(directory)
    assert directory.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())


# --------------------------------------------------------------------------------------------------- what is not a log
def test_a_transaction_past_the_store_is_noticed(directory: Path) -> None:
    """As one would be that a damaged page number brings back: each value is sound, and of another time."""
    written(directory)
    with (
        lmdb.open(str(directory), map_size=MAP_BYTES, max_dbs=len(layout.DATABASES)) as env,
        env.begin(write=True) as txn,
    ):
        txn.put(b"row-1", layout.seal(b"row-1", b"other"), db=env.open_db(layout.ROWS, txn=txn))
    with pytest.raises(StoreError, match="transaction 3 leads to a state of transaction 2"):
        open_store(directory)
    assert not verify(directory).ok


def test_another_format_version_is_refused_by_name(directory: Path) -> None:
    written(directory)
    with tampering(directory) as at:
        at[b"txn"].put(layout.FORMAT_KEY, layout.encode_format(layout.FORMAT_VERSION + 1), db=at[layout.META])
    here = layout.FORMAT_VERSION
    with pytest.raises(StoreError, match=f"storage format {here + 1}; this program reads and writes {here}"):
        open_store(directory)


META_KEYS = [layout.FORMAT_KEY, layout.IDENTITY_KEY, layout.STATE_KEY]


@pytest.mark.parametrize("key", META_KEYS, ids=bytes.decode)
@pytest.mark.parametrize("damage", ["flipped", "cut off", "gone"])
def test_damaged_meta_values_are_refused(directory: Path, key: bytes, damage: str) -> None:
    written(directory)
    with tampering(directory) as at:
        value = at[b"txn"].get(key, db=at[layout.META])
        at[b"txn"].delete(key, db=at[layout.META])
        if damage != "gone":
            value = value[:-1] + (b"" if damage == "cut off" else bytes([value[-1] ^ 1]))
            at[b"txn"].put(key, value, db=at[layout.META])
    with pytest.raises(StoreError, match=r"damaged|not a lanyinglog log"):
        open_store(directory)


@pytest.mark.parametrize("content", [b"", b"x", bytes(8_192), b"\xff" * 100_000], ids=["empty", "x", "zeros", "ones"])
def test_a_data_file_that_is_none_is_not_taken_for_a_new_log(directory: Path, content: bytes) -> None:
    """A node whose log was lost must not start anew: it would vote again, and acknowledge again from 1."""
    directory.mkdir(parents=True)
    (directory / layout.DATA_FILE).write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        open_store(directory)
    assert (directory / layout.DATA_FILE).read_bytes() == content


def test_an_environment_of_another_program_is_refused(directory: Path) -> None:
    directory.mkdir(parents=True)
    with lmdb.open(str(directory), map_size=MAP_BYTES, max_dbs=2) as env, env.begin(write=True) as txn:
        txn.put(b"a", b"b", db=env.open_db(b"theirs", txn=txn))
    with pytest.raises(StoreError, match="not a lanyinglog log"):
        open_store(directory)


def test_a_log_that_was_being_made_is_made_again(directory: Path) -> None:
    (directory / layout.NEW_DIRECTORY).mkdir(parents=True)
    (directory / layout.NEW_DIRECTORY / layout.DATA_FILE).write_bytes(b"half a file")
    store = open_store(directory)
    assert store.bounds() == (1, 0)
    store.close()


@pytest.mark.parametrize("length", [10, 100, 4_096, 6_000, 8_192, 20_000])
def test_a_data_file_that_was_cut_short_is_never_served_wrong(directory: Path, length: int) -> None:
    written(directory)
    os.truncate(directory / layout.DATA_FILE, length)
    try:
        store = open_store(directory)
    except StoreError:
        return
    with pytest.raises((StoreError, CorruptEntry)):
        store.entries(1, 10, bytes_max=ALL)
        store.records(1, 10)
        store.rows()
    store.close()


# ------------------------------------------------------------------------------------------ values in the wrong place
def test_entries_in_each_others_place_are_not_served(directory: Path) -> None:
    written(directory)
    two, three = layout.index_key(2), layout.index_key(3)
    with tampering(directory) as at:
        txn, entries_db = at[b"txn"], at[layout.ENTRIES]
        values = txn.get(two, db=entries_db), txn.get(three, db=entries_db)
        txn.put(two, values[1], db=entries_db)
        txn.put(three, values[0], db=entries_db)
    store = open_store(directory)
    for index in (2, 3):
        for question in (store.entry, store.term):
            with pytest.raises(CorruptEntry, match=f"entry {index} "):
                question(index)
    assert store.entry(4) == entry(4)
    store.close()


@pytest.mark.parametrize("name", [layout.ENTRIES, layout.RECORDS, layout.ROWS, layout.POSTINGS], ids=bytes.decode)
def test_a_key_that_is_gone_is_missed_when_the_log_is_opened(directory: Path, name: bytes) -> None:
    written(directory)
    with tampering(directory) as at, at[b"txn"].cursor(db=at[name]) as cursor:
        assert cursor.first()
        assert cursor.delete()
    with pytest.raises(StoreError, match=f"{name.decode()}, its state says"):
        open_store(directory)


@pytest.mark.parametrize(
    ("name", "question"),
    [(layout.ENTRIES, "entry"), (layout.ENTRIES, "term"), (layout.RECORDS, "record")],
    ids=["entry", "term", "record"],
)
def test_a_key_that_is_gone_is_damage_though_the_count_is_right(directory: Path, name: bytes, question: str) -> None:
    written(directory)
    with tampering(directory) as at:
        at[b"txn"].delete(layout.index_key(4), db=at[name])
        at[b"txn"].put(layout.index_key(99), b"x", db=at[name])
    store = open_store(directory)
    with pytest.raises(CorruptEntry) as caught:
        getattr(store, question)(4)
    assert caught.value.hint == "4"
    with pytest.raises(KeyError):
        getattr(store, question)(11)
    store.close()


@pytest.mark.parametrize("key", [(7, 0), (7, 1), (8, 4)])
def test_a_posting_that_is_gone_or_false_is_found_by_its_neighbours(directory: Path, key: tuple[int, int]) -> None:
    postings = [(7, 0), (7, 1), (8, 4)]
    written(directory, Writes(entries=entries(1, 1), checkpoint=Checkpoint(1, records([1]), {}, postings)))
    with tampering(directory) as at:
        at[b"txn"].put(layout.posting_key(*key), b"false", db=at[layout.POSTINGS])
    store = open_store(directory)
    with pytest.raises(StoreError, match="posting"):
        store.next_block([key[0]], key[1])
    store.close()


def test_a_damaged_row_is_refused(directory: Path) -> None:
    written(directory)
    with tampering(directory) as at:
        at[b"txn"].put(b"row-2", layout.seal(b"row-1", b"value-1"), db=at[layout.ROWS])
    store = open_store(directory)
    with pytest.raises(StoreError, match="row-2"):
        store.rows()
    store.close()


# --------------------------------------------------------------------------------------------------- kill, power cut
WRITER = """
import sys
from store.logs import LmdbHome, entry, records
from pathlib import Path
from lanyinglog.store.log_store import Checkpoint, EntryRecord, HardState, Writes
store = LmdbHome(Path(sys.argv[1])).open()
last = store.bounds()[1]
newest = store.record(last) if last else EntryRecord(0, 1, 0, 0)
for index in range(last + 1, last + 10_000):
    newest = EntryRecord(index, newest.first_seq + newest.count, 2, newest.timestamp + 10)
    store.write(Writes(
        entries=[entry(index, 1, b"%d " % index * 300)],
        hard_state=HardState(1, "n1", index),
        checkpoint=Checkpoint(index, [newest], {b"row": b"%d" % index}, [(1, index // 64)]),
    ))
    print(index, flush=True)
"""


def test_what_was_written_survives_a_kill_at_any_moment(directory: Path) -> None:
    rng = random.Random(5)
    written_last = 0
    for _ in range(4):
        with child(WRITER, str(directory)) as writer:
            assert writer.stdout is not None
            for _ in range(rng.randrange(1, 60)):
                written_last = int(writer.stdout.readline())
            writer.kill()
        store = open_store(directory)
        first, last = store.bounds()
        assert (first, last >= written_last) == (1, True)
        assert store.entries(1, last, bytes_max=ALL) == [
            entry(index, 1, b"%d " % index * 300) for index in range(1, last + 1)
        ]
        assert (store.applied(), store.hard_state()) == (last, HardState(1, "n1", last))
        assert store.rows() == [(b"row", b"%d" % last)]
        assert [one.first_seq for one in store.records(1, last)] == [2 * index - 1 for index in range(1, last + 1)]
        store.close()


def power_cut(before: bytes, after: bytes, rng: random.Random, page_bytes: int) -> bytes:
    """What a disk may hold when power fails inside a transaction: any of its pages, but not yet its meta page."""
    pages = []
    for at in range(0, len(after), page_bytes):
        old, new = before[at : at + page_bytes], after[at : at + page_bytes]
        is_meta = at < 2 * page_bytes
        choices = [old] if is_meta else [old or bytes(len(new)), new]
        pages.append(rng.choice(choices))
    return b"".join(pages)


def test_a_power_cut_inside_a_write_leaves_the_log_as_it_was_before(directory: Path, tmp_path: Path) -> None:
    rng = random.Random(11)
    store, model = open_store(directory), Model()
    page_bytes = store._page_bytes
    data = directory / layout.DATA_FILE
    timestamp = 0
    for step in range(40):
        last, done = len(model.entries), len(model.records)
        first = max(done + 1, last + 1 - rng.choice((0, 0, 2)))
        new = [entry(index, 1, rng.randbytes(rng.choice((10, 500, 9_000)))) for index in range(first, first + 3)]
        timestamp += 100
        upto = rng.randrange(done, first + 2)
        made = records([2] * (upto - done), first=done + 1, first_seq=2 * done + 1, timestamp=timestamp)
        timestamp += 200 * len(made)
        writes = Writes(
            first,
            new,
            HardState(1, "n1", upto),
            Checkpoint(upto, made, {b"%d" % rng.randrange(50): b"x" * 200}, [(1, step)]),
        )
        before = data.read_bytes()
        store.write(writes)
        after = data.read_bytes()
        home = LmdbHome(tmp_path / f"cut{step}")
        home.directory.mkdir()
        (home.directory / layout.DATA_FILE).write_bytes(power_cut(before, after, rng, page_bytes))
        cut = home.open()
        check_same(cut, model, rng)
        cut.close()
        model.write(writes)
    check_same(store, model, rng)
    store.close()


# ----------------------------------------------------------------------------------------------------- full or failing
class FailingEnvironment:
    """An environment whose next write transactions fail at commit: `lmdb.Error` as the disk would cause it."""

    def __init__(self, env: lmdb.Environment, *errors: lmdb.Error) -> None:
        self._env = env
        self._errors = list(errors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    @contextmanager
    def begin(self, *, write: bool = False, **options: Any) -> Iterator[Any]:
        with self._env.begin(write=write, **options) as txn:
            yield txn
            if write and self._errors:
                error = self._errors.pop(0)
                txn.abort()
                raise error


def failure(kind: type[lmdb.Error], code: int) -> lmdb.Error:
    """An error as LMDB's binding makes it."""
    error = kind("mdb_txn_commit: as told")
    error.code = code
    return error


def test_a_full_disk_declines_the_write_and_nothing_else(directory: Path) -> None:
    store = open_store(directory)
    store.write(applied([1, 1]))
    full = [
        failure(lmdb.DiskError, errno.ENOSPC),
        failure(lmdb.DiskError, errno.EDQUOT),
        failure(lmdb.MapFullError, -30792),
    ]
    store._env = FailingEnvironment(store._env, *full)  # type: ignore[assignment]
    for _ in full:
        with pytest.raises(StorageFull):
            store.write(Writes(entries=entries(3, 3), hard_state=HardState(9, "n9")))
        assert store.bounds() == (1, 2)
        assert store.hard_state().term == 1
        assert store.entries(1, 9, bytes_max=ALL) == entries(1, 2)
    store.write(Writes(entries=entries(3, 3)))  # there is room again
    assert store.entry(3) == entry(3)
    store.close()


def test_room_is_set_aside_before_a_write_begins(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB calls a write that the disk cuts short EIO: a disk that gets full, if not known before, looks broken."""
    store = open_store(directory)
    store.write(applied([1, 1]))

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        large = Writes(entries=[entry(index, command=bytes(4 << 20)) for index in range(3, 7)])
        with pytest.raises(StorageFull, match="is full"):
            store.write(large)
        assert store.entries(1, 9, bytes_max=ALL) == entries(1, 2)
    store.write(large)
    assert store.bounds() == (1, 6)
    assert os.stat(directory / "data.mdb").st_size >= store.bytes_used()
    store.close()


def test_a_reserve_outlasts_the_disk(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full the store says so while there is room for what is under way, and for the trims after it."""
    store = open_store(directory)
    store.write(applied([1, 1]))
    assert store.has_room()

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    index = 3
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        while store.has_room():
            store.write(Writes(entries=[entry(index, command=bytes(1 << 20))]))
            index += 1
        for _ in range(4):
            store.write(Writes(entries=[entry(index, command=bytes(1 << 20))]))
            index += 1
        assert not store.has_room()
    store.write(Writes())
    assert store.has_room()  # there is room again
    store.close()


def test_room_inside_the_file_is_room(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is healed by a shorter log, though the file keeps its length."""
    store = open_store(directory)
    store.write(Writes(entries=[entry(index, command=bytes(1 << 20)) for index in range(1, 25)]))

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        index = 25
        while store.has_room():
            store.write(Writes(entries=[entry(index, command=bytes(1 << 20))]))
            index += 1
        store.write(Writes(truncate_from=5))
        store.write(Writes())
        assert store.has_room()
        for index in range(5, 13):
            store.write(Writes(entries=[entry(index, command=bytes(1 << 20))]))
            assert store.has_room()
        assert store.bounds() == (1, 12)
    store.close()


@pytest.mark.parametrize(
    "error",
    [
        failure(lmdb.DiskError, errno.EIO),
        failure(lmdb.PanicError, -30795),
        failure(lmdb.CorruptedError, -30796),
        failure(lmdb.Error, 0),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_write_is_final(directory: Path, error: lmdb.Error) -> None:
    """After a failed sync a later one can succeed with the data gone: whoever holds the store has to give it up."""
    store = open_store(directory)
    store.write(applied([1, 1]))
    store._env = FailingEnvironment(store._env, error)  # type: ignore[assignment]
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            store.write(Writes(entries=entries(3, 3)))
        assert caught.value.errno == errno.EIO
    assert store.entries(1, 9, bytes_max=ALL) == entries(1, 2)
    store.close()
    store = open_store(directory)
    store.write(Writes(entries=entries(3, 3)))
    store.close()


def test_a_full_map_heals_when_it_is_larger(directory: Path) -> None:
    """For real, without a twin: a map of 256 KiB."""
    store = open_store(directory, map_bytes=256 << 10)
    last = 0
    with pytest.raises(StorageFull, match="262144 bytes it may use"):
        for last in range(1_000):
            store.write(Writes(entries=[entry(last + 1, command=bytes(10_000))]))
    assert last > 10
    assert store.bounds() == (1, last)
    assert len(store.entries(1, last, bytes_max=ALL)) == last
    store.close()
    store = open_store(directory)
    store.write(Writes(entries=[entry(last + 1, command=bytes(10_000))]))
    assert store.bounds() == (1, last + 1)
    store.close()


# ---------------------------------------------------------------------------------------------------------- concurrency
def test_readers_see_the_log_before_or_after_a_write_and_never_between(directory: Path) -> None:
    store = open_store(directory)
    stop = threading.Event()
    faults: list[object] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not stop.is_set():
            found = store.entries(1, 9, bytes_max=ALL)
            rows = store.rows()
            if (found and len({one.term for one in found}) != 1) or (rows and len({value for _, value in rows}) != 1):
                faults.append((found, rows))
            reads += 1

    store.write(Writes(entries=entries(1, 1, 1)))
    store.write(Writes(checkpoint=Checkpoint(1, records([1]))))
    thread = threading.Thread(target=read)
    thread.start()
    try:
        for term in range(2, 60):
            rows = {b"%d" % key: b"%d" % term for key in range(20)}
            store.write(Writes(2, entries(2, 2 + term % 5, 1), None, Checkpoint(1, (), rows)))
    finally:
        stop.set()
        thread.join()
    assert not faults
    assert reads > 5
    store.close()


def test_two_writes_at_a_time_are_a_defect(directory: Path) -> None:
    store = open_store(directory)
    store._writing.acquire()
    with pytest.raises(AssertionError, match="two writes"):
        store.write(Writes())
    store._writing.release()
    store.close()


def test_a_report_of_a_sound_log_tells_all_of_it(directory: Path) -> None:
    report = verify(written(directory, applied([2, 0, 3])))
    assert report.ok
    told = json.loads(json.dumps(report.as_dict()))
    expected = {
        "ok": True, "log": "main", "node": "n1", "cluster": "c", "term": 1, "vote": "n1", "commit": 3, "first": 1,
        "last": 3, "applied": 3, "entries": 3, "records": 3, "messages": 5, "last_seq": 5, "rows": 3, "postings": 1,
        "counts": {}, "problems": [],
    }  # fmt: skip
    assert {name: told[name] for name in expected} == expected


_READER = """
import sys, lmdb
env = lmdb.open(sys.argv[1], readonly=True, max_dbs=8)
with env.begin():
    print("reading", flush=True)
    sys.stdin.read()
"""


def test_a_reader_that_was_killed_does_not_make_the_file_grow(directory: Path) -> None:
    store = open_store(directory)
    store.write(applied([1, 1]))
    with subprocess.Popen(
        [sys.executable, "-c", _READER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == b"reading\n"
        assert "no active readers" not in store._env.readers()
        reader.kill()
    before = store.bytes_used()
    for _ in range(40):
        store.write(Writes(entries=[entry(3, command=bytes(1 << 20))]))
        store.write(Writes(truncate_from=3))
    assert store.bytes_used() < before + (20 << 20)
    store.close()


def test_a_page_with_a_key_that_does_not_belong_there_is_beyond_mending(tmp_path: Path) -> None:
    home = LmdbHome(tmp_path / "log")
    store = home.open()
    store.write(applied([1, 1, 1]))
    mend = Mend(store.entry(2), store.record(2))
    with store._env.begin(write=True, db=store._entries) as txn:  # as a flipped bit in the key would have it
        value = txn.pop(layout.index_key(2))
        txn.put(layout.index_key(2 + (1 << 40)), value)
    with pytest.raises(CorruptEntry):
        store.entry(2)
    with pytest.raises(StoreError, match="keys that do not belong there"):
        store.write(Writes(mends=[mend]))
    store.close()
