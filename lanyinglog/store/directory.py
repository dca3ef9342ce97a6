"""A data directory as the file system sees it: made so that it survives a power cut, used by one process at a time."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from lanyinglog.errors import StoreError
from lanyinglog.store import layout

_PID_BYTES = 12


def take_directory(path: str, *, shared: bool = False) -> int:
    """A descriptor that holds ``path`` for this process until it is closed; `StoreError` if another has it.

    ``shared`` is for a reader that must not write: it makes no file, and several may hold it at once.
    """
    name = os.path.join(path, layout.OWNER_FILE)
    owner = os.open(name, os.O_CLOEXEC | (os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT), 0o600)
    try:
        fcntl.flock(owner, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.pread(owner, _PID_BYTES, 0).decode("ascii", "replace").strip()
        os.close(owner)
        raise StoreError(f"{path} is in use; {layout.OWNER_FILE} names process {pid or 'unknown'}") from error
    if not shared:
        # A courtesy for the message above; a full disk must not keep a node from serving reads.
        with suppress(OSError):
            os.pwrite(owner, b"%-*d\n" % (_PID_BYTES - 1, os.getpid()), 0)
    return owner


def make_directory(path: str) -> None:
    """Makes ``path`` and what is missing above it, each synced into the directory that names it."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for each in reversed(missing):
        os.makedirs(each, mode=0o700, exist_ok=True)
        sync_directory(os.path.dirname(each))


def sync_directory(path: str) -> None:
    """Makes the names in ``path`` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
