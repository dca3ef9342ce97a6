"""What simulation found in the product, each as the smallest schedule that shows it (and the seed that did)."""

from __future__ import annotations

import random

from lanyinglog import record
from lanyinglog.log_core import LogCore
from lanyinglog.machine.members import Members
from lanyinglog.raft.timing import Timing
from lanyinglog.service import Ack
from lanyinglog.store.memory import MemoryStore


def batch(number: int) -> record.BatchView:
    run = record.encode_run("a.b", [record.OutgoingMessage(b"payload %d" % number)])
    return record.parse_batch(record.encode_batch(b"p" * 16, number, [run]))


class Alone:
    """A cluster of one, turned by hand: ``sync`` is the whole write."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.now = 1.0
        uniform = random.Random(1).uniform
        self.core = LogCore(
            node="n1",
            members=Members.of({"n1": "n1:1"}),
            store=self.store,
            timing=Timing(),
            uniform=uniform,
            now=self.now,
        )

    def turn(self) -> None:
        self.now += 0.001
        self.core.advance(self.now, int(self.now * 1e9))

    def sync(self) -> None:
        writes = self.core.begin_write()
        self.store.write(writes)
        self.core.end_write(writes, self.now)

    def elect(self) -> None:
        self.now += 2.0
        while not self.core.replica.leads or self.core.wants_write:
            self.turn()
            if self.core.wants_write:
                self.sync()


def test_a_batch_refused_as_not_led_is_not_stored_later() -> None:
    """Seed 303: alone, a node must not tick its engine while its disk is behind; a batch proposed then was refused with
    a definite error (P7), waited in the engine, and was stored a turn later."""
    node = Alone()
    node.elect()
    first = node.core.submit(batch(1), node.now)
    node.turn()  # proposes it: the journal is ahead of the disk, and no write has begun
    second = node.core.submit(batch(2), node.now)
    node.turn()
    assert second.result is None
    for _ in range(4):
        if node.core.wants_write:
            node.sync()
        node.turn()
    assert isinstance(first.result, Ack)
    assert isinstance(second.result, Ack)
    assert node.core.tail.last_seq == 2


def test_alone_a_write_that_ends_is_followed_by_a_turn_that_commits_it() -> None:
    """Seed 31: alone, no answer of another node announces a commit; it waited for the next heartbeat."""
    node = Alone()
    node.elect()
    node.turn()
    assert not node.core.wants_turn, "at rest"
    ticket = node.core.submit(batch(1), node.now)
    assert node.core.wants_turn
    node.turn()
    assert not node.core.wants_turn, "its disk is behind"
    node.sync()
    assert node.core.wants_turn
    node.turn()
    assert isinstance(ticket.result, Ack)
