"""What a figure was measured on. A figure without this means nothing."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.processes import find_program

SYNCS = 100


def facts() -> dict[str, str]:
    """The machine and what runs on it, by name, for people."""
    return {
        "cpu": f"{os.cpu_count()} x {_cpu_name()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "file system": _file_system(tempfile.gettempdir()),
        "fdatasync of 4 KiB": f"{sync_ms():.2f} ms",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(path: str) -> str:
    mounts = [part for part in psutil.disk_partitions(all=True) if path.startswith(part.mountpoint)]
    best = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    return best.fstype if best is not None else "unknown"


def sync_ms() -> float:
    """The median time of an append of 4 KiB and its fdatasync, alone, where clusters keep their files."""
    with tempfile.TemporaryFile(prefix="lanyinglog-bench-", buffering=0) as file:
        took = []
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(b"\0" * 4096)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e3


def program_version(name: str, *arguments: str) -> str:
    """The first line that a program prints about its version; what is wrong with it if it prints none."""
    path = find_program(name)
    if path is None:
        return "not installed"
    result = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=30, check=False)
    lines = (result.stdout or result.stderr).strip().splitlines()
    return lines[0] if lines else f"exit code {result.returncode}"
