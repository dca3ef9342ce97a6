"""A purge: which messages it takes, that it is done once, and what can't be read."""

from __future__ import annotations

import pytest

from lanyinglog import codec
from lanyinglog.errors import BadRequest, BadTopic
from lanyinglog.machine.commands import KIND_PURGE, encode_command, encode_entry
from lanyinglog.machine.purge import NUMBER_MAX, REMEMBERED, Purge
from lanyinglog.machine.state_machine import StateMachine
from lanyinglog.record import encode_batch, encode_columns
from lanyinglog.service import Ack


def published(machine: StateMachine, *topics: str) -> None:
    index = machine.applied + 1
    runs = [encode_columns(topic, [b"x"]) for topic in topics]
    machine.apply(index, encode_entry(index, [encode_batch(index.to_bytes(16, "big"), 1, runs)]))


def purged(machine: StateMachine, pattern: str, number: int) -> object:
    command = encode_command(machine.applied + 1, KIND_PURGE, Purge(pattern, number).encode())
    return machine.apply(machine.applied + 1, command).results[0]


def left(machine: StateMachine) -> dict[str, int]:
    return {stat.topic: stat.messages for stat in machine.topics.stats()}


def reloaded(machine: StateMachine) -> StateMachine:
    other = StateMachine()
    rows = machine.take_checkpoint().rows
    other.load(machine.applied, [(key, value) for key, value in rows.items() if value is not None])
    return other


def test_it_takes_what_matches_and_came_before():
    machine = StateMachine()
    published(machine, "a", "b", "a.b")
    assert isinstance(purged(machine, "a", 1), Ack)
    assert left(machine) == {"b": 1, "a.b": 1}
    assert machine.topics.purged == {"a": 1}
    published(machine, "a")
    assert left(machine) == {"a": 1, "b": 1, "a.b": 1}
    purged(machine, ">", 2)
    assert left(machine) == {}
    assert machine.last_seq == 4, "seqs stay as they are"


@pytest.mark.parametrize("reload", [False, True], ids=["running", "from a checkpoint"])
def test_a_repeated_request_takes_nothing_that_came_in_between(reload: bool):
    machine = StateMachine()
    published(machine, "a")
    purged(machine, "a", 7)
    if reload:
        machine = reloaded(machine)
    published(machine, "a")
    assert isinstance(purged(machine, "a", 7), Ack)
    assert left(machine) == {"a": 1}
    assert machine.topics.purged == {"a": 1}


def test_it_remembers_so_many_requests_and_no_more():
    machine = StateMachine()
    for number in range(1, REMEMBERED + 2):
        purged(machine, ">", number)
    published(machine, "a")
    purged(machine, ">", 2)
    assert left(machine) == {"a": 1}
    purged(machine, ">", 1)
    assert left(machine) == {}


@pytest.mark.parametrize(
    ("purge", "error"),
    [(Purge("a..b", 1), BadTopic), (Purge("a", 0), BadRequest), (Purge("a", NUMBER_MAX + 1), BadRequest)],
)
def test_what_makes_no_sense_is_refused_before_it_is_an_entry(purge: Purge, error: type[Exception]):
    with pytest.raises(error):
        purge.encode()


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", *map(codec.pack, ([], ["a"], ["a", 0], [1, 1], ["a b", 1], {"a": 1}, ["a", True], ["a", 1, 2], 5))],
    ids=repr,
)
def test_what_cant_be_read_is_an_error_and_changes_nothing(body: bytes):
    machine = StateMachine()
    published(machine, "a")
    done = machine.apply(2, encode_command(5, KIND_PURGE, body))
    assert isinstance(done.results[0], BadRequest)
    assert left(machine) == {"a": 1}
