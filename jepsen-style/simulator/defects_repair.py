"""Planted defects of repair and scrub: see `defects`."""

from __future__ import annotations

from collections.abc import Sequence

from lanyinglog.errors import CorruptEntry
from lanyinglog.raft.messages import Copy, Wanted
from lanyinglog.raft.repair import Repair
from lanyinglog.scrub import Scrub
from lanyinglog.store.log_store import Mend, entry_crc
from simulator.defects import Change, defect


@defect("nobody reads the log to find what has rotted")
def scrub_is_blind() -> Sequence[Change]:
    def step(self: Scrub) -> tuple[CorruptEntry | None, int]:
        return None, 0

    return [(Scrub, "step", step)]


@defect("what another node sent is taken for written, and was not")
def mends_are_forgotten() -> Sequence[Change]:
    begin = Repair.begin_write

    def begin_and_forget(self: Repair) -> tuple[Mend, ...]:
        begin(self)
        return ()

    return [(Repair, "begin_write", begin_and_forget)]


@defect("an entry is mended with the one before it")
def copies_of_the_neighbour() -> Sequence[Change]:
    answer = Repair.answer

    def answer_wrongly(self: Repair, wanted: Wanted) -> Copy:
        copy, other = answer(self, wanted), answer(self, Wanted(wanted.term, wanted.index - 1))
        if not copy.entries or not other.entries:
            return copy
        entry = other.entries[0]
        wrong = type(entry)(wanted.index, entry.term, entry.command, entry_crc(wanted.index, entry.term, entry.command))
        return Copy(wanted.term, wanted.index, copy.rows, (wrong,))

    return [(Repair, "answer", answer_wrongly)]
