"""A copy of a log in use, and the log of another cluster made of it: nothing more than what was committed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from store.logs import MAP_BYTES, applied, entries, entry

from lanyinglog.errors import ConfigError, StoreError
from lanyinglog.store import backup
from lanyinglog.store.backup import Content
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.layout import Identity
from lanyinglog.store.log_store import HardState, Writes

NOTHING = Content(first_seq=1, last_seq=0, last_timestamp=0, topics=0, producers=0)
COMMITTED, ALL = 5, 9


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A log of which five entries are known to be committed, and four more are stored."""
    store = LmdbStore.open(tmp_path / "log", node="n1", cluster="old", map_bytes=MAP_BYTES)
    store.write(applied([1] * COMMITTED))
    store.write(Writes(entries=entries(COMMITTED + 1, ALL, term=2), hard_state=HardState(2, "n3", COMMITTED)))
    store.close()
    return tmp_path / "log"


def _take(source: Path, target: Path, *, committed: int = 0) -> backup.Manifest:
    return backup.take(source, target, committed=committed, made="now", content=lambda *_: NOTHING)


@pytest.mark.parametrize(
    ("committed", "kept"),
    [(0, COMMITTED), (COMMITTED + 1, COMMITTED + 1), (ALL + 100, ALL)],
    ids=["by what is stored", "by what the node says", "no more than there is"],
)
def test_a_restored_log_ends_where_it_is_known_to_be_committed(
    source: Path, tmp_path: Path, committed: int, kept: int
) -> None:
    manifest = _take(source, tmp_path / "b", committed=committed)
    assert (manifest.commit, manifest.left_out) == (kept, ALL - kept)
    backup.copy_data(tmp_path / "b", backup.read_manifest(tmp_path / "b"), tmp_path / "new")
    backup.adopt(tmp_path / "new", Identity("main", "n2", "new"), commit=kept, command=b"members")
    store = LmdbStore.open(tmp_path / "new", node="n2", cluster="new", map_bytes=MAP_BYTES, create=False)
    try:
        assert store.bounds() == (1, kept + 1)
        assert store.entry(kept + 1) == entry(kept + 1, 2, b"members")
        assert store.hard_state() == HardState(2, None, kept + 1)
        assert store.applied() == COMMITTED
        assert store.entries(1, kept, bytes_max=1 << 20) == [*entries(1, 5), *entries(6, kept, term=2)]
        store.write(Writes(entries=entries(kept + 2, kept + 3, term=3), hard_state=HardState(3, "n2", kept + 1)))
    finally:
        store.close()


_HOLDER = """
import sys
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.log_store import HardState, Writes
store = LmdbStore.open(sys.argv[1], node="n1", cluster="old", map_bytes=1 << 28, create=False)
print("open", flush=True)
term = 10
while sys.stdin.read(1):
    term += 1
    store.write(Writes(hard_state=HardState(term, None, 5)))
    print(term, flush=True)
"""


def test_a_log_is_copied_while_its_node_writes(source: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        for number in range(3):
            holder.stdin.write(b".")
            holder.stdin.flush()
            told = int(holder.stdout.readline())
            assert _take(source, tmp_path / f"b{number}").term == told
        holder.stdin.close()


def test_a_failure_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    def fail(*_: object) -> Content:
        raise StoreError("it means nothing")

    with pytest.raises(StoreError, match="means nothing"):
        backup.take(source, tmp_path / "b", committed=0, made="now", content=fail)
    assert [one.name for one in tmp_path.iterdir()] == ["log"]


def test_a_target_with_something_in_it_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not empty"):
        _take(source, source)
