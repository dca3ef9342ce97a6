"""A flipped byte in a stored entry is named by ``verify`` and is never served."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import Any

import lanyinglog
from acceptance import pinned
from acceptance.cluster import Cluster, command, require, running
from acceptance.command import Scale
from lanyinglog.errors import LanyingError

TOPIC = "check.rot"
PROBLEM = 4
"""Exit code of ``verify`` when it found damage."""


def run(scale: Scale) -> dict[str, Any]:
    """Bytes of payloads on a follower's disk are flipped, one at a time; it is verified, started and read from."""
    count = 2_000
    flips = scale.pick(20, 3)
    source = random.Random(5)
    outcomes: dict[str, int] = {}
    with running() as cluster:
        with lanyinglog.sync.connect(cluster.servers) as client:
            for first in range(0, count, 20):
                client.publish_many(TOPIC, [_payload(number) for number in range(first, first + 20)])
        cluster.wait_equal(timeout_s=10)
        follower = cluster.followers()[0]
        cluster.stop()
        file = cluster.data_file(follower["node"])
        _require_verdict(cluster, follower["node"], 0)
        for _ in range(flips):
            number = source.randrange(count)
            at = file.read_bytes().index(_payload(number)) + source.randrange(len(_payload(number)))
            _flip(file, at)
            words = _require_verdict(cluster, follower["node"], PROBLEM)
            require("entry" in words, f"verify names no entry: {words}")
            cluster.start()
            outcome = _read_from(follower["client"], number, count)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            _read_all(cluster.servers, count)
            cluster.stop()
            _flip(file, at)
        _require_verdict(cluster, follower["node"], 0)
    return {"flips": flips, **outcomes}


def _payload(number: int) -> bytes:
    return b"rot-%06d " % number + random.Random(number).randbytes(90)


def _flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 0x10]))


def _require_verdict(cluster: Cluster, node: str, code: int) -> str:
    directory = str(cluster.directory / node / "data")
    result = subprocess.run(command("verify", directory), capture_output=True, text=True, timeout=60, check=False)
    words = result.stdout + result.stderr
    require(result.returncode == code, f"verify ended with {result.returncode}, expected {code}: {words}")
    return words


def _read_from(server: str, damaged: int, count: int) -> str:
    """Read all from the damaged node alone: what comes is right, and the damaged message does not come."""
    came = 0
    try:
        for message in pinned.read(server, TOPIC, through=count):
            require(message.payload == _payload(came), f"{server} served message {came} wrong: {message.payload!r}")
            require(came != damaged, f"{server} served the damaged message {damaged} as if nothing were wrong")
            came += 1
    except LanyingError as error:
        return f"declined with {error.code}"
    except OSError as error:
        return f"ended the connection: {error}"
    return f"ended the connection after {came} messages"


def _read_all(servers: list[str], count: int) -> None:
    """A client that is declined, or finds a node that stepped aside, goes to another one by itself."""
    with (
        lanyinglog.sync.connect(servers) as client,
        client.subscribe(TOPIC, start="first", until="last") as subscription,
    ):
        found = [message.payload for message in subscription]
    require(found == [_payload(number) for number in range(count)], "a client of the cluster does not get all")
