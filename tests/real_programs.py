"""The program as a user runs it, and a cluster of real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Result:
    """What a run of the program gave."""

    code: int
    out: bytes
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def run(*arguments: str, stdin: bytes = b"", environment: dict[str, str] | None = None) -> Result:
    """``lanyinglog arguments``, without a terminal."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LANYINGLOG_")}
    done = subprocess.run(
        [sys.executable, "-m", "lanyinglog", *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
        env={**kept, **(environment or {})},
    )
    return Result(done.returncode, done.stdout, done.stderr.decode())


@dataclass(frozen=True)
class Cluster:
    directory: Path
    port: int

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> Result:
        return run("cluster", "start", "--dir", str(self.directory), "--port", str(self.port))

    def stop(self) -> Result:
        return run("cluster", "stop", "--dir", str(self.directory))

    def status(self) -> Result:
        return run("cluster", "status", "--dir", str(self.directory))
