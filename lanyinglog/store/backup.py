"""A copy of a log's data that can become the data of another cluster: taken while its node runs, or not.

A backup is a directory with two files:

===============  =====================================================================================================
``data.mdb``     the node's LMDB environment, page by page, as it was between two transactions
``backup.json``  whose it is, what is in it, how far the node knew it to be committed, and the SHA-256 of ``data.mdb``
===============  =====================================================================================================

LMDB copies it within one read transaction, from a process of its own: the node goes on, no port hands out all data, and
what comes out is exactly what the node would find after a crash at that moment: entries, seqs, timestamps, topics and
what is remembered of producers. A read transaction keeps freed pages from being used again, so the node's file may grow
while the copy is made.

Order of effects: copied aside, every entry checked (`verify`), synced, described, synced, and only then renamed to its
name. So a directory of that name is whole; one that was cut short when it was moved elsewhere fails its SHA-256.

`adopt` makes the copy the beginning of another cluster, in one transaction: a new identity, no vote, no entry that is
not known to be committed, and behind them one that names the new cluster's members, for those of the old one are in
the log too. All nodes of that cluster begin with the same entries, hence as equals.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import lmdb

from lanyinglog.errors import ConfigError, StoreError
from lanyinglog.store import layout
from lanyinglog.store.directory import make_directory, sync_directory
from lanyinglog.store.layout import Identity
from lanyinglog.store.log_store import Entry, HardState, entry_crc
from lanyinglog.store.pages import check_pages
from lanyinglog.store.state import State
from lanyinglog.store.verify import verify

MANIFEST_FILE = "backup.json"
MANIFEST_VERSION = 1
PARTIAL = ".partial"
"""Ending of the name under which something is made until it is whole."""
_CHUNK_BYTES = 1 << 20
_LOCK_FILE = "lock.mdb"


class DamagedBackup(StoreError):
    """A backup, or what was to be backed up, is not what it should be: torn, changed, or damaged before."""

    code = "damaged_backup"
    advice = "use another backup, or take one from another node"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds. ``node`` is the one it was taken from, ``first`` and ``commit`` the entries that a restore
    keeps, ``left_out`` how many behind them that are not known to be committed. Timestamps in ns since the epoch."""

    log: str
    node: str
    cluster: str
    term: int
    first: int
    commit: int
    left_out: int
    first_seq: int
    last_seq: int
    last_timestamp: int
    topics: int
    producers: int
    bytes: int
    sha256: str
    made: str
    version: int = MANIFEST_VERSION


@dataclass(frozen=True, slots=True)
class Content:
    """What the entries up to the commit index mean; told by who knows their meaning."""

    first_seq: int
    last_seq: int
    last_timestamp: int
    topics: int
    producers: int


# --------------------------------------------------------------------------------------------------------- taking one
def peek(directory: Path) -> tuple[Identity, State]:
    """Whose log is in ``directory`` and where it is, also while its node runs. `StoreError` if it can't be read."""
    data = directory / layout.DATA_FILE
    if not data.is_file():
        raise StoreError(f"{directory} holds no log")
    check_pages(str(data))
    try:
        with _opened(directory) as env, env.begin() as txn:
            return _meta(str(directory), env, txn, txn.id())
    except lmdb.Error as error:
        raise StoreError(f"{directory} can't be read: {error}") from error


