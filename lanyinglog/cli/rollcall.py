"""Asking each node by itself how it is: what ``status`` and ``cluster status`` show, and how a start knows it is done.

A client (`lanyinglog.client`) talks to *the cluster* and moves on when a node does not answer; here the answer of a
particular node, or its silence, is the point. So this is one hello and one question on a plain socket, in a thread
per node, all of them at once and within one deadline.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from lanyinglog.cli import encryption, output
from lanyinglog.cli.quorum import UNREACHABLE, has_quorum, remarks
from lanyinglog.cli.reach import advice_for
from lanyinglog.config import Address, parse_address
from lanyinglog.errors import LanyingError, Unavailable
from lanyinglog.tls import WITHOUT_A_WORD
from lanyinglog.wire.connection import Connection, Role
from lanyinglog.wire.messages import Error, Hello, Message, Status, StatusReply, Welcome

COLUMNS = ("node", "pid", "client", "peer", "role", "term", "commit", "applied", "last_seq", "lag")
DROPPABLE = ("peer", "pid", "applied", "commit", "client")
"""Columns that a narrow terminal does without, the first of them first."""
ANSWER_S = 2.0
"""How long a node may take: one that needs longer can't lead either (two election timeouts)."""
CERTIFICATE_ENDS = "certificate_ends"
"""What `ask` adds to a node's status: see `_certificate_ends`."""
_READ_BYTES = 1 << 16
Reply = TypeVar("Reply", bound=Message)


# ---------------------------------------------------------------------------------------------------------- one node
def ask(address: Address, *, timeout_s: float = ANSWER_S) -> dict[str, Any]:
    """The status of the node at ``address``, and `CERTIFICATE_ENDS`. `Unavailable` if it is silent, otherwise the error
    that it answers."""
    deadline = time.monotonic() + timeout_s
    connection = Connection(Role.CLIENT)
    try:
        with socket.create_connection(address, timeout=timeout_s) as plain, _secured(plain, address) as stream:
            stream.sendall(connection.send(Hello(client="lanyinglog status"), 0))
            _expect(Welcome, stream, connection, deadline)
            stream.sendall(connection.send(Status(), 1))
            reply = _expect(StatusReply, stream, connection, deadline)
            return {**reply.status, CERTIFICATE_ENDS: _certificate_ends(stream)}
    except (OSError, ValueError) as error:  # the latter for what is no name of a host
        raise Unavailable(f"{address}: {getattr(error, 'strerror', None) or error}") from error


def _certificate_ends(stream: socket.socket) -> float | None:
    """When the certificate that the node shows is good no more, in seconds of the epoch; None without TLS."""
    shown = stream.getpeercert() if isinstance(stream, ssl.SSLSocket) else None
    return ssl.cert_time_to_seconds(str(shown["notAfter"])) if shown else None


def _secured(plain: socket.socket, address: Address) -> socket.socket:
    tls = encryption.context()
    return plain if tls is None else tls.wrap_socket(plain, server_hostname=address.host)


def _expect(kind: type[Reply], stream: socket.socket, connection: Connection, deadline: float) -> Reply:
    while True:
        stream.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = stream.recv(_READ_BYTES)
        if not chunk:
            at_once = f" {WITHOUT_A_WORD}" if kind is Welcome else ""
            raise Unavailable(f"the node closed the connection{at_once}")
        for received in connection.receive(chunk):
            if isinstance(received.message, Error):
                raise received.message.exception()
            if isinstance(received.message, kind):
                return received.message


def _ask_or_error(address: Address | None, timeout_s: float) -> dict[str, Any] | LanyingError:
    if address is None:
        return Unavailable("nobody told its address")
    try:
        return ask(address, timeout_s=timeout_s)
    except LanyingError as error:
        return error  # its row says unreachable


