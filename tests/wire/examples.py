"""Messages to test the wire with: one example of each kind, and a strategy that makes any message of each kind."""

from __future__ import annotations

import string

from hypothesis import strategies as st

from lanyinglog.compression import CODEC_LZ4, CODEC_ZSTD, CODECS
from lanyinglog.errors import NotLeader, Outcome
from lanyinglog.record import (
    MESSAGES_MAX,
    OutgoingMessage,
    decode_run,
    encode_batch,
    encode_run,
    parse_batch,
)
from lanyinglog.service import Item, TopicStat
from lanyinglog.wire.fields import SEQ_MAX, U32_MAX
from lanyinglog.wire.messages import (
    CLIENT_MESSAGES,
    CREDIT_MAX,
    FILTERS_MAX,
    ITEM_HEAD_BYTES,
    NODE_MESSAGES,
    Acked,
    Credit,
    Error,
    Hello,
    Limits,
    LogInfo,
    LogInfoReply,
    LogSet,
    MemberAdd,
    MemberRemove,
    MembersReply,
    Message,
    Newest,
    NewestReply,
    Origin,
    Ping,
    Pong,
    Publish,
    Push,
    Scope,
    Start,
    Status,
    StatusReply,
    Subscribe,
    Subscribed,
    TopicPurge,
    Topics,
    TopicsReply,
    Transfer,
    Transferred,
    Unsubscribe,
    Unsubscribed,
    Welcome,
)

RUNS = (
    encode_run("orders.eu", [OutgoingMessage(b"one", b"k", {"h": "v"}), OutgoingMessage(b"two")]),
    encode_run("orders.us", [OutgoingMessage(b"three" * 20)] * 3, compression=CODEC_ZSTD),
    encode_run("orders.us", [OutgoingMessage(b"four" * 20)] * 3, compression=CODEC_LZ4),
)
BATCH = encode_batch(bytes(range(16)), 1, RUNS)


def push(prev: int, through: int, items: tuple[Item, ...]) -> Push:
    """A push whose counts are those of its items."""
    body_bytes = sum(ITEM_HEAD_BYTES + len(item.run) for item in items)
    return Push(prev, through, sum(item.count for item in items), items, body_bytes)


EXAMPLES: dict[type[Message], Message] = {
    type(message): message
    for message in (
        Hello(1, 1, "test"),
        Publish(BATCH),
        Subscribe(("orders.*", "a.>"), Start(Origin.SEQ, 5), 1_000, 1 << 20),
        Credit(10, 4_096),
        Unsubscribe(),
        Status(),
        Topics(after="orders.eu"),
        Ping(),
        Transfer(node="n2"),
        LogInfo(),
        LogSet({"age_s": 3_600, "bytes": None}),
        TopicPurge("orders.>", 7),
        MemberAdd("n4", "127.0.0.1:7523"),
        MemberRemove("n1"),
        Newest(),
        Welcome(1, "n1", "test", "127.0.0.1:7420", Limits()),
        Acked(7, 5, 1_700_000_000_000_000_000),
        Subscribed(5, 11),
        push(4, 11, (Item(4, 1_000, 2, memoryview(RUNS[0])), Item(7, 2_000, 3, memoryview(RUNS[1])))),
        Unsubscribed(),
        StatusReply({"node": "n1", "role": "leader", "peers": {"n2": {"match": 5, "connected": True}}}),
        TopicsReply((TopicStat("orders.eu", 2, 60, 5, 1_001), TopicStat("orders.us", 3, 90, 9, 2_002)), more=True),
        Pong(),
        Error.of(NotLeader("n1 follows n2", hint="127.0.0.1:7421")),
        Transferred("n2"),
        LogInfoReply({"log": "main", "max_bytes": 1 << 28, "first_seq": 5}),
        MembersReply({"members": {"n2": {"peer": "127.0.0.1:7521", "votes": True}}, "departed": ["n1"]}),
        NewestReply(7),
    )
}

