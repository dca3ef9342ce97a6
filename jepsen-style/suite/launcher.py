"""Starts one node as the installed program, with links and a wall clock that the suite can hurt, and maybe a defect.

``python launcher.py CLOCK_FILE ROUTES DEFECT -- ARGUMENTS OF lanyinglog``. CLOCK_FILE holds one signed 64-bit number of
nanoseconds, read at each look at the clock; ROUTES is a JSON file with the relay for each address that the node may
dial; DEFECT is a name of `suite.defects` or ``-``. All is done by replacing names before the program starts; the
product knows nothing of it.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).resolve().parent.parent
_OFFSET = struct.Struct("<q")


def shift_clock(file: str) -> None:
    """``time.time`` and ``time.time_ns`` are off by what ``file`` says, from now on and at every moment."""
    descriptor = os.open(file, os.O_RDONLY)
    offset = mmap.mmap(descriptor, _OFFSET.size, prot=mmap.PROT_READ)
    os.close(descriptor)
    time_ns = time.time_ns

    def shifted_ns() -> int:
        shift: int = _OFFSET.unpack_from(offset)[0]
        return time_ns() + shift

    time.time_ns = shifted_ns
    time.time = lambda: shifted_ns() / 1e9


def dial_through(file: str) -> None:
    """Connections to an address that ``file`` knows go to the relay that it names."""
    routes = json.loads(Path(file).read_text())
    open_stream = trio.open_tcp_stream

    async def through_relay(host: str, port: int, **options: Any) -> trio.SocketStream:
        relay_host, relay_port = routes.get(f"{host}:{port}", (host, port))
        return await open_stream(relay_host, relay_port, **options)

    trio.open_tcp_stream = through_relay


def main(arguments: list[str]) -> None:
    """Become the node."""
    clock_file, routes_file, defect, _, *program = arguments
    sys.path[:0] = [str(ROOT), str(ROOT.parent)]
    from suite.sandbox import end_with_parent

    end_with_parent()
    shift_clock(clock_file)
    dial_through(routes_file)
    if defect != "-":
        from suite.defects import plant

        plant(defect)
    from lanyinglog import cli

    sys.argv = ["lanyinglog", *program]
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1:])
