"""The blocking twin: the same results, Ctrl-C, threads, and an end that never hangs."""

from __future__ import annotations

import asyncio
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import trio
from client.loopback import QUICK, Loopback

import lanyinglog
import lanyinglog.sync
from lanyinglog.client import client as twin
from lanyinglog.client import crossing, publisher, subscription
from lanyinglog.errors import (
    BadTopic,
    ConfigError,
    LanyingError,
    NotSent,
    Outcome,
    OutcomeUnknown,
    TooManyTopics,
    Unavailable,
)


@pytest.fixture
def client(cluster: Loopback, backend: str) -> Iterator[lanyinglog.sync.Client]:
    with lanyinglog.sync.connect(cluster.servers, timing=QUICK, timeout=10, backend=backend) as connected:
        yield connected


def test_what_is_published_comes_back_in_order(client: lanyinglog.sync.Client) -> None:
    one = client.publish("orders.eu", b"one", key=b"42", headers={"k": "v"})
    many = client.publish_many("orders.us", [b"two", b"three"])
    pair = client.publish_batch([("a", b"four"), ("b", b"five")])
    with client.batch() as batch:
        batch.add("a", b"six")
        batch.add("b", b"seven", key=b"k", headers={"h": "1"})
    with client.publisher() as sender:
        pending = sender.send("orders.eu", b"eight")
        sender.send_many("orders.eu", [b"nine", b"ten"])
        sender.flush()
        assert pending.done
    acks = [one, *many, *pair, *batch.acks, pending.wait()]
    with client.subscribe(">", until="last") as messages:
        seen = list(messages)
        assert messages.until == 10 and messages.next_seq == 11
    assert [m.payload for m in seen] == b"one two three four five six seven eight nine ten".split()
    assert [(ack.seq, ack.timestamp) for ack in acks] == [(m.seq, m.timestamp) for m in seen[:8]]
    assert (seen[0].key, seen[0].headers, seen[6].key, seen[6].headers) == (b"42", {"k": "v"}, b"k", {"h": "1"})
    assert (sender.acknowledged, sender.first_seq, sender.last_seq) == (3, 8, 10)
    assert [one.topic for one in client.topics("*")] == ["a", "b"]
    assert client.status()[0]["role"] == "leader"


def test_bulk_crosses_the_threads_in_both_directions(client: lanyinglog.sync.Client) -> None:
    lines = [b"line %06d" % place for place in range(50_000)]
    with client.publisher(batch_bytes=20_000, buffer_bytes=60_000, compression="zstd") as sender:
        for at in range(0, len(lines), 500):
            sender.send_many("t", lines[at : at + 500])
    with client.subscribe("t", until="last") as messages:
        assert [message.payload for batch in messages.batches() for message in batch] == lines


def test_iterating_by_message_and_by_batch_may_be_mixed(client: lanyinglog.sync.Client) -> None:
    client.publish_many("t", [b"%d" % place for place in range(10)])
    with client.subscribe("t", until="last") as messages:
        first = next(messages)
        assert messages.next_seq == 2
        for message in messages:
            assert message.seq == 2
            break
        rest = messages.next_batch()
        assert [first.seq, *[message.seq for message in rest]] == [1, *range(3, 11)]
        assert messages.next_batch() == []


def test_a_wait_can_be_limited_and_loses_nothing(cluster: Loopback, client: lanyinglog.sync.Client) -> None:
    with client.subscribe("t", start="new") as messages:
        with pytest.raises(TimeoutError):
            messages.next_batch(timeout=0.05)
        client.publish("t", b"x")
        assert [message.payload for message in messages.next_batch(timeout=5)] == [b"x"]
    cluster.log.held = True
    with client.publisher() as sender:
        pending = sender.send("t", b"y")
        with pytest.raises(TimeoutError):
            pending.wait(timeout=0.05)
        cluster.do(cluster.log.release)
        assert pending.wait().seq == 2


def test_errors_come_through(cluster: Loopback, client: lanyinglog.sync.Client) -> None:
    with pytest.raises(BadTopic):
        client.publish("a b", b"")
    with pytest.raises(BadTopic):
        client.subscribe("a b")
    cluster.log.refusal = TooManyTopics("no room")
    with pytest.raises(TooManyTopics), client.publisher() as sender:
        sender.send("t", b"x")
    cluster.log.refusal = None
    cluster.log.held = True
    with pytest.raises(OutcomeUnknown):
        client.publish("t", b"x", timeout=0.1)
    with pytest.raises(ConfigError):
        lanyinglog.sync.connect("no port:x")


def test_threads_may_share_a_client(client: lanyinglog.sync.Client) -> None:
    seqs: list[int] = []

    def work(place: int) -> None:
        for turn in range(20):
            seqs.append(client.publish("t", b"%d %d" % (place, turn)).seq)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seqs) == list(range(1, 161))