def take(
    source: Path, target: Path, *, committed: int, made: str, content: Callable[[Path, Identity, int], Content]
) -> Manifest:
    """A backup of the log in ``source`` as ``target``, which must be absent or empty.

    ``committed`` is an index that the node said to be committed before this was called, 0 if it was not asked; what is
    stored may know better. ``content`` is asked about the copy: its directory, identity and commit index.
    `StoreError`; nothing is left behind then.
    """
    require_absent(target)
    peek(source)
    aside = make_aside(target)
    try:
        _copy_environment(source, aside)
        report = verify(aside)
        if not report.ok:
            found = "; ".join(problem.message for problem in report.problems[:3])
            raise DamagedBackup(f"{source} is damaged, no backup was made of it: {found}")
        identity, state = peek(aside)
        if state.installing:
            raise StoreError(f"{source} is being replaced by a snapshot: back up another node, or try again later")
        commit = max(state.hard.commit, min(committed, state.last))
        meaning = content(aside, identity, commit)
        for extra in (_LOCK_FILE, layout.OWNER_FILE):
            (aside / extra).unlink(missing_ok=True)
        manifest = Manifest(
            **asdict(identity),
            term=state.hard.term,
            first=state.first,
            commit=commit,
            left_out=state.last - commit,
            **asdict(meaning),
            bytes=(aside / layout.DATA_FILE).stat().st_size,
            sha256=_sync_and_digest(aside / layout.DATA_FILE),
            made=made,
        )
        _write_synced(aside / MANIFEST_FILE, json.dumps(asdict(manifest), indent=2) + "\n")
        publish_directory(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return manifest


def make_aside(target: Path) -> Path:
    """An empty directory beside ``target``, in which to make what then gets its name (`publish_directory`)."""
    aside = target.with_name(target.name + PARTIAL)
    if aside.exists():
        shutil.rmtree(aside)  # an attempt that was cut short
    make_directory(str(aside))
    return aside


def _copy_environment(source: Path, aside: Path) -> None:
    try:
        with _opened(source) as env:
            env.reader_check()  # of backups that were killed: their slots would keep pages from being used again
            env.copy(str(aside))
        os.chmod(aside / layout.DATA_FILE, 0o600)
    except lmdb.Error as error:
        raise StoreError(f"{source} can't be copied to {aside}: {error}") from error


# -------------------------------------------------------------------------------------------------------- reading one
def read_manifest(backup: Path) -> Manifest:
    """What ``backup`` says it holds. `StoreError` if it is none, or not a whole one, by what can be seen at once."""
    file = backup / MANIFEST_FILE
    try:
        told = json.loads(file.read_text())
        version = told["version"]
        if version != MANIFEST_VERSION:
            raise StoreError(f"{backup} is a backup of version {version}; this program reads {MANIFEST_VERSION}")
        manifest = Manifest(**{one.name: told[one.name] for one in fields(Manifest)})
    except FileNotFoundError:
        raise DamagedBackup(f"{backup} is not a whole backup: {MANIFEST_FILE} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedBackup(f"{file} is damaged: {error!r}") from error
    data = backup / layout.DATA_FILE
    size = data.stat().st_size if data.is_file() else 0
    if size != manifest.bytes:
        raise DamagedBackup(f"{backup} is torn: {layout.DATA_FILE} has {size} bytes, {manifest.bytes} were backed up")
    return manifest


def copy_data(backup: Path, manifest: Manifest, directory: Path) -> None:
    """Puts the backup's data into ``directory``, made anew. `StoreError` if a single bit of it has changed."""
    make_directory(str(directory))
    digest = hashlib.sha256()
    with (backup / layout.DATA_FILE).open("rb") as read, (directory / layout.DATA_FILE).open("xb") as written:
        os.fchmod(written.fileno(), 0o600)
        while chunk := read.read(_CHUNK_BYTES):
            digest.update(chunk)
            written.write(chunk)
        written.flush()
        os.fsync(written.fileno())
    if digest.hexdigest() != manifest.sha256:
        raise DamagedBackup(f"{backup} is damaged: {layout.DATA_FILE} fails its SHA-256")
    sync_directory(str(directory))


def adopt(directory: Path, identity: Identity, *, commit: int, command: bytes) -> None:
    """Makes the log in ``directory`` that of ``identity``, without a vote and without what follows ``commit``, but for
    one more entry: ``command``, which says who belongs to the new cluster. It is the same in all of its nodes."""
    try:
        with (
            lmdb.open(str(directory), max_dbs=len(layout.DATABASES), map_size=_map_bytes(directory), lock=False) as env,
            env.begin(write=True) as txn,
        ):
            _, state = _meta(str(directory), env, txn, txn.id() - 1)  # it is that of the last one
            entries, meta = (env.open_db(name, txn=txn, create=False) for name in (layout.ENTRIES, layout.META))
            for index in range(commit + 1, state.last + 1):
                txn.delete(layout.index_key(index), db=entries)
            term = max(1, state.hard.term)
            last = min(commit, state.last) + 1
            entry = Entry(last, term, command, entry_crc(last, term, command))
            txn.put(layout.index_key(last), layout.encode_entry(entry), db=entries, append=True)
            # A new cluster in which nobody has promised anything: who was not a full member elsewhere is one here.
            # The entry is committed, for all of them have it.
            hard = HardState(term, None, last)
            state = state._replace(last=last, hard=hard, joined=True, transaction=txn.id())
            txn.put(layout.IDENTITY_KEY, layout.encode_identity(identity), db=meta)
            txn.put(layout.STATE_KEY, layout.encode_state(state), db=meta)
    except lmdb.Error as error:
        raise StoreError(f"{directory}: {error}") from error


# ------------------------------------------------------------------------------------------------------------- inside
def _opened(directory: Path) -> lmdb.Environment:
    return lmdb.open(str(directory), readonly=True, create=False, max_dbs=len(layout.DATABASES))


def _map_bytes(directory: Path) -> int:
    """Room for the one transaction of `adopt`, which may have to copy a page of every tree."""
    return int((directory / layout.DATA_FILE).stat().st_size) + (64 << 20)


def _meta(
    directory: str, env: lmdb.Environment, txn: lmdb.Transaction[bytes], transaction: int
) -> tuple[Identity, State]:
    """What ``txn`` sees, which ``transaction`` must have written."""
    try:
        meta: Any = env.open_db(layout.META, txn=txn, create=False)
    except lmdb.Error as error:
        raise StoreError(f"{directory} holds an LMDB environment that is not a lanyinglog log") from error
    keys = (layout.FORMAT_KEY, layout.IDENTITY_KEY, layout.STATE_KEY)
    identity, state = layout.decode_meta(directory, *(txn.get(key, db=meta) for key in keys))
    layout.check_transaction(directory, state, transaction)
    return identity, state


def require_absent(target: Path) -> None:
    """`ConfigError` if there is something at ``target`` already."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is not empty: choose another")


def publish_directory(aside: Path, target: Path) -> None:
    """Gives ``aside``, which is whole, its name. `StoreError` if something is there by now."""
    sync_directory(str(aside))
    try:
        aside.rename(target)
    except OSError as error:
        raise StoreError(f"{target} can't be made: {error.strerror}") from error
    sync_directory(str(target.parent))


def _sync_and_digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        while chunk := opened.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _write_synced(file: Path, text: str) -> None:
    with file.open("x") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
