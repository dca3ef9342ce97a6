"""docs/storage.md names what lies in a data directory, and nothing else."""

import itertools
import re
from pathlib import Path

from lanyinglog import log_core
from lanyinglog.store import layout
from lanyinglog.store.environment import LmdbStore
from lanyinglog.store.log_store import BLOCK_ENTRIES

PAGE = (Path(__file__).parents[2] / "docs" / "storage.md").read_text()
WORDS = " ".join(PAGE.split())


def column(heading: str) -> set[str]:
    """The names in the first column of the first table below ``heading``."""
    lines = PAGE.split(f"{heading}\n", 1)[1].splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("|"))
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return {name for line in table for name in re.findall(r"`([^`]+)`", line.split("|")[1])}


def test_the_databases_are_those_of_the_layout() -> None:
    assert column("## What is in it") == {name.decode() for name in layout.DATABASES}


def test_the_files_are_those_of_a_directory(tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path / "main", node="n1")
    found = {file.name for file in (tmp_path / "main").iterdir()}
    store.close()
    assert column("# The data directory") == found | {f"{layout.NEW_DIRECTORY}/"}


def test_numbers_are_those_of_the_code() -> None:
    assert f"storage format {layout.FORMAT_VERSION}" in WORDS
    assert f"blocks of {BLOCK_ENTRIES} entries" in WORDS
    assert f"at most {log_core.CHECKPOINT_ENTRIES} entries or {log_core.CHECKPOINT_BYTES >> 20} MiB old" in WORDS


def test_the_kinds_of_problems_are_those_of_verify() -> None:
    from lanyinglog.store import verify

    documented = column("## `lanyinglog verify DIR`")
    told = re.search(r"``kind`` is ([\w, ]+) or (\w+)", verify.Problem.__doc__ or "")
    assert told is not None and documented == {*told[1].split(", "), told[2]}