def test_threads_may_share_a_publisher(client: lanyinglog.sync.Client) -> None:
    with client.publisher(buffer_bytes=5_000, batch_bytes=1_000) as sender:

        def work(place: int) -> None:
            for turn in range(200):
                sender.send("t", b"%d %d" % (place, turn))

        threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with client.subscribe("t", until="last") as messages:
        seen = [message.payload.split() for message in messages]
    for place in range(4):
        assert [int(turn) for who, turn in seen if int(who) == place] == list(range(200))


# -------------------------------------------------------------------------------------------------------- Ctrl-C
WAITS: dict[str, Callable[[lanyinglog.sync.Client], object]] = {
    "publish": lambda client: client.publish("t", b"x"),
    "publisher": lambda client: _publisher(client),
    "pending": lambda client: client.publisher().__enter__().send("t", b"x").wait(),
    "subscribe": lambda client: next(client.subscribe("t", start="new").__enter__()),
}


def _publisher(client: lanyinglog.sync.Client) -> None:
    with client.publisher(buffer_bytes=1_000) as sender:
        while True:
            sender.send("t", bytes(100))


def press_ctrl_c() -> None:
    """What a terminal does: a real signal, for only that interrupts a wait in the system."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_ctrl_c_ends_a_wait_at_once(
    cluster: Loopback, client: lanyinglog.sync.Client, wait: Callable[[lanyinglog.sync.Client], object]
) -> None:
    cluster.log.held = True
    timer = threading.Timer(0.2, press_ctrl_c)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        wait(client)
    timer.join()
    cluster.do(cluster.log.release)
    assert client.publish("u", b"the client goes on").seq >= 1


def test_an_interrupted_iteration_goes_on_without_a_gap(client: lanyinglog.sync.Client, monkeypatch: Any) -> None:
    seen: list[int] = []
    interrupts: list[int] = []
    inside = False
    call = client._loop.call

    def interruptible(*arguments: Any) -> Any:
        nonlocal inside
        inside = True
        try:
            return call(*arguments)
        finally:
            inside = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        # Elsewhere is the program's own business, and in what the collector of garbage calls nobody would hear of it.
        if inside and frame is not None and frame.f_code.co_filename in waiting:
            interrupts.append(number)
            raise KeyboardInterrupt

    # Frames of these are the product's, where it waits and where it wakes the loop.
    waiting = {crossing.__file__, trio._core._entry_queue.__file__, asyncio.base_events.__file__}
    with client.subscribe("t", until=300) as messages:
        writer = threading.Thread(target=lambda: [client.publish("t", b"x") for _ in range(300)])
        monkeypatch.setattr(messages, "_loop", SimpleNamespace(call=interruptible))
        before = signal.signal(signal.SIGALRM, interrupt)
        writer.start()
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.003)
        try:
            while len(seen) < 300:
                try:
                    seen += [message.seq for message in messages.next_batch()]
                except KeyboardInterrupt:
                    continue
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            writer.join()
        monkeypatch.undo()
    assert seen == list(range(1, 301))
    assert interrupts


# ----------------------------------------------------------------------------------------------------- the end
def test_closing_ends_waits_in_other_threads(cluster: Loopback, client: lanyinglog.sync.Client) -> None:
    ends: dict[str, type[Exception]] = {}
    cluster.log.held = True
    waiting = client.subscribe("t", start="new").__enter__()

    def wait(name: str, function: Callable[[], object]) -> None:
        try:
            function()
        except LanyingError as error:
            ends[name] = type(error)

    works: dict[str, Callable[[], object]] = {
        "publish": lambda: client.publish("t", b"x"),
        "subscribe": lambda: next(waiting),
    }
    threads = [threading.Thread(target=wait, args=work) for work in works.items()]
    for thread in threads:
        thread.start()
    assert cluster.submitted.acquire(timeout=10)
    client.close()
    for thread in threads:
        thread.join(timeout=5)
        assert not thread.is_alive()
    assert ends == {"publish": OutcomeUnknown, "subscribe": Unavailable}
    client.close()


def test_after_the_end_every_call_says_so(client: lanyinglog.sync.Client) -> None:
    sender = client.publisher().__enter__()
    messages = client.subscribe("t", start="new").__enter__()
    client.close()
    calls: list[Callable[[], object]] = [
        lambda: client.publish("t", b"x"),
        lambda: client.topics(),
        lambda: sender.send("t", b"x"),
        lambda: sender.send_many("t", [b"x"]),
        lambda: sender.flush(),
        lambda: next(messages),
    ]
    for call in calls:
        with pytest.raises(NotSent, match="closed"):
            call()


def test_closing_tells_a_publisher_that_what_it_sent_may_be_stored(
    cluster: Loopback, client: lanyinglog.sync.Client
) -> None:
    cluster.log.held = True
    sender = client.publisher().__enter__()
    pending = sender.send("t", b"x")
    ends: list[Exception] = []

    def leave() -> None:
        try:
            sender.__exit__(None, None, None)
        except LanyingError as error:
            ends.append(error)

    thread = threading.Thread(target=leave)
    thread.start()
    assert cluster.submitted.acquire(timeout=10)
    client.close()
    thread.join(timeout=5)
    assert [end.outcome for end in ends] == [Outcome.UNKNOWN]
    calls: list[Callable[[], object]] = [sender.flush, lambda: sender.__exit__(None, None, None), pending.wait]
    for call in calls:
        with pytest.raises(OutcomeUnknown):
            call()
    with pytest.raises(NotSent, match="closed"):
        sender.send("t", b"y")


def test_while_the_client_is_being_closed_what_was_sent_is_unknown(
    cluster: Loopback, client: lanyinglog.sync.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.log.held = True
    sender = client.publisher().__enter__()
    pending = sender.send("t", b"x")
    with monkeypatch.context() as closing:
        closing.setattr(client._loop, "_open", False)
        for call in (sender.flush, pending.wait):
            with pytest.raises(OutcomeUnknown, match="the client is closed"):
                call()
    cluster.do(cluster.log.release)
    assert pending.wait().seq == 1


def test_a_client_closed_when_all_is_acknowledged_leaves_a_publisher_in_peace(client: lanyinglog.sync.Client) -> None:
    with client.publisher() as sender:
        sender.send("t", b"x").wait()
        client.close()
        sender.flush()


def test_a_client_closed_in_the_block_of_a_publisher_does_not_hide_what_ends_it(client: lanyinglog.sync.Client) -> None:
    with pytest.raises(ValueError, match="mine"), client.publisher():
        client.close()
        raise ValueError("mine")


def test_a_call_that_comes_over_when_the_loop_begins_none_any_more_is_told_so(backend: str) -> None:
    """The thread that made it was put aside between its look whether the client is open and its handing over."""
    loop = crossing.Loop(backend)
    loop.close()
    late = crossing._Call(trio.sleep, (0,))
    loop._bring(partial(loop._begin, late))
    error, _ = late.outcome.get_nowait()
    assert isinstance(error, NotSent)


def test_a_call_that_the_loop_took_and_never_ran_ends_with_it(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = crossing.Loop(backend)
    taken = threading.Event()
    ends: list[object] = []

    def late() -> None:
        with pytest.raises(NotSent, match="closed") as caught:
            loop.call(trio.sleep, 0)
        ends.append(caught.value)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_soon", lambda *_: taken.set())
        thread = threading.Thread(target=late, daemon=True)
        thread.start()
        assert taken.wait(10)
    loop.close()
    thread.join(10)
    assert ends, "it waits for ever"


def test_an_exception_in_the_block_comes_out_as_it_is(cluster: Loopback, client: lanyinglog.sync.Client) -> None:
    cluster.log.held = True
    with pytest.raises(ValueError, match="mine"), client, client.publisher() as sender, client.subscribe("t"):
        sender.send("t", b"x")
        raise ValueError("mine")


def test_a_program_may_end_without_closing(cluster: Loopback) -> None:
    code = (
        f"import lanyinglog; client = lanyinglog.sync.connect({cluster.servers[0]!r});"
        "print(client.publish('t', b'x').seq); client.subscribe('t').__enter__()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


# ------------------------------------------------------------------------------------------------------ the twins
TWINS: dict[str, tuple[Any, Any, set[str]]] = {
    "connect": (twin.connect, lanyinglog.sync.connect, {"backend"}),
    **{
        f"Client.{name}": (getattr(twin.Client, name), getattr(lanyinglog.sync.Client, name), set())
        for name in ("publish", "publish_many", "publish_batch", "batch", "publisher", "subscribe", "topics", "status")
    },
    **{
        f"Publisher.{name}": (getattr(publisher.Publisher, name), getattr(lanyinglog.sync.Publisher, name), set())
        for name in ("send", "send_many", "flush")
    },
    "Subscription.next_batch": (
        subscription.Subscription.next_batch, lanyinglog.sync.Subscription.next_batch, {"timeout"}),
}  # fmt: skip


@pytest.mark.parametrize(("there", "here", "more"), TWINS.values(), ids=TWINS)
def test_both_twins_take_the_same_arguments(there: Any, here: Any, more: set[str]) -> None:
    expected = inspect.signature(there).parameters
    found = {name: one for name, one in inspect.signature(here).parameters.items() if name not in more}
    assert [(name, one.kind, one.default) for name, one in found.items()] == [
        (name, one.kind, one.default) for name, one in expected.items()
    ]


def test_importing_the_package_is_light_and_its_names_are_there() -> None:
    code = (
        "import sys, lanyinglog; heavy = {'anyio', 'trio', 'asyncio', 'zstandard', 'msgpack'} & set(sys.modules);"
        "assert not heavy, heavy; assert lanyinglog.sync.connect;"
        "assert all(hasattr(lanyinglog, name) for name in lanyinglog.__all__);"
        "assert set(lanyinglog.__all__) <= set(dir(lanyinglog)); assert not hasattr(lanyinglog, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], timeout=20, check=True)
