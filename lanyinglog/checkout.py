"""A checkout's own environment: ``.venv`` beside ``pyproject.toml``, with the versions of ``constraints.txt``.

The commands in the README begin with nothing but a Python: they call `ensure`, which makes the environment if it is
missing or out of date, and goes on inside it. The second time that takes milliseconds: a stamp in the environment
names what it was made from.

This file needs the standard library only, and must at least *start* on an old Python, in order to say so.
``LANYINGLOG_NO_VENV=1`` keeps the interpreter as it is, for those who have made an environment of their own.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
PYTHON_MIN = (3, 11)
_IMPORTS = (
    "anyio",
    "click",
    "google_crc32c",
    "lmdb",
    "msgpack",
    "pysyncobj",
    "rich",
    "structlog",
    "trio",
    "zstandard",
)
NO_VENV_VARIABLE = "LANYINGLOG_NO_VENV"
_INSIDE_VARIABLE = "LANYINGLOG_INSIDE_VENV"  # set for the program inside, so that it can't start itself for ever
_NEWER = [f"python3.{minor}" for minor in range(20, PYTHON_MIN[1] - 1, -1)]


def is_checkout() -> bool:
    """Whether this package lies in a checkout, rather than among installed packages."""
    return (ROOT / "pyproject.toml").is_file() and (ROOT / "constraints.txt").is_file()


def ensure(arguments: list[str], *, extra: str | None = None) -> None:
    """Returns when this process runs in the checkout's environment; if it doesn't, becomes one that does. Without
    ``extra`` any environment will do that has what the package imports.

    ``arguments`` are what the interpreter of the environment is started with: the program that calls this, again.
    ``extra`` is an extra of the package to install, too. Exits with a sentence and code 1 if there is no way.
    """
    if os.environ.get(NO_VENV_VARIABLE) or os.environ.get(_INSIDE_VARIABLE) == str(ENVIRONMENT) or not is_checkout():
        return
    if extra is None and sys.version_info >= PYTHON_MIN and all(map(importlib.util.find_spec, _IMPORTS)):
        return
    if sys.version_info < PYTHON_MIN:
        _restart_with_newer(arguments)
    python = ENVIRONMENT / "bin" / "python"
    with (ROOT / "pyproject.toml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at once: the second waits, and finds it done
        if not _is_current(python, extra):
            _make(python, extra)
    os.execve(python, [str(python), *arguments], {**os.environ, _INSIDE_VARIABLE: str(ENVIRONMENT)})


def _restart_with_newer(arguments: list[str]) -> None:
    for name in _NEWER:
        found = shutil.which(name)
        if found:
            os.execv(found, [found, *arguments])
    wanted = ".".join(map(str, PYTHON_MIN))
    _give_up(f"this is Python {sys.version.split()[0]}; lanyinglog needs {wanted} or later, and none is on the PATH")


def _stamp_file(extra: str | None) -> Path:
    return ENVIRONMENT / f"made-for-{extra or 'use'}"


def _stamp() -> str:
    made_from = [str(ROOT).encode(), *((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))]
    return hashlib.sha256(b"\0".join(made_from)).hexdigest()


def _is_current(python: Path, extra: str | None) -> bool:
    try:
        return python.exists() and _stamp_file(extra).read_text() == _stamp()
    except FileNotFoundError:
        return False


def _is_of_this_python(python: Path) -> bool:
    try:
        told = subprocess.run(
            [python, "-c", "import sys; print(sys.version)"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return told.stdout.strip() == sys.version.strip()


def _make(python: Path, extra: str | None) -> None:
    print("setting up .venv (once, some tens of seconds) ...", file=sys.stderr, flush=True)
    _stamp_file(extra).unlink(missing_ok=True)
    if ENVIRONMENT.exists() and not _is_of_this_python(python):
        shutil.rmtree(ENVIRONMENT)  # venv would keep the links to the other one, and mix the two
    if importlib.util.find_spec("ensurepip") is not None:
        _call([sys.executable, "-m", "venv", str(ENVIRONMENT)], "make .venv")
        install = [str(python), "-m", "pip"]
    elif importlib.util.find_spec("pip") is not None:
        _call([sys.executable, "-m", "venv", "--without-pip", str(ENVIRONMENT)], "make .venv")
        install = [sys.executable, "-m", "pip", "--python", str(python)]
    else:
        _give_up("this Python has neither ensurepip nor pip; on Debian and Ubuntu: apt install python3-venv")
    package = f"{ROOT}[{extra}]" if extra else str(ROOT)
    _call([*install, "install", "-q", "-c", str(ROOT / "constraints.txt"), "-e", package], "install the dependencies")
    _stamp_file(extra).write_text(_stamp())


def _call(command: list[str], purpose: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment, check=False)
    if result.returncode != 0:
        _give_up(f"could not {purpose}: {' '.join(command)} ended with exit code {result.returncode}")


def _give_up(message: str) -> None:
    print(f"lanyinglog: {message}", file=sys.stderr)
    sys.exit(1)
