"""docs/protocol.md is true: its tables are the code's, its example is what is really sent, and it suffices."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs.plain_client import PlainClient

from docs import plain_client as plain
from lanyinglog import errors, record
from lanyinglog.service import Item
from lanyinglog.wire import messages as wire
from lanyinglog.wire.frames import FrameDecoder

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def rows_below(heading: str) -> list[list[str]]:
    """The cells of the first table below ``heading``."""
    lines = PAGE.split(f"\n{heading}\n", 1)[1].splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def sample(kind: type[wire.Message]) -> wire.Message:
    """Any message of ``kind``."""
    made = {
        wire.Hello: wire.Hello(),
        wire.Publish: wire.Publish(b""),
        wire.Subscribe: wire.Subscribe((">",), wire.Start(wire.Origin.FIRST), 1, 1),
        wire.Credit: wire.Credit(1, 1),
        wire.Status: wire.Status(),
        wire.Topics: wire.Topics(),
        wire.MemberAdd: wire.MemberAdd("n4", "h:1"),
        wire.MemberRemove: wire.MemberRemove("n4"),
        wire.MembersReply: wire.MembersReply({}),
        wire.Transfer: wire.Transfer(),
        wire.Welcome: wire.Welcome(1, "n1", "c", None, wire.Limits()),
        wire.Acked: wire.Acked(1, 1, 1),
        wire.Subscribed: wire.Subscribed(1, 0),
        wire.Push: wire.Push(0, 0, 0, (), 0, 1),
        wire.StatusReply: wire.StatusReply({}),
        wire.TopicsReply: wire.TopicsReply(()),
        wire.Error: wire.Error("busy", errors.Outcome.DEFINITE, ""),
        wire.Transferred: wire.Transferred("n1"),
        wire.LogSet: wire.LogSet({"bytes": None}),
        wire.TopicPurge: wire.TopicPurge(">", 1),
        wire.LogInfoReply: wire.LogInfoReply({}),
        wire.NewestReply: wire.NewestReply(0),
    }
    return made[kind] if kind in made else kind()


def test_the_table_of_messages_is_the_codes():
    documented = {row[1].strip("`"): row for row in rows_below("## Messages")}
    for kind in (*wire.CLIENT_MESSAGES, *wire.NODE_MESSAGES):
        number, _, sender, header, body = documented.pop(kind.NAME)
        assert int(number) == kind.KIND
        assert sender == ("client" if kind in wire.CLIENT_MESSAGES else "node")
        assert re.findall(r"`(\w+)`", header) == list(sample(kind).header())
        assert bool(body) == kind.HAS_BODY
    assert not documented, "these are documented and do not exist"


def test_the_table_of_errors_is_the_codes():
    documented = {row[0].strip("`"): row[1] for row in rows_below("## Errors")}
    assert documented == {code: kind.outcome.value for code, kind in errors.BY_CODE.items()}


def test_limits_named_in_the_text_are_the_codes():
    words = " ".join(PAGE.split())
    assert f"at most {wire.FRAME_BYTES_MAX:,} bytes" in words
    assert f"the first frame of a client at most {wire.HELLO_BYTES_MAX:,}" in words
    assert f"number of runs, 1 to {record.RUNS_MAX:,}" in words
    assert f"the number of messages, 1 to {record.MESSAGES_MAX:,}" in words
    assert f"`filters` (1 to {wire.FILTERS_MAX})" in words
    assert record.BATCH_BYTES_MAX == 1 << 20 and "At most 1 MiB in all" in words
    assert record.DECODED_BYTES_MAX == 64 << 20 and "at most 64 MiB" in words


# ------------------------------------------------------------------------------------------------------ the example
def example(title: str) -> bytes:
    """The bytes of one block; each line says where it is."""
    block = re.search(rf"```hex {title}\n(.*?)```", PAGE, re.S)
    assert block is not None
    data = b""
    for line in block[1].splitlines():
        assert int(line[:4]) == len(data), f"the line {line!r} is at {len(data)}"
        data += bytes.fromhex(line[6:53])
    return data


RUN = record.encode_run("orders.eu", [record.OutgoingMessage(b"17 lots", key=b"42"), record.OutgoingMessage(b"hi")])
TIMESTAMP = 1_795_471_240_012_254_802
EXAMPLE: dict[str, tuple[int, wire.Message]] = {
    "hello": (0, wire.Hello(client="example")),
    "welcome": (0, wire.Welcome(1, "n1", "orders", "127.0.0.1:7420", wire.Limits())),
    "publish": (1, wire.Publish(record.encode_batch(bytes(range(16)), 1, [RUN]))),
    "acked": (1, wire.Acked(1, 2, TIMESTAMP)),
    "subscribe": (2, wire.Subscribe(("orders.>",), wire.Start(wire.Origin.FIRST), 1000, 1 << 20)),
    "subscribed": (2, wire.Subscribed(1, 2)),
    "push": (2, wire.Push(0, 2, 2, (Item(1, TIMESTAMP, 2, memoryview(RUN)),), 20 + len(RUN))),
    "credit": (2, wire.Credit(2, 20 + len(RUN))),
}


@pytest.mark.parametrize("title", EXAMPLE)
def test_the_example_is_what_is_sent(title: str):
    request, message = EXAMPLE[title]
    data = example(title)
    assert wire.to_frame(message, request) == data
    decoder = FrameDecoder(frame_bytes_max=wire.FRAME_BYTES_MAX)
    decoder.feed(data)
    frame = decoder.next_frame()
    assert frame is not None and frame.request == request
    assert wire.from_frame(frame) == message


def test_the_example_has_no_other_blocks():
    assert re.findall(r"```hex (\w+)", PAGE) == list(EXAMPLE)


# ---------------------------------------------------------------------------------------------- the page suffices
@pytest.fixture
def client(node_port: int) -> Iterator[PlainClient]:
    client = PlainClient("127.0.0.1", node_port)
    yield client
    client.close()


def test_a_client_written_from_the_page_publishes_and_reads(client: PlainClient):
    producer = bytes(range(16))
    runs = [plain.encode_run("orders.eu", [b"one", b"two"]), plain.encode_run("orders.us", [b"three"])]
    batch = plain.encode_batch(producer, 1, runs)
    kind, request, acked, _ = client.ask(plain.PUBLISH, 7, {"log": "main"}, batch)
    assert (kind, request, acked["first_seq"], acked["count"], acked["duplicate"]) == (plain.ACKED, 7, 1, 3, False)
    again = client.ask(plain.PUBLISH, 8, {"log": "main"}, batch)[2]
    assert again == {**acked, "duplicate": True}
    skipping = client.ask(plain.PUBLISH, 9, {"log": "main"}, plain.encode_batch(producer, 3, runs))
    assert skipping[0] == plain.ERROR and skipping[2]["code"] == "batch_out_of_order"

    asked = {"log": "main", "filters": ["orders.*"], "start": {"seq": 2}, "credit_messages": 9, "credit_bytes": 9_999}
    kind, request, subscribed, _ = client.ask(plain.SUBSCRIBE, 10, asked)
    assert (kind, request, subscribed) == (plain.SUBSCRIBED, 10, {"next_seq": 2, "last_seq": 3})
    kind, request, header, body = client.receive()
    assert (kind, request, header["prev"], header["through"]) == (plain.PUSH, 10, 1, 3)
    timestamp = acked["timestamp"]
    assert plain.decode_push(header, body) == [
        (2, timestamp + 1, "orders.eu", b"two"),
        (3, timestamp + 2, "orders.us", b"three"),
    ]


def test_a_damaged_header_costs_the_connection_and_says_so(client: PlainClient):
    client._socket.sendall(bytes.fromhex("0c000000 08 00 0000 01000000 00000000"))
    kind, request, header, _ = client.receive()
    assert (kind, request, header["code"], header["outcome"]) == (plain.ERROR, 0, "protocol", "definite")
