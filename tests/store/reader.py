"""Reads logs with a flipped byte, one after the other, and tells what came of each: a process that may die of it.

Run as ``python -m store.reader PRISTINE SCRATCH``: each line of the input is ``position mask``; each line of the
output ``position outcome``, where the outcome is *same* (all answers as from the pristine log), *refused* (an error in
the store's own words), or *wrong* with what was.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

from store.logs import LmdbHome

from lanyinglog.errors import CorruptEntry, StoreError
from lanyinglog.store import layout
from lanyinglog.store.log_store import LogStore

QUESTIONS = ("bounds", "hard_state", "applied", "rows")


def answers(store: LogStore) -> dict[str, Any]:
    """Every answer a node could ask for, or that it was refused."""
    last = store.bounds()[1]
    found: dict[str, Any] = {}

    def ask(question: str, *arguments: Any) -> None:
        try:
            found[f"{question}{arguments}"] = getattr(store, question)(*arguments)
        except (CorruptEntry, StoreError):
            found[f"{question}{arguments}"] = "refused"

    for question in QUESTIONS:
        ask(question)
    for index in range(1, last + 2):
        for question in ("entry", "term", "record"):
            if index <= last:
                ask(question, index)
    for seq in range(2 * last + 2):
        ask("index_of_seq", seq)
        ask("index_of_time", 1_000 + 40 * seq)
    for topic in range(1, 5):
        for block in range(6):
            ask("next_block", (topic,), block)
    return found


def outcome(store_directory: Path, truth: dict[str, Any]) -> str:
    """What reading the log in ``store_directory`` came to."""
    try:
        store = LmdbHome(store_directory).open()
    except StoreError:
        return "refused"
    try:
        found = answers(store)
    except Exception as error:  # whatever it is, it is not in the store's words
        return f"wrong: {error!r}"
    finally:
        store.close()
    if found == truth:
        return "same"
    for question, answer in truth.items():
        if found.get(question) not in (answer, "refused"):
            return f"wrong: {question} is {found.get(question)!r}"
    return "refused"


def main(pristine: Path, scratch: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    home = LmdbHome(pristine)
    store = home.open()
    truth = answers(store)
    store.close()
    content = (pristine / layout.DATA_FILE).read_bytes()
    (scratch / layout.DATA_FILE).write_bytes(content)
    for line in sys.stdin:
        at, mask = map(int, line.split())
        flipped = bytearray(content)
        flipped[at] ^= mask
        (scratch / layout.DATA_FILE).write_bytes(flipped)
        print(at, outcome(scratch, truth), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
