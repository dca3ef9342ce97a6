"""``raw_appender.py FILE BLOCK_BYTES BLOCKS SECONDS``: appends blocks, an fdatasync each, until one bound is reached.

Prints a line when it is ready, begins when it reads one, and prints the seconds of each block at the end.
"""

import os
import sys
import time


def main(path: str, block_bytes: int, blocks: int, seconds: float) -> None:
    """See the module."""
    block = os.urandom(block_bytes)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
    print("ready", flush=True)
    sys.stdin.readline()
    took: list[float] = []
    began = before = time.perf_counter()
    while len(took) < blocks and before - began < seconds:
        os.write(file, block)
        os.fdatasync(file)
        now = time.perf_counter()
        took.append(now - before)
        before = now
    print(*took, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
