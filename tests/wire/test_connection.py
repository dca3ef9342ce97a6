"""Both sides of a connection: who may say what when, which version they agree on, and that any cut of the bytes tells
both the same."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from wire.examples import EXAMPLES, any_message, request_of

from lanyinglog.errors import Busy, FrameTooLarge, ProtocolError, UnsupportedVersion
from lanyinglog.wire.connection import Connection, Received, Role, State
from lanyinglog.wire.frames import encode_frame
from lanyinglog.wire.messages import (
    CLIENT_MESSAGES,
    FRAME_BYTES_MAX,
    HELLO_BYTES_MAX,
    NODE_MESSAGES,
    Error,
    Hello,
    Limits,
    Message,
    Ping,
    Pong,
    Publish,
    Status,
    Welcome,
    to_frame,
)

KINDS = CLIENT_MESSAGES + NODE_MESSAGES
REQUESTS = tuple(kind for kind in CLIENT_MESSAGES if kind is not Hello)
REPLIES = tuple(kind for kind in NODE_MESSAGES if kind is not Welcome)
WELCOME = EXAMPLES[Welcome]
FAREWELL = Error.of(Busy("too many connections"))


def connection(role: Role, state: State) -> Connection:
    """A connection of ``role`` that was led to ``state`` by what both sides said."""
    one = Connection(role)
    script: list[tuple[Role, Message]] = [(Role.CLIENT, Hello()), (Role.NODE, WELCOME)]
    for sender, message in script[: {State.NEW: 0, State.GREETED: 1}.get(state, 2)]:
        say(one, sender, message, 0)
    if state is State.CLOSED:
        say(one, Role.NODE, FAREWELL, 0)
    elif state is State.BROKEN:
        with pytest.raises(ProtocolError):
            list(one.receive(b"\xff" * 16))
    assert one.state is state
    return one


def say(one: Connection, sender: Role, message: Message, request: int) -> None:
    if sender is one.role:
        one.send(message, request)
    else:
        assert list(one.receive(to_frame(message, request))) == [(request, message)]


# ------------------------------------------------------------------------------------------------ who may say what when
def allowed(state: State, sender: Role, kind: type[Message], request: int) -> bool:
    """The table of docs/protocol.md, in words of its own."""
    if kind is Error and request == 0:
        return sender is Role.NODE and state is not State.CLOSED
    match state, sender:
        case State.NEW, Role.CLIENT:
            return kind is Hello
        case State.GREETED, Role.NODE:
            return kind is Welcome
        case State.OPEN, Role.CLIENT:
            return kind in REQUESTS
        case State.OPEN, Role.NODE:
            return kind in REPLIES
    return False


SAYINGS = [(kind, request_of(kind)) for kind in KINDS] + [(Error, 0)]
SAYING_IDS = [f"{kind.NAME}-{request}" for kind, request in SAYINGS]


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
@pytest.mark.parametrize("saying", SAYINGS, ids=SAYING_IDS)
def test_a_side_can_send_only_what_the_table_allows(
    state: State, role: Role, saying: tuple[type[Message], int]
) -> None:
    kind, request = saying
    one = connection(role, state)
    if allowed(state, role, kind, request):
        assert one.send(EXAMPLES[kind], request) == to_frame(EXAMPLES[kind], request)
        assert one.state is not state or state is State.OPEN
    else:
        with pytest.raises(AssertionError, match="may not send"):
            one.send(EXAMPLES[kind], request)
        assert one.state is state


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
@pytest.mark.parametrize("saying", SAYINGS, ids=SAYING_IDS)
def test_a_side_accepts_only_what_the_table_allows(state: State, role: Role, saying: tuple[type[Message], int]) -> None:
    kind, request = saying
    one = connection(role, state)
    frame = to_frame(EXAMPLES[kind], request)
    if allowed(state, role.other, kind, request) and state is not State.BROKEN:
        assert list(one.receive(frame)) == [(request, EXAMPLES[kind])]
    else:
        with pytest.raises(ProtocolError):
            list(one.receive(frame))
        assert one.state in (State.BROKEN, State.CLOSED)


@pytest.mark.parametrize("state", [State.BROKEN, State.CLOSED], ids=lambda state: state.name)
@pytest.mark.parametrize("role", Role, ids=lambda role: role.value)
def test_an_ended_connection_takes_nothing(state: State, role: Role) -> None:
    with pytest.raises(ProtocolError, match="has ended"):
        connection(role, state).receive(b"x")


def test_a_broken_node_has_one_word_left() -> None:
    node = connection(Role.NODE, State.BROKEN)
    node.send(FAREWELL, 0)
    assert node.state is State.CLOSED
    with pytest.raises(AssertionError):
        node.send(FAREWELL, 0)


def test_messages_before_the_fault_are_delivered_and_none_behind_it() -> None:
    node = connection(Role.NODE, State.OPEN)
    found = []
    with pytest.raises(ProtocolError):
        for received in node.receive(to_frame(Ping(), 1) + to_frame(Pong(), 2) + to_frame(Ping(), 3)):
            found.append(received)
    assert found == [Received(1, Ping())]


def test_requests_sent_with_the_hello_wait_for_nobody_to_be_refused() -> None:
    """Who does not wait for the welcome is refused unless the node has said it by then."""
    node = Connection(Role.NODE)
    stream = node.receive(to_frame(Hello(), 0) + to_frame(Ping(), 1))
    next(stream)
    with pytest.raises(ProtocolError, match="waiting for welcome"):
        next(stream)


# ------------------------------------------------------------------------------------------------------------ versions
VERSIONS = [
    ((1, 1), (1, 1), 1),
    ((1, 3), (1, 1), 1),
    ((1, 1), (1, 3), 1),
    ((1, 3), (2, 5), 3),
    ((2, 5), (1, 3), 3),
    ((2, 2), (1, 3), 2),
    ((1, 1), (2, 3), None),
    ((4, 9), (1, 3), None),
]


@pytest.mark.parametrize(("client", "node", "expected"), VERSIONS)
def test_the_highest_version_that_both_speak_is_chosen(
    client: tuple[int, int], node: tuple[int, int], expected: int | None
) -> None:
    ours = Connection(Role.NODE, version_min=node[0], version_max=node[1])
    hello = Connection(Role.CLIENT).send(Hello(*client), 0)
    if expected is None:
        with pytest.raises(UnsupportedVersion):
            list(ours.receive(hello))
        assert ours.version is None
    else:
        assert list(ours.receive(hello)) == [(0, Hello(*client))]
        assert ours.version == expected


@pytest.mark.parametrize(("version", "fine"), [(1, False), (2, True), (3, True), (4, False)])
def test_a_client_takes_only_a_version_that_it_offered(version: int, fine: bool) -> None:
    client = Connection(Role.CLIENT, version_min=2, version_max=3)
    client.send(Hello(2, 3), 0)
    welcome = to_frame(Welcome(version, "n1", "c", None, Limits()), 0)
    if fine:
        list(client.receive(welcome))
        assert client.version == version
    else:
        with pytest.raises(UnsupportedVersion):
            list(client.receive(welcome))


# -------------------------------------------------------------------------------------------------------------- bounds
@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        to_frame(Ping(), 1),
        to_frame(Publish(bytes(HELLO_BYTES_MAX)), 1),
        b"\xff" * 16,
    ],
    ids=["HTTP", "TLS", "a ping", "a publish", "ones"],
)
def test_who_does_not_begin_with_a_hello_is_told_so(first: bytes) -> None:
    node = Connection(Role.NODE)
    with pytest.raises(ProtocolError, match="no hello of this protocol"):
        list(node.receive(first))


def test_a_stranger_is_granted_no_more_than_a_hello() -> None:
    def hello_of(size: int) -> bytes:
        return encode_frame(Hello.KIND, 0, {"versions": [1, 1], "client": "", "pad": "x" * (size - 44)})

    largest = hello_of(HELLO_BYTES_MAX)
    assert len(largest) == HELLO_BYTES_MAX
    assert len(list(Connection(Role.NODE).receive(largest))) == 1
    with pytest.raises(ProtocolError):
        list(Connection(Role.NODE).receive(hello_of(HELLO_BYTES_MAX + 1)[:4]))


def test_who_was_welcomed_may_send_the_largest_frame_and_not_a_byte_more() -> None:
    node = connection(Role.NODE, State.OPEN)
    assert list(node.receive((FRAME_BYTES_MAX - 4).to_bytes(4, "little"))) == []
    assert node.inside_frame
    node = connection(Role.NODE, State.OPEN)
    with pytest.raises(FrameTooLarge):
        list(node.receive((FRAME_BYTES_MAX - 3).to_bytes(4, "little")))


def test_a_smaller_limit_holds() -> None:
    node = Connection(Role.NODE, frame_bytes_max=100)
    list(node.receive(to_frame(Hello(), 0)))
    with pytest.raises(FrameTooLarge):
        list(node.receive(to_frame(Publish(bytes(100)), 1)))


# ----------------------------------------------------------------------------------------------- both sides, any cut
class Conversation(RuleBasedStateMachine):
    """A client and a node, with bytes on their way in both directions that arrive in pieces of any size."""

    pieces = Bundle("pieces")

    @initialize()
    def connect(self) -> None:
        self.sides = {Role.CLIENT: Connection(Role.CLIENT), Role.NODE: Connection(Role.NODE)}
        self.on_the_way = {Role.CLIENT: bytearray(), Role.NODE: bytearray()}  # by sender
        self.sent: dict[Role, deque[Received]] = {Role.CLIENT: deque(), Role.NODE: deque()}
        self.broken = False

    def _send(self, sender: Role, message: Message, request: int) -> None:
        self.on_the_way[sender] += self.sides[sender].send(message, request)
        self.sent[sender].append(Received(request, message))

    def _is(self, role: Role, state: State) -> bool:
        return self.sides[role].state is state

    @precondition(lambda self: self._is(Role.CLIENT, State.NEW))
    @rule()
    def client_says_hello(self) -> None:
        self._send(Role.CLIENT, Hello(), 0)

    @precondition(lambda self: self._is(Role.NODE, State.GREETED))
    @rule()
    def node_says_welcome(self) -> None:
        self._send(Role.NODE, WELCOME, 0)

    @precondition(lambda self: self._is(Role.CLIENT, State.OPEN))
    @rule(message=any_message(REQUESTS), request=st.integers(1, 9))
    def client_asks(self, message: Message, request: int) -> None:
        self._send(Role.CLIENT, message, request)

    @precondition(lambda self: self._is(Role.NODE, State.OPEN))
    @rule(message=any_message(REPLIES), request=st.integers(1, 9))
    def node_answers(self, message: Message, request: int) -> None:
        self._send(Role.NODE, message, request)

    @precondition(lambda self: not self._is(Role.NODE, State.CLOSED))
    @rule(luck=st.integers(0, 9))
    def node_gives_up(self, luck: int) -> None:
        if luck == 0:
            self._send(Role.NODE, FAREWELL, 0)

    @rule(sender=st.sampled_from(Role), share=st.floats(0, 1), target=pieces)
    def cut(self, sender: Role, share: float) -> tuple[Role, int]:
        return sender, max(1, round(share * len(self.on_the_way[sender])))

    @rule(piece=consumes(pieces))
    def deliver(self, piece: tuple[Role, int]) -> None:
        sender, size = piece
        receiver = self.sides[sender.other]
        if receiver.state is State.CLOSED:
            return  # nobody listens any more
        stream = self.on_the_way[sender]
        arrived = bytes(stream[:size])
        del stream[:size]
        for received in receiver.receive(arrived):
            assert received == self.sent[sender].popleft()

    @invariant()
    def what_has_arrived_was_delivered(self) -> None:
        if not hasattr(self, "sides"):
            return
        for sender, side in self.sides.items():
            other = self.sides[sender.other]
            if not self.on_the_way[sender] and other.state is not State.CLOSED:
                assert not self.sent[sender]
                assert not other.inside_frame
            assert side.state is not State.BROKEN
            assert side.version in (None, 1)
        if not any(self.on_the_way.values()) and not self._is(Role.NODE, State.CLOSED):
            assert self.sides[Role.CLIENT].state is self.sides[Role.NODE].state


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConversation = Conversation.TestCase


# ---------------------------------------------------------------------------------------- publishes, one after another
def test_publishes_with_the_same_header_are_read_like_the_first_and_others_are_not() -> None:
    node = connection(Role.NODE, State.OPEN)
    said = [
        (1, Publish(b"one", "main")),
        (2, Publish(b"two", "main")),
        (3, Status("main")),  # the same header, of another kind
        (4, Publish(b"three", "main")),
        (5, Publish(b"four", "other")),
        (6, Publish(b"", "other")),
        (7, Publish(b"five", "main")),
    ]
    for request, message in said:
        assert list(node.receive(to_frame(message, request))) == [(request, message)]
    node = connection(Role.NODE, State.OPEN)
    assert list(node.receive(b"".join(to_frame(message, request) for request, message in said))) == said


def test_a_publish_like_the_last_but_without_a_request_id_is_refused_all_the_same() -> None:
    node = connection(Role.NODE, State.OPEN)
    say(node, Role.CLIENT, Publish(b"one", "main"), 1)
    with pytest.raises(ProtocolError, match="request id 0"):
        list(node.receive(encode_frame(Publish.KIND, 0, {"log": "main"}, [b"two"])))


SAID = st.one_of(
    st.builds(Publish, st.binary(max_size=20), st.sampled_from(["main", "other"])),
    st.just(Ping()),
    st.just(Status("main")),  # the header of a publish, of another kind
)
DAMAGE = st.one_of(
    st.none(),
    st.tuples(st.integers(0, 60), st.integers(1, 255)),  # a byte flipped
    st.integers(1, 40),  # bytes that are missing, or come later
)
PIECES = st.lists(st.tuples(SAID, st.integers(0, 3), DAMAGE, st.booleans()), max_size=8)


@settings(max_examples=500)
@given(PIECES)
def test_what_is_read_at_once_is_what_receive_makes_of_it(pieces: list[tuple[Message, int, Any, bool]]) -> None:
    hasty, thorough = (connection(Role.NODE, State.OPEN) for _ in range(2))
    for side in (hasty, thorough):
        say(side, Role.CLIENT, Publish(b"first", "main"), 1)
    rest = b""
    for message, request, damage, joined in pieces:
        data = bytearray(rest + encode_frame(message.KIND, request, message.header(), message.body()))
        rest = b""
        if isinstance(damage, tuple) and damage[0] < len(data):
            data[damage[0]] ^= damage[1]
        elif isinstance(damage, int):
            data, left = data[:-damage], bytes(data[-damage:])
            rest = left if joined else b""
        at_once = hasty.repeated_publish(bytes(data))
        found = heard(hasty, data) if at_once is None else [(at_once[0], Publish(*at_once[1:]))]
        assert found == heard(thorough, data)
        assert hasty.inside_frame == thorough.inside_frame


def heard(side: Connection, data: bytearray) -> list[Any]:
    """What ``side`` makes of ``data``, the words of a refusal included."""
    found: list[Any] = []
    try:
        found.extend(side.receive(bytes(data)))
    except ProtocolError as error:
        found.append(str(error))
    return found


def test_a_publish_like_the_last_is_read_at_once() -> None:
    node = connection(Role.NODE, State.OPEN)
    say(node, Role.CLIENT, Publish(b"one", "main"), 1)
    assert node.repeated_publish(to_frame(Publish(b"two", "main"), 2)) == (2, b"two", "main")
    assert node.repeated_publish(to_frame(Publish(b"", "main"), 3)) == (3, b"", "main")


@pytest.mark.parametrize(
    "data",
    [
        to_frame(Publish(b"two", "other"), 2),
        to_frame(Status("main"), 2),
        to_frame(Publish(b"two", "main"), 2)[:-1],
        to_frame(Publish(b"two", "main"), 2) + b"\0",
        to_frame(Publish(b"two", "main"), 2) * 2,
        encode_frame(Publish.KIND, 0, {"log": "main"}, [b"two"]),
        to_frame(Publish(bytes(FRAME_BYTES_MAX), "main"), 2),
        to_frame(Publish(b"two", "main"), 2)[:10],
        b"",
    ],
    ids=["log", "kind", "cut", "more", "two", "request", "large", "head", "nothing"],
)
def test_whatever_else_is_not_and_nothing_has_happened(data: bytes) -> None:
    node = connection(Role.NODE, State.OPEN)
    say(node, Role.CLIENT, Publish(b"one", "main"), 1)
    assert node.repeated_publish(data) is None
    assert not node.inside_frame
    say(node, Role.CLIENT, Publish(b"two", "main"), 2)


def test_nothing_is_read_at_once_inside_a_frame_nor_from_a_broken_side() -> None:
    frame = to_frame(Publish(b"two", "main"), 2)
    node = connection(Role.NODE, State.OPEN)
    say(node, Role.CLIENT, Publish(b"one", "main"), 1)
    assert list(node.receive(frame[:20])) == []
    assert node.repeated_publish(frame) is None
    with pytest.raises(ProtocolError):
        list(node.receive(frame[20:] + b"\xff" * 20))
    assert node.repeated_publish(frame) is None
