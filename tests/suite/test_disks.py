"""A disk whose plug can be pulled: what was not synced is undone, what was synced stays; damage can be put right."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from suite.disks import Disk
from suite.faults.rot import flip, put_right

PAYLOADS = b"".join(b"\0" * 200 + b"%d:%d " % (i % 7 + 1, i) + b"abcdefghijklmnopqrst" for i in range(400))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path, size_bytes=None, shim=None)
    made.file.parent.mkdir(parents=True)
    yield made
    made.close()


def _undo(disk: Disk, offset: int, old: bytes, size: int) -> None:
    """What the shim notes before it writes ``size`` bytes at ``offset``."""
    with (disk.data.parent / "undo").open("ab") as file:
        file.write(struct.pack("<QQQ", offset, len(old), size) + old)


def test_a_power_cut_undoes_what_was_not_synced_and_nothing_else(disk: Disk) -> None:
    disk.file.write_bytes(b"a" * 512 + b"B" * 512 + b"c" * 512)
    _undo(disk, 512, b"b" * 512, 512)
    assert disk.pull_plug(random.Random(1), share=1.0) == 1
    assert disk.file.read_bytes() == b"a" * 512 + b"b" * 512 + b"c" * 512
    assert disk.pull_plug(random.Random(1), share=1.0) == 0, "it is done once"


def test_two_writes_of_a_block_are_undone_to_the_older_content(disk: Disk) -> None:
    disk.file.write_bytes(b"3" * 512)
    _undo(disk, 0, b"1" * 512, 512)
    _undo(disk, 0, b"2" * 512, 512)
    disk.pull_plug(random.Random(1), share=1.0)
    assert disk.file.read_bytes() == b"1" * 512


def test_a_share_of_the_blocks_may_have_reached_the_disk(disk: Disk) -> None:
    disk.file.write_bytes(b"n" * 512 * 100)
    _undo(disk, 0, b"o" * 512 * 100, 512 * 100)
    lost = disk.pull_plug(random.Random(1), share=0.5)
    assert 20 < lost < 80
    assert disk.file.read_bytes().count(b"o" * 512) == lost


def test_flipped_bits_are_few_lie_in_messages_and_can_be_put_right(disk: Disk) -> None:
    disk.file.write_bytes(PAYLOADS)
    flipped = flip(disk.file, random.Random(1), count=5)
    now = disk.file.read_bytes()
    assert len(flipped) == 5
    assert sum((a ^ b).bit_count() for a, b in zip(now, PAYLOADS, strict=True)) == 5
    put_right(disk.file, flipped)
    assert disk.file.read_bytes() == PAYLOADS


def test_messages_in_a_file_that_is_mostly_empty_are_still_hit(disk: Disk) -> None:
    with disk.file.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(30 << 20)
        file.write(PAYLOADS)
    assert flip(disk.file, random.Random(2), count=1)


def test_a_lost_disk_is_empty_and_forgets_what_was_not_synced(disk: Disk) -> None:
    disk.file.write_bytes(b"x" * 512)
    _undo(disk, 0, b"y" * 512, 512)
    disk.wipe()
    assert not list(disk.data.iterdir())
    disk.file.parent.mkdir()
    disk.file.write_bytes(b"z" * 512)
    assert disk.pull_plug(random.Random(1), share=1.0) == 0
    assert disk.file.read_bytes() == b"z" * 512


def test_a_sync_that_is_to_fail_is_counted_down_by_the_shim_alone(disk: Disk) -> None:
    disk.set_sync(delay_ms=5, failures=2)
    assert disk.failures_left == 2
    disk.set_sync()
    assert disk.failures_left == 0
