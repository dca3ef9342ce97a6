"""Every kind of command, on two machines: one that lives on, and one that is stored as rows and made anew at will.

Whatever is asked of them is answered alike ever after, and the rows that the two have stored are the same bytes: two
nodes that made their checkpoints at different entries hold the same state.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lanyinglog.machine.commands import (
    KIND_MEMBERS,
    KIND_PURGE,
    KIND_SETTINGS,
    KIND_TRIM,
    encode_command,
    encode_entry,
)
from lanyinglog.machine.members import Members
from lanyinglog.machine.purge import REMEMBERED, Purge
from lanyinglog.machine.retention import TrimPoint, encode_settings, encode_trim
from lanyinglog.machine.state_machine import Applied, StateMachine
from lanyinglog.record import OutgoingMessage, encode_batch, encode_run
from lanyinglog.service import Ack

TOPICS = ("a", "a.b", "c")
FOUNDERS = Members.of({"n1": "h:1", "n2": "h:2"})


def told(done: Applied) -> object:
    """``done`` as a value: errors of the same words are the same."""
    results = [result if isinstance(result, Ack) else (type(result), str(result)) for result in done.results]
    return done.record, done.runs, results


class Stored:
    """A machine and what it has stored of itself."""

    def __init__(self) -> None:
        self.machine = StateMachine()
        self.rows: dict[bytes, bytes] = {}

    def store(self) -> None:
        for key, value in self.machine.take_checkpoint().rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def start_again(self) -> None:
        self.store()
        applied, self.machine = self.machine.applied, StateMachine()
        self.machine.load(applied, sorted(self.rows.items()))


class Life(RuleBasedStateMachine):
    """See the module."""

    @initialize()
    def begin(self) -> None:
        self.whole, self.anew = Stored(), Stored()
        self.members = FOUNDERS
        self.numbers = {1: 0, 2: 0}
        self.purges = 0

    def apply(self, command: bytes) -> Applied:
        index = self.whole.machine.applied + 1
        done = self.whole.machine.apply(index, command)
        assert told(self.anew.machine.apply(index, command)) == told(done), "a checkpoint changed what an entry gives"
        return done

    def command(self, kind: int, body: bytes) -> Applied:
        return self.apply(encode_command(1, kind, body))

    @rule(producer=st.sampled_from([1, 2]), topic=st.sampled_from(TOPICS), count=st.integers(1, 3))
    def publish(self, producer: int, topic: str, count: int) -> None:
        self.numbers[producer] += 1
        run = encode_run(topic, [OutgoingMessage(b"x")] * count)
        batch = encode_batch(bytes([producer]) * 16, self.numbers[producer], [run])
        assert all(isinstance(result, Ack) for result in self.apply(encode_entry(7, [batch])).results)

    @rule(name=st.sampled_from(["messages", "age_s"]), limit=st.none() | st.integers(1, 9))
    def configure(self, name: str, limit: int | None) -> None:
        self.command(KIND_SETTINGS, encode_settings({name: limit}))
        assert getattr(self.anew.machine.retention, name) == limit

    @rule(back=st.integers(-1, 6), seqs=st.integers(-1, 6))
    def trim(self, back: int, seqs: int) -> None:
        """Also to where the log can't begin, as a leader that was overtaken would say."""
        machine = self.whole.machine
        point = TrimPoint(max(0, machine.applied - back), max(0, machine.last_seq + 1 - seqs))
        before = machine.first_index, machine.first_seq
        [result] = self.command(KIND_TRIM, encode_trim(point)).results
        assert (machine.first_index, machine.first_seq) == (point if isinstance(result, Ack) else before)
        assert (machine.first_index, machine.first_seq) >= before, "the log's beginning never goes back"

    @rule(what=st.sampled_from(["learner", "voter", "leave"]), name=st.sampled_from(["n3", "n4", "n5"]))
    def change(self, what: str, name: str) -> None:
        if what == "learner":
            self.members = self.members.with_learner(name, f"h:{name[1:]}")
        elif name in self.members.table:
            self.members = self.members.with_voter(name) if what == "voter" else self.members.without(name)
        self.command(KIND_MEMBERS, self.members.encode())
        assert self.anew.machine.members == self.members

    @rule(pattern=st.sampled_from(["a", "a.*", ">", "none"]), again=st.booleans())
    def purge(self, pattern: str, again: bool) -> None:
        again = again and self.purges > 0
        if not again:
            self.purges += 1
        before = self.whole.machine.topics.purged
        self.command(KIND_PURGE, Purge(pattern, self.purges).encode())
        assert not again or self.whole.machine.topics.purged == before, "a repeated purge took what came in between"

    @rule(topic=st.sampled_from(TOPICS))
    def a_purge_is_repeated(self, topic: str) -> None:
        """Its answer was lost; meanwhile the node started again, and more was published."""
        self.purge(">", False)
        self.publish(1, topic, 1)
        self.anew.start_again()
        self.purge(">", True)

    @rule()
    def many_purges(self) -> None:
        """So many that the first are no longer remembered."""
        for _ in range(REMEMBERED):
            self.purge("none", False)

    @rule(kind=st.integers(0, 255), body=st.binary(max_size=30))
    def nonsense(self, kind: int, body: bytes) -> None:
        self.command(kind, b"\xc1" + body)

    @rule()
    def anew_starts_again(self) -> None:
        self.anew.start_again()

    @rule()
    def whole_is_stored(self) -> None:
        self.whole.store()

    @invariant()
    def they_are_the_same(self) -> None:
        whole, anew = self.whole.machine, self.anew.machine
        assert (anew.retention, anew.first_index, anew.first_seq) == (
            whole.retention,
            whole.first_index,
            whole.first_seq,
        )
        assert anew.members == whole.members
        assert anew.topics.stats() == whole.topics.stats()
        assert anew.topics.names_from(0, 1_000) == whole.topics.names_from(0, 1_000)
        assert anew.topics.purged == whole.topics.purged

    def teardown(self) -> None:
        self.whole.store()
        self.anew.store()
        assert self.anew.rows == self.whole.rows, "the same state is not the same bytes"


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
