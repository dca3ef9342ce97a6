"""The page cache that takes free memory: never more than that."""

from types import SimpleNamespace

import pytest

from benchmarks import memory


def test_only_free_memory_is_taken(monkeypatch: pytest.MonkeyPatch):
    free = iter([memory.LEFT_BYTES + (1 << 20), memory.LEFT_BYTES + 10, memory.LEFT_BYTES - 1])
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(free=next(free)))
    with memory.page_cache() as fill:
        assert [fill(), fill(), fill()] == [memory.STEP, memory.STEP, 0]  # in whole steps
