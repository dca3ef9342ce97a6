"""One real node, in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lanyinglog.cli.processes import free_port


@pytest.fixture
def node_port(tmp_path: Path) -> Iterator[int]:
    """The client port of a node that is a cluster of its own, and leads it."""
    port = free_port(nodes=1)
    arguments = ["--id", "n1", "--data", str(tmp_path), "--client-listen", f"127.0.0.1:{port}"]
    arguments += ["--peer-listen", f"127.0.0.1:{port + 100}"]
    command = [sys.executable, "-m", "lanyinglog", "node", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if '"ready"' in line:
                break
        from lanyinglog import sync

        with sync.connect(f"127.0.0.1:{port}", timeout=20) as client:
            while not any(row["role"] == "leader" for row in client.status()):
                pass
        yield port
        process.terminate()
        process.stderr.read()
