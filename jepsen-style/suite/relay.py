"""The relay process: TCP connections passed on, under conditions that can change at any moment.

Started by `links.Links` with the plan as its argument; commands come as JSON lines on standard input, each answered
with a line. It ends when its standard input does, so it never outlives the suite.

On a framed link (between nodes) whole frames are what is lost, doubled or delayed, cut by their length field; what is
not yet a whole frame waits. So Raft meets a network that loses and repeats messages although it runs over TCP. The
handshake (the first frames of a connection) is left alone: a link that never comes up tests nothing.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import sys
from collections import deque
from typing import Any

import trio

CHUNK_BYTES = 64 << 10
HELD_BYTES_MAX = 4 << 20
"""What waits inside the relay for each direction of a connection; beyond it, TCP holds the sender back."""
DIAL_S_MAX = 2.0
_LENGTH = struct.Struct("<I")
_LENGTH_MAX = 64 << 20
_HANDSHAKE_FRAMES = 2


class RelayedLink:
    """One link: its condition and its open connections."""

    def __init__(self, plan: dict[str, Any], source: random.Random) -> None:
        self.name: str = plan["name"]
        self.target: tuple[str, int] = tuple(plan["target"])
        self.listen: tuple[str, int] = tuple(plan["listen"])
        self.framed: bool = plan["framed"]
        self.source = source
        self.condition: dict[str, Any] = {}
        self.changed = trio.Event()
        self.streams: set[tuple[trio.SocketStream, trio.SocketStream | None, trio.CancelScope]] = set()
        self.flows: set[Flow] = set()

    def get(self, key: str) -> float:
        return float(self.condition.get(key, 0.0))

    def set(self, condition: dict[str, Any]) -> None:
        self.condition = condition
        for flow in self.flows:
            flow.reschedule()
        self.changed.set()
        self.changed = trio.Event()

    async def wait_open(self) -> None:
        """Returns when the link is not cut."""
        while self.condition.get("cut"):
            await self.changed.wait()

    def reset(self) -> None:
        for near, far, scope in list(self.streams):
            for stream in (near, far):
                if stream is not None:
                    # Closing with linger 0 sends RST instead of FIN.
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            scope.cancel()

    # ------------------------------------------------------------------------------------------------ connections
    async def serve(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            entry: tuple[trio.SocketStream, trio.SocketStream | None, trio.CancelScope] = (near, None, scope)
            self.streams.add(entry)
            try:
                await self.wait_open()
                with trio.fail_after(DIAL_S_MAX):
                    far = await trio.open_tcp_stream(*self.target)
                self.streams.discard(entry)
                entry = (near, far, scope)
                self.streams.add(entry)
                await self._join(near, far)
            except (OSError, trio.TooSlowError):
                pass  # nobody there: the dialler sees its connection close
            finally:
                self.streams.discard(entry)
                await trio.aclose_forcefully(near)
                if entry[1] is not None:
                    await trio.aclose_forcefully(entry[1])

    async def _join(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        for stream in (near, far):
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, near, far, nursery.cancel_scope, self.framed)
            nursery.start_soon(self._carry, far, near, nursery.cancel_scope, False)

    async def _carry(
        self, near: trio.SocketStream, far: trio.SocketStream, scope: trio.CancelScope, framed: bool
    ) -> None:
        """One direction until it ends; a connection that breaks takes the other direction along."""
        flow = Flow(self, far, framed)
        self.flows.add(flow)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flow.send)
                async for piece in near:
                    await flow.take(piece)
                await flow.end()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            scope.cancel()
        finally:
            self.flows.discard(flow)


class Flow:
    """One direction of one connection: what has come and is to go on, when, and what becomes of it on the way.

    Whoever brings something sends it, if it may go at once; only what has to wait is the other task's (`send`).
    """

    def __init__(self, link: RelayedLink, far: trio.SocketStream, framed: bool) -> None:
        self._link = link
        self._far = far
        self._framed = framed
        self._frames = 0
        self._rest = b""
        self._queue: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._due = 0.0
        self._ended = False
        self._sending = False
        self._news = trio.Event()
        self._room = trio.Event()

    async def take(self, piece: bytes) -> None:
        """Bytes from the one side."""
        for unit in self._units(bytes(piece)):
            self._put(unit)
        self._send_at_once()
        if self._queue:
            self._news.set()
        while self._held > HELD_BYTES_MAX:
            self._room = trio.Event()
            await self._room.wait()

    def _units(self, piece: bytes) -> list[bytes]:
        link = self._link
        if not self._framed:
            return [_flipped(piece, link.source) if link.source.random() < link.get("flip") else piece]
        units = []
        rest = self._rest + piece
        while len(rest) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(rest)
            if length > _LENGTH_MAX:
                self._framed = False  # not frames after all: pass on what comes
                break
            if len(rest) < _LENGTH.size + length:
                break
            unit, rest = rest[: _LENGTH.size + length], rest[_LENGTH.size + length :]
            self._frames += 1
            units += [unit] if self._frames <= _HANDSHAKE_FRAMES else self._fate(unit)
        if not self._framed:
            units.append(rest)
            rest = b""
        self._rest = rest
        return units

    def _fate(self, frame: bytes) -> list[bytes]:
        link, chance = self._link, self._link.source.random
        if chance() < link.get("lose"):
            return []
        if chance() < link.get("flip"):
            frame = _flipped(frame, link.source)
        return [frame, frame] if chance() < link.get("double") else [frame]

    def _put(self, unit: bytes) -> None:
        link, now = self._link, trio.current_time()
        delay = link.get("delay_ms") / 1000 + link.source.random() * link.get("jitter_ms") / 1000
        rate = link.get("bytes_s")
        self._due = max(self._due + (len(unit) / rate if rate else 0.0), now + delay)
        self._queue.append((self._due, unit))
        self._held += len(unit)

    def reschedule(self) -> None:
        """The link is another one now: what waits goes on as if it had come this moment. A fault that is over leaves no
        line of waiting bytes behind that would take its time all the same."""
        waiting = [unit for _, unit in self._queue]
        self._queue.clear()
        self._held -= sum(map(len, waiting))
        self._due = 0.0
        for unit in waiting:
            self._put(unit)

    def _send_at_once(self) -> None:
        """What is due, as far as the socket takes it."""
        if self._sending or self._link.condition.get("cut"):
            return
        while data := self._take_due():
            try:
                sent = os.write(self._far.socket.fileno(), data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise trio.BrokenResourceError from error
            self._held -= sent
            if sent < len(data):
                self._queue.appendleft((0.0, data[sent:]))
                return

    def _take_due(self) -> bytes:
        """The next bytes whose time has come; they still count as held."""
        pieces, size, now = [], 0, trio.current_time()
        while self._queue and self._queue[0][0] <= now and size < CHUNK_BYTES:
            piece = self._queue.popleft()[1]
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces)

    async def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._news.set()

    async def send(self) -> None:
        """What could not go at once goes on to the other side; then its end, too."""
        while True:
            while not self._queue:
                if self._ended:
                    await self._far.send_eof()
                    return
                self._news = trio.Event()
                await self._news.wait()
            await self._link.wait_open()
            if not self._queue:
                continue  # whoever brought something when the link had just opened sent that, too
            due = self._queue[0][0]
            if due > trio.current_time():
                with trio.move_on_at(due):
                    await self._link.changed.wait()
                continue  # it may have been cut meanwhile, or another time may be due
            data = self._take_due()
            self._sending = True
            await self._far.send_all(data)
            self._sending = False
            self._held -= len(data)
            self._room.set()


def _flipped(piece: bytes, source: random.Random) -> bytes:
    changed = bytearray(piece)
    at = source.randrange(len(changed))
    changed[at] ^= 1 << source.randrange(8)
    return bytes(changed)


async def _listeners(link: RelayedLink) -> list[trio.SocketListener]:
    host, port = link.listen
    return await trio.open_tcp_listeners(port, host=host)


async def _obey(links: dict[str, RelayedLink], scope: trio.CancelScope) -> None:
    """Commands from standard input, each answered when it is done."""
    commands = trio.lowlevel.FdStream(0)
    buffer = b""
    async for piece in commands:
        buffer += piece
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            command = json.loads(line)
            for name in command.get("set", ()):
                links[name].set(command["condition"])
            for name in command.get("reset", ()):
                links[name].reset()
            print("done", flush=True)
    scope.cancel()


async def main(plan: dict[str, Any]) -> None:
    """Run the links of ``plan`` until standard input ends."""
    links = {one["name"]: RelayedLink(one, random.Random(f"{plan['seed']} {one['name']}")) for one in plan["links"]}
    async with trio.open_nursery() as nursery:
        for link in links.values():
            listeners = await _listeners(link)
            nursery.start_soon(trio.serve_listeners, link.serve, listeners)
        print("ready", flush=True)
        nursery.start_soon(_obey, links, nursery.cancel_scope)


if __name__ == "__main__":
    trio.run(main, json.loads(sys.argv[1]))