# ------------------------------------------------------------------------------------------------------- all of them
def roll(nodes: Mapping[str, Address | None], *, timeout_s: float = ANSWER_S) -> list[dict[str, Any]]:
    """One row for each of ``nodes``, in their order: `COLUMNS`, ``storage_full``, ``first_seq``, ``file_bytes``,
    ``catch_up``, ``unconnected``, the peers it has no link to, and ``members``, which `told` leaves out. One that does
    not answer, or another node that answers in its place, is ``unreachable``, and all that only it could tell is
    None."""
    replies = _ask_all(list(nodes.values()), timeout_s)
    rows = []
    for (node, address), reply in zip(nodes.items(), replies, strict=True):
        if isinstance(reply, LanyingError) or reply.get("node") != node:
            reply = {"node": node, "client": None if address is None else str(address), "role": UNREACHABLE}
        row = {column: reply.get(column) for column in COLUMNS}
        row |= {key: reply.get(key) for key in ("storage_full", "first_seq", "file_bytes", "catch_up", "members")}
        row["unconnected"] = _unconnected(reply.get("peers"))
        rows.append(row)
    return with_lag(rows)


def _unconnected(peers: Mapping[str, Mapping[str, Any]] | None) -> list[str] | None:
    return None if peers is None else sorted(name for name, peer in peers.items() if not peer.get("connected"))


def _ask_all(addresses: Sequence[Address | None], timeout_s: float) -> list[dict[str, Any] | LanyingError]:
    encryption.context()  # what is wrong with it is said once, here, and not of each node
    with ThreadPoolExecutor(max_workers=max(1, len(addresses))) as pool:
        return list(pool.map(lambda address: _ask_or_error(address, timeout_s), addresses))


def roll_from(servers: Sequence[Address], *, timeout_s: float = ANSWER_S) -> list[dict[str, Any]]:
    """One row for each member of the cluster that ``servers`` belong to, by name. `Unavailable` if none answers."""
    return roll(nodes_of(servers, timeout_s=timeout_s), timeout_s=timeout_s)


def nodes_of(servers: Sequence[Address], *, timeout_s: float = ANSWER_S) -> dict[str, Address | None]:
    """The members of the cluster that ``servers`` belong to, by name, and where each can be asked: under the address
    that the caller named, if it answered there, else under the one that the others tell. `Unavailable` if none
    answers."""
    nodes: dict[str, Address | None] = {}
    replies = _ask_all(servers, timeout_s)
    for address, reply in zip(servers, replies, strict=True):
        if not isinstance(reply, LanyingError):
            nodes[str(reply["node"])] = address
            for name, peer in reply.get("peers", {}).items():
                if nodes.get(name) is None:
                    nodes[name] = parse_address("client", peer["client"]) if peer.get("client") else None
    if not nodes:
        whys = dict.fromkeys(reply.message for reply in replies if isinstance(reply, LanyingError))
        names = ", ".join(map(str, servers))
        silent = Unavailable(f"no node answers at {names} within {timeout_s:g} s: {'; '.join(whys)}")
        silent.advice = advice_for(servers)
        raise silent
    return dict(sorted(nodes.items()))


def with_lag(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` with ``lag``: the messages between a node's newest and the newest that any node told of."""
    newest = max((row["last_seq"] for row in rows if row["last_seq"] is not None), default=0)
    for row in rows:
        row["lag"] = None if row["last_seq"] is None else newest - row["last_seq"]
    return rows


def told(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """``rows`` as they are printed: what `quorum` alone needs is not in them."""
    return [{key: value for key, value in row.items() if key != "members"} for row in rows]


def show(rows: list[dict[str, Any]], *, form: str) -> int:
    """Prints ``rows``, and what is wrong with the cluster in words on standard error; the exit code."""
    output.print_rows(told(rows), COLUMNS, form=form, empty="", droppable=DROPPABLE)
    for remark in remarks(rows):
        output.note(f"lanyinglog: {remark}")
    return output.OK if has_quorum(rows) else output.NO_QUORUM
