"""A flipped byte in the data file: never served, wherever it is, and named by `verify`."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from store.logs import LmdbHome, entry, records

from lanyinglog.store import layout
from lanyinglog.store.log_store import BLOCK_ENTRIES, Checkpoint, Entry, HardState, Writes
from lanyinglog.store.memory import MemoryDisk, MemoryStore
from lanyinglog.store.verify import Report, verify

COUNTS = [2, 0, 1, 3] * 50
LAST = len(COUNTS)
STEP = 20
FLIPS = 250
VERIFIED = 40


def command(index: int) -> bytes:
    """Recognizable in the file; some are so large that LMDB gives them pages of their own."""
    return b"<entry %03d>" % index * (600 if index % 16 == 0 else 10)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log that has seen some life: several transactions, entries that were replaced, rows that were deleted."""
    directory = tmp_path_factory.mktemp("pristine") / "log"
    store = LmdbHome(directory).open()
    made = records(COUNTS)
    for first in range(1, LAST + 1, STEP):
        last = first + STEP - 1
        store.write(Writes(None, [entry(index, 1, b"?" * 200) for index in range(first, last + 1)]))
        store.write(
            Writes(
                first,
                [entry(index, 1, command(index)) for index in range(first, last + 1)],
                HardState(1, "n1", last),
                Checkpoint(
                    last,
                    made[first - 1 : last],
                    {b"row %03d" % key: b"<row %03d>" % key * 10 for key in range(first, last + 1)},
                    [(topic, last // BLOCK_ENTRIES) for topic in (1, 2, 3)],
                ),
            )
        )
    store.write(Writes(checkpoint=Checkpoint(LAST, rows={b"row %03d" % key: None for key in range(1, 50)})))
    used = store.bytes_used()
    store.close()
    os.truncate(directory / layout.DATA_FILE, used)  # without the room set aside behind it: it is read at each flip
    return directory


def used_positions(content: bytes) -> list[int]:
    """Positions in pages that are not all alike: the file has holes."""
    return [
        at
        for page in range(0, len(content), 4_096)
        if len(set(content[page : page + 4_096])) > 1
        for at in range(page, min(page + 4_096, len(content)))
    ]


def read_with_flips(pristine: Path, scratch: Path, flips: list[tuple[int, int]]) -> dict[int, str]:
    """The outcome at each position; *died* if the reading process did, as LMDB asserts on what it can't follow."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, str(Path(__file__).parents[1])]))}
    outcomes: dict[int, str] = {}
    while len(outcomes) < len(flips):
        rest = [flip for flip in flips if flip[0] not in outcomes]
        run = subprocess.run(
            [sys.executable, "-m", "store.reader", str(pristine), str(scratch)],
            input="".join(f"{at} {mask}\n" for at, mask in rest),
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for line in run.stdout.splitlines():
            at, told = line.split(" ", 1)
            outcomes[int(at)] = told
        if run.returncode:
            assert run.returncode < 0, run.stderr
            outcomes[next(at for at, _ in flips if at not in outcomes)] = "died"
    return outcomes


def test_no_flipped_byte_is_ever_served(pristine: Path, tmp_path: Path) -> None:
    rng = random.Random(os.environ.get("LANYINGLOG_FLIP_SEED", "1"))
    content = (pristine / layout.DATA_FILE).read_bytes()
    positions = rng.sample(used_positions(content), FLIPS)
    flips = [(at, rng.choice((1 << rng.randrange(8), 0xFF))) for at in positions]
    outcomes = read_with_flips(pristine, tmp_path, flips)
    assert {at: told for at, told in outcomes.items() if told.startswith("wrong")} == {}
    counted = Counter(outcomes.values())
    assert counted["refused"] > FLIPS // 10, counted
    # Not the other way round: a byte in a page that is free makes no difference to anybody.
    for at, mask in [flip for flip in flips if outcomes[flip[0]] in ("refused", "died")][:VERIFIED]:
        assert not report_with_flip(pristine, tmp_path, at, mask).ok, f"verify saw nothing at {at}"


def report_with_flip(pristine: Path, scratch: Path, at: int, mask: int) -> Report:
    content = bytearray((pristine / layout.DATA_FILE).read_bytes())
    content[at] ^= mask
    (scratch / layout.DATA_FILE).write_bytes(content)
    return verify(scratch)


# -------------------------------------------------------------------------------------------- where the damage is known
def entry_head(index: int) -> bytes:
    return layout.encode_entry(entry(index, 1, command(index)))[: layout.ENTRY_HEADER_BYTES]


NAMED = {
    "a small entry's command": (lambda: entry_head(13), 25, "entry", 13, "fails its CRC32C"),
    "a large entry's command": (lambda: entry_head(16), 5_000, "entry", 16, "fails its CRC32C"),
    "an entry's term": (lambda: entry_head(13), 0, "entry", 13, "header that fails"),
    "an entry's length": (lambda: entry_head(13), 8, "entry", 13, "header that fails"),
    "an entry's CRC": (lambda: entry_head(13), 12, "entry", 13, "header that fails"),
    "a record": (lambda: layout.encode_record(records(COUNTS)[12]), 5, "record", 13, "damaged"),
    "a row": (lambda: layout.seal(b"row 140", b"<row 140>" * 10), 30, "row", None, "row 140"),
    "a posting": (
        lambda: layout.posting_key(2, 3) + layout.encode_posting(layout.posting_key(2, 3)),
        9,
        "posting",
        None,
        "",
    ),
    "the state": (lambda: b"state", 12, "meta", None, "state"),
}


@pytest.mark.parametrize("case", NAMED, ids=str)
def test_verify_names_what_is_damaged(pristine: Path, tmp_path: Path, case: str) -> None:
    value, offset, kind, index, words = NAMED[case]
    content = (pristine / layout.DATA_FILE).read_bytes()
    reports = [
        report_with_flip(pristine, tmp_path, match.start() + offset, 0x10)
        for match in re.finditer(re.escape(value()), content)
    ]
    damaged = [report for report in reports if not report.ok]
    assert damaged, "older copies lie in free pages, but one of them counts"
    for report in damaged:
        problems = report.problems
        assert any(one.kind == kind and one.index == index and words in one.message for one in problems), problems


def test_verify_names_every_damaged_entry_and_counts_the_sound_ones(pristine: Path, tmp_path: Path) -> None:
    content = bytearray((pristine / layout.DATA_FILE).read_bytes())
    for index in (3, 17, 18, 200):
        for match in re.finditer(re.escape(entry_head(index)), bytes(content)):
            content[match.start() + 22] ^= 0x01
    (tmp_path / layout.DATA_FILE).write_bytes(content)
    report = verify(tmp_path)
    assert [one.index for one in report.problems if one.kind == "entry"] == [3, 17, 18, 200]
    assert (report.entries, report.records, report.counts) == (LAST - 4, LAST, {"entry": 4})


def test_verify_runs_a_check_of_its_callers(pristine: Path) -> None:
    report = verify(pristine, check="store.test_flips:dislike_thirteen")
    assert [(one.kind, one.index, one.message) for one in report.problems] == [("entry", 13, "entry 13: unlucky")]


def dislike_thirteen(one: Entry) -> str | None:
    return "unlucky" if one.index == 13 else None


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("offset", [10, 16, 20, 40, 144, 151])
def test_a_flipped_byte_in_a_meta_page_never_brings_back_an_old_log(
    pristine: Path, tmp_path: Path, page: int, offset: int
) -> None:
    """Without a checksum of LMDB's, a flip in a transaction number would undo the last transaction in silence."""
    at = page * 4_096 + offset
    told = read_with_flips(pristine, tmp_path, [(at, 0x02)])[at]
    assert told in ("refused", "same", "died")
    if told != "same":
        assert not report_with_flip(pristine, tmp_path, at, 0x02).ok


def test_a_copy_without_its_lock_file_can_be_verified(pristine: Path, tmp_path: Path) -> None:
    shutil.copy(pristine / layout.DATA_FILE, tmp_path)
    assert verify(tmp_path).ok
    assert {path.name for path in tmp_path.iterdir()} == {layout.DATA_FILE}


# ------------------------------------------------------------------------------------------------------ the memory twin
def test_a_flip_on_a_memory_disk_is_found_by_the_same_check() -> None:
    disk = MemoryDisk()
    store = MemoryStore(disk)
    store.write(Writes(entries=[entry(1), entry(2)]))
    size = len(layout.encode_entry(entry(1)))
    for byte in range(size):
        broken = MemoryStore(disk.copy())
        broken.flip(1, byte, 0x01)
        with pytest.raises(layout.CorruptEntry, match="entry 1 "):
            broken.entry(1)
        assert broken.entry(2) == entry(2)
    assert store.entry(1) == entry(1)
