"""The load generators in C: compiled when they are first used, into a directory that goes when this process goes.

They are in C so that what is measured is the server: one core of the machine under test belongs to the load generator,
and a generator in Python would be the limit for the faster peers.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.processes import Trouble

SOURCES = Path(__file__).parent / "systems"


@functools.cache
def _directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="lanyinglog-bench-c-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@functools.cache
def _compile(source: str, libraries: tuple[str, ...]) -> tuple[str, str]:
    """The program of a source file, and what was wrong with it: one of the two is empty."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "", "a C compiler (Debian: apt install gcc libc6-dev)"
    program = _directory() / Path(source).stem
    command = [compiler, "-O2", "-Wall", "-o", str(program), str(SOURCES / source), *(f"-l{one}" for one in libraries)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return str(program), ""
    missing = [one for one in libraries if f"-l{one}" in result.stderr or f"{one}/" in result.stderr]
    if missing:
        return "", " ".join(f"lib{one} (Debian: apt install lib{one}-dev)" for one in missing)
    return "", f"{source} to compile: {result.stderr.strip()[-500:]}"


def why_not(source: str, *libraries: str) -> str | None:
    """What is missing for a program to be compiled; None if it was."""
    return _compile(source, libraries)[1] or None


def program(source: str, *libraries: str) -> str:
    """The path of a compiled program; `Trouble` says what is missing."""
    path, problem = _compile(source, libraries)
    if problem:
        raise Trouble(f"needs {problem}")
    return path
