"""A flipped byte in a stored entry is named by ``verify``, never served, and mended by the other nodes' copies."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lanyinglog
from acceptance import pinned
from acceptance.cluster import Cluster, Row, command, require, running
from acceptance.command import Scale
from lanyinglog.errors import LanyingError

TOPIC = "check.rot"
COUNT = 10_000
PROBLEM = 4
"""Exit code of ``verify`` when it found damage."""
SCRUBBED_S_MAX = 60.0
QUIET_S = 6.0
"""Longer than a pass over so small a log, and the pause behind it."""


def run(scale: Scale) -> dict[str, Any]:
    """Bytes of payloads on a follower's disk are flipped: one at a time, found by a reader; many at once, found by the
    scrub; and the same one on all nodes."""
    source = random.Random(5)
    with running() as cluster:
        with lanyinglog.sync.connect(cluster.servers) as client:
            for first in range(0, COUNT, 5):
                client.publish_many(TOPIC, [_payload(number) for number in range(first, first + 5)])
        cluster.wait_equal(timeout_s=10)
        follower = cluster.followers()[0]
        cluster.stop()
        _require_verdict(cluster, follower["node"], 0)
        return {
            **_one_at_a_time(cluster, follower, source, flips=scale.pick(20, 1)),
            **_many_at_once(cluster, follower, source, flips=scale.pick(1_000, 40)),
            "on all nodes": _on_all_nodes(cluster, source),
        }


def _one_at_a_time(cluster: Cluster, follower: Row, source: random.Random, *, flips: int) -> dict[str, Any]:
    """A node is asked for what it can't read: it gets that from another node and goes on."""
    began = time.monotonic()
    waits = []
    for _ in range(flips):
        number = source.randrange(COUNT)
        _flip(cluster.data_file(follower["node"]), [number], source)
        words = _require_verdict(cluster, follower["node"], PROBLEM)
        require("entry" in words, f"verify names no entry: {words}")
        cluster.start()
        began = time.monotonic()
        _read_from(follower["client"])
        waits.append(time.monotonic() - began)
        cluster.stop()
        _require_verdict(cluster, follower["node"], 0)
    return {"flips read": flips, "longest read s": round(max(waits), 2)}


def _many_at_once(cluster: Cluster, follower: Row, source: random.Random, *, flips: int) -> dict[str, Any]:
    """Nobody reads: the node finds them by itself."""
    log = cluster.log_file(follower["node"])
    before = log.read_text().count("entry_mended")
    _flip(cluster.data_file(follower["node"]), source.sample(range(COUNT), flips), source)
    cluster.start()
    began = time.monotonic()
    mended = quiet_since = 0.0
    while time.monotonic() - began < SCRUBBED_S_MAX:
        now = log.read_text().count("entry_mended") - before
        if now != mended:
            mended, quiet_since = now, time.monotonic()
        if mended and time.monotonic() - quiet_since > QUIET_S:
            break
        time.sleep(0.1)
    _read_from(follower["client"])
    cluster.wait_equal(timeout_s=10)
    cluster.stop()
    _require_verdict(cluster, follower["node"], 0)
    return {"flips scrubbed": flips, "entries mended": int(mended), "in s": round(quiet_since - began, 1)}


def _on_all_nodes(cluster: Cluster, source: random.Random) -> str:
    """No copy is left: that is said, and nothing is made up."""
    number = source.randrange(COUNT // 2, COUNT)
    nodes = [f"n{place}" for place in (1, 2, 3)]
    for node in nodes:
        _flip(cluster.data_file(node), [number], source)
    rows = cluster.start()
    for row in rows:
        came = 0
        try:
            for message in pinned.read(row["client"], TOPIC, through=COUNT):
                require(message.payload == _payload(came), f"message {came} came wrong: {message.payload!r}")
                came += 1
        except LanyingError as error:
            require(error.code == "corrupt_entry", f"{row['node']} ended the reading with {error.code}")
        require(came <= number, f"{row['node']} made message {number} up")
    deadline = time.monotonic() + SCRUBBED_S_MAX
    while not all("entry_lost" in cluster.log_file(node).read_text() for node in nodes):
        require(time.monotonic() < deadline, "a node does not say that an entry is lost")
        time.sleep(0.1)
    return "told, and never served"


def _payload(number: int) -> bytes:
    return b"rot-%06d " % number + random.Random(number).randbytes(90)


def _flip(file: Path, numbers: Sequence[int], source: random.Random) -> None:
    content = file.read_bytes()
    with file.open("r+b") as opened:
        for number in numbers:
            payload = _payload(number)
            at = content.index(payload) + source.randrange(len(payload))
            opened.seek(at)
            opened.write(bytes([content[at] ^ 1 << source.randrange(8)]))


def _require_verdict(cluster: Cluster, node: str, code: int) -> str:
    directory = str(cluster.directory / node / "data")
    result = subprocess.run(command("verify", directory), capture_output=True, text=True, timeout=60, check=False)
    words = result.stdout + result.stderr
    require(result.returncode == code, f"verify ended with {result.returncode}, expected {code}: {words}")
    return words


def _read_from(server: str) -> None:
    """Read all from one node alone, which may have to mend some of it first."""
    came = 0
    for message in pinned.read(server, TOPIC, through=COUNT):
        require(message.payload == _payload(came), f"{server} served message {came} wrong: {message.payload!r}")
        came += 1
    require(came == COUNT, f"{server} served {came} of {COUNT} messages")