# ---------------------------------------------------------------------------------------------------------- strategies
_names = st.text(max_size=60)
_seqs = st.integers(0, SEQ_MAX)
_runs = st.builds(
    lambda topic, payloads, compression: encode_run(
        topic, [OutgoingMessage(p) for p in payloads], compression=compression
    ),
    st.text(string.ascii_lowercase, min_size=1, max_size=8),
    st.lists(st.binary(max_size=40), min_size=1, max_size=4),
    st.sampled_from(sorted(CODECS.values())),
)
_numbers = st.integers(1, U32_MAX)
_plain = st.recursive(
    st.none() | st.booleans() | _seqs | _names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def pushes(draw: st.DrawFn) -> Push:
    """Any push: a first run that may begin at or below ``prev``, gaps that the filter left, nothing at all."""
    prev = draw(st.integers(0, SEQ_MAX - MESSAGES_MAX))
    items: list[Item] = []
    last = prev
    for run in draw(st.lists(_runs, max_size=4)):
        count = int.from_bytes(run[12:16], "little")
        first_seq = last + 1 + draw(st.integers(0, 100))
        if not items and prev >= count:
            first_seq -= draw(st.integers(0, count - 1))
        if first_seq + count - 1 <= last:
            first_seq = last + 1
        items.append(Item(first_seq, draw(_seqs), count, memoryview(run)))
        last = first_seq + count - 1
    return push(prev, last + draw(st.integers(0, 100)), tuple(items))


def _starts() -> st.SearchStrategy[Start]:
    return (
        st.builds(Start, st.just(Origin.SEQ), st.integers(1, SEQ_MAX))
        | st.builds(Start, st.just(Origin.TIME), _seqs)
        | st.builds(Start, st.sampled_from([Origin.FIRST, Origin.NEW]))
    )


_versions = st.lists(st.integers(1, 0xFFFF), min_size=2, max_size=2).map(sorted)
_credits = st.integers(0, CREDIT_MAX)
_limits = st.sampled_from(["age_s", "bytes", "messages", "another"])
_stats = st.builds(TopicStat, _names, _seqs, _seqs, _seqs, _seqs)

STRATEGIES: dict[type[Message], st.SearchStrategy[Message]] = {
    Hello: st.builds(lambda versions, client: Hello(*versions, client), _versions, _names),
    Publish: st.builds(Publish, st.binary(max_size=200), _names),
    Subscribe: st.builds(
        Subscribe,
        st.lists(_names, max_size=FILTERS_MAX).map(tuple),
        _starts(),
        _credits,
        _credits,
        _names,
    ),
    Credit: st.builds(Credit, _credits, _credits),
    Unsubscribe: st.just(Unsubscribe()),
    Status: st.builds(Status, _names),
    Topics: st.builds(Topics, _names, _names),
    Ping: st.just(Ping()),
    Transfer: st.builds(Transfer, _names, st.none() | _names),
    LogInfo: st.builds(LogInfo, _names),
    TopicPurge: st.builds(TopicPurge, _names, st.integers(1, SEQ_MAX), _names),
    LogSet: st.builds(LogSet, st.dictionaries(_limits, st.none() | _seqs), _names),
    MemberAdd: st.builds(MemberAdd, _names, _names, _names),
    MemberRemove: st.builds(MemberRemove, _names, _names),
    Newest: st.builds(Newest, _names),
    NewestReply: st.builds(NewestReply, _seqs),
    Welcome: st.builds(
        Welcome,
        st.integers(1, 0xFFFF),
        _names,
        _names,
        st.none() | _names,
        st.builds(Limits, _numbers, _numbers, _numbers, _numbers, _numbers),
    ),
    Acked: st.builds(Acked, _seqs, st.integers(0, MESSAGES_MAX), _seqs, st.booleans()),
    Subscribed: st.builds(Subscribed, st.integers(1, SEQ_MAX), _seqs),
    Push: pushes(),
    Unsubscribed: st.just(Unsubscribed()),
    StatusReply: st.builds(StatusReply, st.dictionaries(_names, _plain, max_size=5)),
    TopicsReply: st.builds(TopicsReply, st.lists(_stats, max_size=5).map(tuple), st.booleans()),
    Pong: st.just(Pong()),
    Error: st.builds(Error, _names, st.sampled_from(Outcome), st.text(max_size=300), st.none() | _names),
    Transferred: st.builds(Transferred, _names),
    LogInfoReply: st.builds(LogInfoReply, st.dictionaries(_names, _plain, max_size=5)),
    MembersReply: st.builds(MembersReply, st.dictionaries(_names, _plain, max_size=5)),
}


def requests(message: Message | type[Message]) -> st.SearchStrategy[int]:
    """The request ids a message may have."""
    zero, others = st.just(0), st.integers(1, U32_MAX)
    return {Scope.CONNECTION: zero, Scope.REQUEST: others, Scope.EITHER: zero | others}[message.SCOPE]


def request_of(message: Message | type[Message]) -> int:
    """A request id that ``message`` may have."""
    return 0 if message.SCOPE is Scope.CONNECTION else 1


def any_message(kinds: tuple[type[Message], ...] = CLIENT_MESSAGES + NODE_MESSAGES) -> st.SearchStrategy[Message]:
    return st.one_of([STRATEGIES[kind] for kind in kinds])


def check_contents(message: Message) -> None:
    """Does with a message what its receiver does next: `LanyingError` if that is where its damage shows."""
    if isinstance(message, Publish):
        parse_batch(message.batch)
    elif isinstance(message, Push):
        for item in message.items:
            decode_run(item.run, first_seq=item.first_seq, timestamp=item.timestamp)
    elif isinstance(message, Error):
        message.exception()
