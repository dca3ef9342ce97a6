"""The offline check of a data directory: what is damaged, by name, and how much is sound.

`verify` holds the directory, so that no node can start on it meanwhile, and changes nothing in it. The reading is
done by `walk` in a child process, for damage inside LMDB's own pages can kill whoever follows it: `verify` then
reports at which entry that happened and starts another child behind it.

Checked: LMDB's two meta pages and page structure; format version, identity, and hard state; that entries follow each
other without a gap, each header and command by CRC32C, terms never falling; that records follow each other with
gapless seqs and rising timestamps; every row and posting; that commit and applied index lie inside the log. Not
here: what a command means, unless the caller names a function that knows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from lanyinglog.errors import StoreError
from lanyinglog.store import layout
from lanyinglog.store.directory import take_directory
from lanyinglog.store.walk import Cell, Phase, Place

PROBLEMS_PER_KIND: Final = 20
"""How many problems of each kind a report names unless told otherwise; all are counted."""

_WALKS_MAX: Final = 64
"""After so many children have died the rest is not worth the time: the file is a ruin."""

_MESSAGE_CHARACTERS_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Problem:
    """``kind`` is pages, meta, entry, record, row, posting, base row or crash; ``index`` the entry's, if it is about
    one."""

    kind: str
    index: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found. ``entries``, ``records``, ``rows`` and ``postings`` count what is sound, ``messages`` and
    ``last_seq`` are by the sound records; ``counts`` has the number of problems of each kind, of which ``problems``
    names the first. What could not be read is None. ``installing``: the node was stopped while a snapshot replaced its
    log, and will go on with that when it is started; there is no log to check meanwhile."""

    directory: str
    bytes: int
    log: str | None
    node: str | None
    cluster: str | None
    term: int | None
    vote: str | None
    commit: int | None
    first: int | None
    last: int | None
    applied: int | None
    entries: int
    records: int
    messages: int
    last_seq: int
    last_timestamp: int
    rows: int
    postings: int
    base_rows: int = 0
    installing: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.counts

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the fields, and ``ok``."""
        return {"ok": self.ok, **asdict(self)}


def verify(
    directory: str | os.PathLike[str], *, check: str | None = None, problems_max: int = PROBLEMS_PER_KIND
) -> Report:
    """Reads all of ``directory``; `StoreError` if it is not a data directory or a node is running on it.

    ``check`` names a function ``package.module:function`` that takes an `Entry` and says what is wrong with its
    command, or None: it runs in the child. ``problems_max`` bounds the problems named per kind."""
    path = os.path.abspath(os.fspath(directory))
    data = os.path.join(path, layout.DATA_FILE)
    if not os.path.isfile(data):
        raise StoreError(f"{path} holds no log")
    # A copy that came without the lock file has no owner.
    owned = os.path.exists(os.path.join(path, layout.OWNER_FILE))
    owner = take_directory(path, shared=True) if owned else None
    try:
        return _Supervisor(path, check, problems_max).run()
    finally:
        if owner is not None:
            os.close(owner)


class _Supervisor:
    def __init__(self, path: str, check: str | None, problems_max: int) -> None:
        self._path = path
        self._check = check
        self._problems_max = problems_max
        self._problems: list[Problem] = []
        self._counts: Counter[str] = Counter()
        self._meta: dict[str, Any] = {}

    def run(self) -> Report:
        with tempfile.TemporaryFile() as file:
            place = Place(file.fileno())
            try:
                for _ in range(_WALKS_MAX):
                    death = self._walk(file.fileno())
                    if death is not None and place.cells[Cell.PHASE] != Phase.DONE:
                        self._step_over(place, death)
                    if place.cells[Cell.PHASE] == Phase.DONE:
                        break
                else:
                    self._add("crash", None, f"gave up after {_WALKS_MAX} crashes")
                found: dict[str, Any] = {cell.name.lower(): place.cells[cell] for cell in Cell if cell > Cell.INDEX}
            finally:
                place.close()
        size = os.path.getsize(os.path.join(self._path, layout.DATA_FILE))
        found["installing"] = bool(self._meta.get("installing"))
        names = ("log", "node", "cluster", "term", "vote", "commit", "first", "last", "applied")
        found.update({name: self._meta.get(name) for name in names})
        return Report(self._path, size, **found, counts=dict(self._counts), problems=tuple(self._problems))

    def _walk(self, descriptor: int) -> str | None:
        """One child, up to its end; what it died of, None if it got through."""
        command = [sys.executable, "-m", "lanyinglog.store.walk", self._path, str(descriptor)]
        command += [self._check] if self._check is not None else []
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with tempfile.TemporaryFile() as errors:
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, pass_fds=(descriptor,), env=environ
            ) as child:
                assert child.stdout is not None
                for line in child.stdout:
                    self._take(line)
            if child.returncode == 0:
                return None
            if child.returncode < 0:
                return signal.Signals(-child.returncode).name
            errors.seek(0)
            return errors.read().decode("utf-8", "replace").strip().rpartition("\n")[2] or f"{child.returncode}"

    def _take(self, line: bytes) -> None:
        try:
            told = json.loads(line)
        except ValueError:  # the last line of a child that died in it
            return
        if isinstance(told, dict):
            self._meta.update(told)
        else:
            self._add(*told)

    def _add(self, kind: str, index: int | None, message: str) -> None:
        self._counts[kind] += 1
        if self._counts[kind] <= self._problems_max:
            self._problems.append(Problem(kind, index, message[:_MESSAGE_CHARACTERS_MAX]))

    def _step_over(self, place: Place, death: str) -> None:
        """Reports where a child died and lets the next one go on behind it."""
        cells = place.cells
        phase, index = Phase(cells[Cell.PHASE]), cells[Cell.INDEX]
        if phase in (Phase.ENTRIES, Phase.RECORDS) and index:
            kind = "entry" if phase is Phase.ENTRIES else "record"
            self._add("crash", index, f"{kind} {index} can't be read: reading it ended the process with {death}")
            cells[Cell.INDEX] = index + 1
            return
        self._add("crash", None, f"the {phase.name.lower()} can't be read: reading them ended the process with {death}")
        # Without the meta values the bounds of everything else are unknown.
        cells[Cell.PHASE] = Phase.DONE if phase is Phase.META else phase + 1
        cells[Cell.INDEX] = 0
