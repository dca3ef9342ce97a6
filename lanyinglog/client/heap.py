"""Keeps the C library from giving memory back to the system a thousand times a second.

glibc returns what is free at the end of its heap, from 128 KiB on, and asks for it again with the next batch: a page
fault for every 4 KiB of each buffer of a megabyte, which costs more than filling it. It raises that threshold by itself
when a large block is freed that was mapped on its own: to twice its size (mallopt(3), "dynamic mmap threshold").
"""

from __future__ import annotations

BLOCK_BYTES = 16 << 20
"""So twice as much free memory, at most, stays with the process."""


def keep_freed_memory() -> None:
    """For a process that makes and drops large buffers all the time. Touches no page; without glibc it does nothing."""
    bytes(BLOCK_BYTES)
