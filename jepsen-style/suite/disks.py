"""The nodes' disks: of a fixed size where mounts are allowed, and, with a C compiler, ones whose plug can be pulled.

A node's writes to its data file pass through `disk_shim.c` (LD_PRELOAD), which notes what is not yet synced.
`pull_plug` puts such blocks back to what they were: all of them, or a random half, as a disk does that had written
some of its cache when the power went. What was synced stays. Without a compiler there are no power cuts, no slow and no
broken disks, and the run says so.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

_RECORD = struct.Struct("<QQQ")
_CONTROL = struct.Struct("<III")
_OFFSET = struct.Struct("<q")
_BLOCK_BYTES = 512
"""What a disk writes in one piece."""
USUAL_SYNC_MS = 0.8
"""What a sync takes on a good day. Disks in memory need no time for it, and would never be caught in the middle."""
FILLER = "filler"


def compile_shim(directory: Path) -> tuple[Path | None, str]:
    """The compiled shim and no words; or None and the reason."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        return None, "there is no C compiler"
    source, target = Path(__file__).with_name("disk_shim.c"), directory / "disk_shim.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(target), str(source), "-ldl"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        return None, f"{compiler} could not compile the shim: {result.stderr.strip().splitlines()[-1:]}"
    return target, ""


def mount_disk(directory: Path, size_bytes: int) -> None:
    """A file system of ``size_bytes`` on ``directory``, in memory; it goes with the mount table of the run."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "tmpfs", str(directory)], check=True)


class Disk:
    """One node's disk: its ``data`` directory and the control files beside it."""

    def __init__(self, directory: Path, *, size_bytes: int | None, shim: Path | None) -> None:
        self.data = directory / "data"
        self.sized = size_bytes is not None
        if size_bytes is not None:
            mount_disk(self.data, size_bytes)
        self.data.mkdir(exist_ok=True)
        self.shim = shim
        self.clock_file = directory / "clock"
        self.clock_file.write_bytes(bytes(_OFFSET.size))
        self._undo = directory / "undo"
        self._control_file = directory / "disk"
        self._control_file.write_bytes(bytes(_CONTROL.size))
        self._clock = _map(self.clock_file)
        self._control = _map(self._control_file)
        self.set_sync()

    @property
    def file(self) -> Path:
        """The file that holds the log."""
        return self.data / "main" / "data.mdb"

    def environment(self) -> dict[str, str]:
        """What a node on this disk needs in its environment."""
        if self.shim is None:
            return {}
        return {
            "LD_PRELOAD": str(self.shim),
            "LANYINGLOG_SUITE_UNDO": str(self._undo),
            "LANYINGLOG_SUITE_DISK": str(self._control_file),
        }

    # ---------------------------------------------------------------------------------------------------- the clock
    def set_clock(self, offset_s: float) -> None:
        """The node's wall clock is off by so much, from now on."""
        _OFFSET.pack_into(self._clock, 0, int(offset_s * 1e9))

    # -------------------------------------------------------------------------------------------------- slow, broken
    def set_sync(self, *, delay_ms: float = 0.0, failures: int = 0) -> None:
        """Each sync takes ``delay_ms`` more; the next ``failures`` of them fail with EIO."""
        syncs = _CONTROL.unpack_from(self._control)[2]
        _CONTROL.pack_into(self._control, 0, int((delay_ms + USUAL_SYNC_MS) * 1000), failures, syncs)

    @property
    def failures_left(self) -> int:
        """Of the syncs that are to fail, how many have not come yet."""
        left: int = _CONTROL.unpack_from(self._control)[1]
        return left

    # ---------------------------------------------------------------------------------------------------------- full
    def fill(self) -> None:
        """No room is left."""
        with (self.data / FILLER).open("ab") as file:
            step = 64 << 20
            while step >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), step)
                except OSError:
                    step //= 4

    def make_room(self) -> None:
        """As much room as there was."""
        (self.data / FILLER).unlink(missing_ok=True)

    # ---------------------------------------------------------------------------------------------------------- lost
    def wipe(self) -> None:
        """The disk is another one, and empty. The node must be down."""
        self._undo.unlink(missing_ok=True)
        for entry in self.data.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    # ----------------------------------------------------------------------------------------------------- power cut
    def pull_plug(self, source: random.Random, *, share: float) -> int:
        """After the node was killed: undo ``share`` of the blocks that it wrote and had not synced; how many."""
        if not self._undo.exists() or not self.file.exists():
            return 0
        records = list(_records(self._undo.read_bytes()))
        blocks = sorted({block for offset, _, size in records for block in _blocks(offset, size)})
        lost = {block for block in blocks if source.random() < share}
        descriptor = os.open(self.file, os.O_RDWR)
        try:
            for offset, old, size in reversed(records):
                for block in _blocks(offset, size):
                    if block in lost:
                        start, stop = max(block, offset), min(block + _BLOCK_BYTES, offset + size)
                        piece = old[start - offset : stop - offset]
                        os.pwrite(descriptor, piece.ljust(stop - start, b"\0"), start)
        finally:
            os.close(descriptor)
        self._undo.unlink()
        return len(lost)

    def close(self) -> None:
        self._clock.close()
        self._control.close()


def _map(file: Path) -> mmap.mmap:
    with file.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), 0)


def _records(undo: bytes) -> Iterator[tuple[int, bytes, int]]:
    """``(offset, old bytes, length of the write)``, oldest first; a record that was cut off had no write behind it."""
    at = 0
    while at + _RECORD.size <= len(undo):
        offset, have, size = _RECORD.unpack_from(undo, at)
        at += _RECORD.size
        if size == 0 or at + have > len(undo):
            return
        yield offset, undo[at : at + have], size
        at += have


def _blocks(offset: int, size: int) -> range:
    return range(offset - offset % _BLOCK_BYTES, offset + size, _BLOCK_BYTES)
