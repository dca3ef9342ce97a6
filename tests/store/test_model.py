"""Both stores against a model of lists, step by step, with closing, killing and failing in between."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store.logs import LmdbHome, MemoryHome, Model, check_same, entry

from lanyinglog.errors import StorageFull
from lanyinglog.store.log_store import Checkpoint, Entry, EntryRecord, HardState, Writes

COMMANDS = st.binary(max_size=40) | st.just(b"x" * 3_000)


class Stores(RuleBasedStateMachine):
    """One log in an LMDB environment, in its memory twin, and in a model."""

    @initialize(seed=st.integers(0, 1 << 32))
    def make(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.directory = Path(tempfile.mkdtemp())
        self.homes = [LmdbHome(self.directory / "log"), MemoryHome()]
        self.stores = [home.open() for home in self.homes]
        self.model = Model()

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            for store in self.stores:
                store.close()
            shutil.rmtree(self.directory)

    def write(self, writes: Writes) -> None:
        for store in self.stores:
            store.write(writes)
        self.model.write(writes)

    def new_entries(self, first: int, commands: list[bytes]) -> list[Entry]:
        term = self.model.hard.term
        return [entry(index, term, command) for index, command in enumerate(commands, start=first)]

    @property
    def last(self) -> int:
        return len(self.model.entries)

    @rule(commands=st.lists(COMMANDS, max_size=6))
    def append(self, commands: list[bytes]) -> None:
        self.write(Writes(entries=self.new_entries(self.last + 1, commands)))

    @rule(back=st.integers(0, 4), commands=st.lists(COMMANDS, max_size=4), newer=st.booleans())
    def replace(self, back: int, commands: list[bytes], newer: bool) -> None:
        first = max(len(self.model.records) + 1, self.last + 1 - back)
        hard = HardState(self.model.hard.term + newer, "n2", self.model.hard.commit)
        self.write(Writes(first, self.new_entries(first, commands), hard))

    @rule(term=st.integers(0, 2), vote=st.sampled_from([None, "n1", "n3"]), commit=st.integers(0, 100))
    def decide(self, term: int, vote: str | None, commit: int) -> None:
        self.write(Writes(hard_state=HardState(self.model.hard.term + term, vote, commit)))

    @precondition(lambda self: self.last > len(self.model.records))
    @rule(data=st.data())
    def apply(self, data: st.DataObject) -> None:
        done = len(self.model.records)
        upto = data.draw(st.integers(done + 1, self.last))
        newest = self.model.records[-1] if self.model.records else EntryRecord(0, 1, 0, 0)
        made = []
        for index in range(done + 1, upto + 1):
            first_seq = newest.first_seq + newest.count
            count = data.draw(st.integers(0, 4))
            pause = data.draw(st.integers(0, 3)) + max(newest.count, 1)
            newest = EntryRecord(index, first_seq, count, newest.timestamp + pause, (1, 2) if not count else ())
            made.append(newest)
        keys = st.sampled_from([b"a", b"b", b"cc", b"\x00"])
        rows = data.draw(st.dictionaries(keys, st.none() | st.binary(max_size=9)))
        postings = data.draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4)), max_size=4))
        self.write(Writes(checkpoint=Checkpoint(upto, made, rows, postings)))

    @rule()
    def close_and_open(self) -> None:
        for store in self.stores:
            store.close()
        self.stores = [home.open() for home in self.homes]

    @rule(lands=st.booleans())
    def lose_power_in_a_write(self, lands: bool) -> None:
        """The twin alone: its write lands or does not, and then there is a new store on the same disk."""
        memory = self.stores[1]
        memory.fail_next_write(OSError(5, "power cut"), lands=lands)  # type: ignore[attr-defined]
        writes = Writes(entries=self.new_entries(self.last + 1, [b"half done"]))
        with pytest.raises(OSError, match="power cut"):
            memory.write(writes)
        self.stores[1] = self.homes[1].open()
        if lands:
            self.stores[0].write(writes)
            self.model.write(writes)

    @rule()
    def run_out_of_room(self) -> None:
        memory = self.stores[1]
        memory.fail_next_write(StorageFull("no room"))  # type: ignore[attr-defined]
        with pytest.raises(StorageFull):
            memory.write(Writes(entries=self.new_entries(self.last + 1, [b"no room"])))

    @invariant()
    def all_three_agree(self) -> None:
        if hasattr(self, "model"):
            for store in self.stores:
                check_same(store, self.model, self.rng)


Stores.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
TestStores = Stores.TestCase
