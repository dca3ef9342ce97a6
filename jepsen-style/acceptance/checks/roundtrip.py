"""Lines come back byte for byte, in order, with consecutive seqs and rising timestamps, from each node, by each way."""

from __future__ import annotations

import json
from typing import Any

from acceptance.cluster import lanyinglog, require, running
from acceptance.command import Scale
from acceptance.lines import as_file, first_difference, lines_of
from acceptance.readers import READERS, require_order

TOPIC = "check.roundtrip"


def run(scale: Scale) -> dict[str, Any]:
    """6,000 lines published by the command line, read twelve times."""
    lines = lines_of(scale.lines_file, scale.pick(6_000, 2_000), seed=1)
    with running() as cluster:
        source = cluster.directory / "lines"
        source.write_bytes(as_file(lines))
        printed = lanyinglog(
            "publish", TOPIC, "--file", str(source), "--server", cluster.server_list, "--format", "json"
        ).stdout
        ending = json.loads(printed.splitlines()[-1])
        require(ending["acknowledged"] == len(lines), f"publish ended with {ending}, {len(lines)} lines were given")
        cluster.wait_equal(timeout_s=10)
        for server in cluster.servers:
            for way, read in READERS.items():
                where = f"{way}, {server}"
                found = read(server, TOPIC)
                difference = first_difference(lines, [message.payload for message in found])
                require(difference is None, f"{where}: {difference}")
                require_order(found, where=where)
                seqs = [message.seq for message in found]
                require(seqs == list(range(seqs[0], seqs[0] + len(lines))), f"{where}: the seqs have gaps")
        return {"lines": len(lines), "nodes": cluster.nodes, "ways": len(READERS), "first seq": ending["first_seq"]}
