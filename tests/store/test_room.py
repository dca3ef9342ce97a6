"""No transaction takes more pages than were set aside for it: a disk never runs full in the middle of a write."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from lanyinglog.store import installation
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.log_store import (
    Checkpoint,
    Entry,
    EntryRecord,
    HardState,
    SnapshotHead,
    Stage,
    Trim,
    Writes,
    entry_crc,
)
from lanyinglog.store.room import pages_at_most


def entry(index: int, command: bytes) -> Entry:
    return Entry(index, 1, command, entry_crc(index, 1, command))


def last_page(store: LmdbStore) -> int:
    return int(store._env.info()["last_pgno"])


def random_rows(source: random.Random) -> dict[bytes, bytes | None]:
    """Rows all over the tree, some of them large."""
    sizes = [source.choice((20, 200, 3_000)) for _ in range(source.choice((0, 5, 200)))]
    return {source.randbytes(16): source.randbytes(size) for size in sizes}


@pytest.mark.parametrize("seed", range(3))
def test_a_transaction_takes_no_more_than_what_was_set_aside(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    store = LmdbStore.open(tmp_path / "log", node="n1", map_bytes=1 << 30)
    for _ in range(60):
        first, last = store.bounds()
        applied = store.applied()
        sizes = [source.choice((50, 1_900, 2_100, 100_000)) for _ in range(source.choice((0, 1, 5, 100)))]
        new = [entry(last + 1 + place, source.randbytes(size)) for place, size in enumerate(sizes)]
        upto = source.randint(applied, last + len(new))
        records = [EntryRecord(index, index, 1, 10 * index, (), 0) for index in range(applied + 1, upto + 1)]
        postings = [(source.randrange(1 << 20), upto // 64) for _ in range(source.choice((0, 3, 100)))]
        checkpoint = Checkpoint(upto, records, random_rows(source), postings)
        trim = None
        if applied > first + 2 and applied < last:
            front = source.randint(first, min(applied, first + 64))
            trim = Trim(front, front - 1, 10 * front - 10, random_rows(source), postings[:5])
        writes = Writes(entries=new, hard_state=HardState(1, "n1", last + len(new)), checkpoint=checkpoint, trim=trim)
        before = last_page(store)
        store.write(writes)
        assert last_page(store) - before <= pages_at_most(writes, store._page_bytes)
    assert store.bounds()[0] > 1
    store.close()


def test_a_snapshot_takes_no_more_than_what_was_set_aside(tmp_path: Path) -> None:
    source = random.Random(1)
    store = LmdbStore.open(tmp_path / "log", node="n1", map_bytes=1 << 30)
    store.write(Writes(entries=[entry(n, bytes(9_000)) for n in range(1, 300)], hard_state=HardState(1, None, 1)))
    rows = sorted((source.randbytes(16), source.randbytes(source.choice((30, 1_500)))) for _ in range(5_000))
    head = SnapshotHead(1_000, 5, 50, len(rows))
    for at in range(0, len(rows), 400):
        writes = Writes(stage=Stage(head, rows[at : at + 400], restart=at == 0))
        before = last_page(store)
        store.write(writes)
        assert last_page(store) - before <= pages_at_most(writes, store._page_bytes)
    store.write(Writes(install=[entry(1_000, b"a"), entry(1_001, b"b")]))
    steps = 0
    while True:
        before = last_page(store)
        more = store.install_step()
        assert last_page(store) - before <= installation.step_pages(store._page_bytes)
        steps += 1
        if not more:
            break
    assert steps > 5
    assert store.bounds() == (1_000, 1_001)
    assert store.rows() == rows
    store.close()
