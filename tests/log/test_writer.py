"""Which writes are made in the event loop: small ones, while the disk is quick."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
import trio

from lanyinglog.store.log_store import Checkpoint, Entry, EntryRecord, Trim, Writes
from lanyinglog.writer import AT_ONCE_BYTES_MAX, AT_ONCE_ROWS_MAX, QUICK_S, QUICK_WRITES_MIN, DiskWriter


def entry_of(size: int) -> Entry:
    return Entry(1, 1, b"x" * size, 0)


SMALL = Writes(entries=[entry_of(100)])
LARGE = Writes(entries=[entry_of(AT_ONCE_BYTES_MAX), entry_of(1)])
ROWS = [str(number) for number in range(AT_ONCE_ROWS_MAX)]
RECORD = EntryRecord(1, 1, 1, 1, 1, 1)


class Disk:
    """Takes ``seconds`` of its own clock for each write, and ``failure`` if there is one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds = 0.0
        self.failure: OSError | None = None
        self.written: list[Writes] = []
        self.writer = DiskWriter(self._write, clock=lambda: self.now)

    def _write(self, writes: Writes) -> None:
        self.now += self.seconds
        if self.failure is not None:
            raise self.failure
        self.written.append(writes)

    def write_in_thread(self, writes: Writes) -> BaseException | None:
        """How it ended."""

        async def main() -> BaseException | None:
            ends: list[BaseException | None] = []
            over = trio.Event()

            def ended(error: BaseException | None) -> None:
                ends.append(error)
                over.set()

            self.writer.begin(writes, ended)
            assert not ends, "it ends after `begin` has returned"
            with trio.fail_after(20):
                await over.wait()
            return ends[0]

        return trio.run(main)

    def earn_trust(self) -> None:
        for _ in range(QUICK_WRITES_MIN):
            assert self.write_in_thread(SMALL) is None


@pytest.fixture
def disk() -> Disk:
    return Disk()


def test_a_disk_must_have_been_quick_some_times_in_a_row(disk: Disk) -> None:
    for _ in range(QUICK_WRITES_MIN):
        assert not disk.writer.write_at_once(SMALL)
        assert disk.write_in_thread(SMALL) is None
    before = len(disk.written)
    assert disk.writer.write_at_once(SMALL)
    assert len(disk.written) == before + 1


def test_a_write_that_took_its_time_is_the_last_one_in_the_loop_for_a_while(disk: Disk) -> None:
    disk.earn_trust()
    disk.seconds = QUICK_S * 1.01
    assert disk.writer.write_at_once(SMALL)
    disk.seconds = 0.0
    for _ in range(QUICK_WRITES_MIN):
        assert not disk.writer.write_at_once(SMALL)
        disk.write_in_thread(SMALL)
    assert disk.writer.write_at_once(SMALL)


def test_a_slow_write_in_a_thread_counts_like_one_in_the_loop(disk: Disk) -> None:
    disk.earn_trust()
    disk.seconds = QUICK_S * 1.01
    disk.write_in_thread(SMALL)
    disk.seconds = 0.0
    assert not disk.writer.write_at_once(SMALL)


def test_how_long_large_writes_take_says_nothing_of_small_ones(disk: Disk) -> None:
    disk.earn_trust()
    disk.seconds = 1.0
    assert not disk.writer.write_at_once(LARGE)
    assert disk.write_in_thread(LARGE) is None
    disk.seconds = 0.0
    assert disk.writer.write_at_once(SMALL)


@pytest.mark.parametrize(
    "writes",
    [
        LARGE,
        replace(SMALL, trim=Trim(2, 1, 1)),
        replace(SMALL, install=[entry_of(1), entry_of(1)]),
        replace(SMALL, checkpoint=Checkpoint(1, rows=dict.fromkeys(map(str.encode, ROWS), b""), records=[RECORD])),
    ],
)
def test_what_may_take_long_is_never_written_in_the_loop(disk: Disk, writes: Writes) -> None:
    disk.earn_trust()
    assert not disk.writer.write_at_once(writes)
    assert writes not in disk.written
    assert disk.write_in_thread(writes) is None
    assert disk.written[-1] is writes


def test_an_entry_as_large_as_may_be_and_a_checkpoint_are_small_enough(disk: Disk) -> None:
    disk.earn_trust()
    assert disk.writer.write_at_once(Writes(entries=[entry_of(AT_ONCE_BYTES_MAX)]))
    assert disk.writer.write_at_once(replace(SMALL, checkpoint=Checkpoint(1, records=[RECORD] * AT_ONCE_ROWS_MAX)))


def test_a_failure_is_raised_in_the_loop_and_told_from_a_thread(disk: Disk) -> None:
    disk.earn_trust()
    disk.failure = OSError(errno.EIO, "rotten")
    with pytest.raises(OSError, match="rotten"):
        disk.writer.write_at_once(SMALL)
    assert disk.write_in_thread(SMALL) is disk.failure
