"""Freed buffers stay with the process: seen from the page faults of making and dropping them again and again."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from lanyinglog.client.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
parts = [bytes(100)] * 6_000
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"".join(parts)
before = faults()
for _ in range(100):
    b"".join(parts), b"".join(parts[:5_000])
print(faults() - before)
"""


def faults(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=60)
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have other ways")
def test_buffers_are_not_faulted_in_again_and_again():
    kept, given_back = faults("kept"), faults("given back")
    assert kept < 2_000, "a few for each buffer at most, not one for each of its 250 pages"
    assert given_back > 5 * kept, "what this is for"
