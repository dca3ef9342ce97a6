"""A client that knows nothing but docs/protocol.md: sockets, msgpack and a CRC32C, no module of the product.

If the document lacked something, this could not be written. Names and numbers are those of its tables.
"""

import socket
import struct
from typing import Any

import google_crc32c
import msgpack

HELLO, PUBLISH, SUBSCRIBE, CREDIT = 1, 2, 3, 4
WELCOME, ACKED, SUBSCRIBED, PUSH, ERROR = 65, 66, 67, 68, 73
Answer = tuple[int, int, dict[str, Any], bytes]


def crc32c(*parts: bytes) -> int:
    return google_crc32c.value(b"".join(parts))


class PlainClient:
    """One connection."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=10)
        self.welcome = self.ask(HELLO, 0, {"versions": [1, 1], "client": "plain"})[2]

    def close(self) -> None:
        self._socket.close()

    def send(self, kind: int, request: int, header: dict[str, Any], body: bytes = b"") -> None:
        packed = msgpack.packb(header)
        head = struct.pack("<BBHI", kind, 0, len(packed), request)
        length = struct.pack("<I", len(head) + 4 + len(packed) + len(body))
        self._socket.sendall(length + head + struct.pack("<I", crc32c(length, head, packed)) + packed + body)

    def receive(self) -> Answer:
        (length,) = struct.unpack("<I", self._take(4))
        frame = self._take(length)
        kind, flags, header_bytes, request, crc = struct.unpack_from("<BBHII", frame)
        packed = frame[12 : 12 + header_bytes]
        assert flags == 0 and crc == crc32c(struct.pack("<I", length), frame[:8], packed)
        return kind, request, msgpack.unpackb(packed), frame[12 + header_bytes :]

    def ask(self, kind: int, request: int, header: dict[str, Any], body: bytes = b"") -> Answer:
        self.send(kind, request, header, body)
        return self.receive()

    def _take(self, count: int) -> bytes:
        taken = b""
        while len(taken) < count:
            more = self._socket.recv(count - len(taken))
            assert more, "the node closed the connection"
            taken += more
        return taken


def encode_run(topic: str, payloads: list[bytes]) -> bytes:
    body = b"\0" + b"".join(struct.pack("<I", len(one)) for one in payloads) + b"".join(payloads)
    rest = struct.pack("<BBHII", 1, 0, len(topic), len(payloads), len(body)) + topic.encode() + body
    return struct.pack("<II", len(rest) + 4, crc32c(rest)) + rest


def encode_batch(producer: bytes, number: int, runs: list[bytes]) -> bytes:
    messages = sum(struct.unpack_from("<I", run, 12)[0] for run in runs)
    head = struct.pack("<BBH16sQI", 1, 0, len(runs), producer, number, messages)
    return head + struct.pack("<I", crc32c(head, *(run[4:8] for run in runs))) + b"".join(runs)


def decode_push(header: dict[str, Any], body: bytes) -> list[tuple[int, int, str, bytes]]:
    """The messages of a push: seq, timestamp, topic, payload."""
    messages, heads, at = [], [], 0
    while at < len(body):
        heads.append(body[at : at + 20])
        seq, timestamp, length = struct.unpack("<QQI", heads[-1])
        run = body[at + 20 : at + 20 + length]
        at += 20 + length
        assert struct.unpack_from("<I", run, 4)[0] == crc32c(run[8:])
        _, codec, topic_bytes, count, _ = struct.unpack_from("<BBHII", run, 8)
        topic, columns = run[20 : 20 + topic_bytes].decode(), run[20 + topic_bytes :]
        assert (codec, columns[0]) == (0, 0), "neither compressed nor with keys or headers, as this client made it"
        start = 1 + 4 * count
        for place, size in enumerate(struct.unpack_from(f"<{count}I", columns, 1)):
            messages.append((seq + place, timestamp + place, topic, columns[start : start + size]))
            start += size
    assert header["crc"] == crc32c(*heads) and header["messages"] == len(messages)
    return [one for one in messages if one[0] > header["prev"]]
