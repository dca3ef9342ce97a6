"""The page cache that takes free memory: never more than that, and all of it back at its end."""

from types import SimpleNamespace

import pytest

from benchmarks import memory


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch):
    """On a machine with a free MiB beyond what stays free, at first."""
    free = iter([memory.LEFT_BYTES + (1 << 20), memory.LEFT_BYTES + 10, memory.LEFT_BYTES - 1])
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(free=next(free)))
    made = memory.PageCache()
    yield made
    made.close()


def test_only_free_memory_is_taken(cache: memory.PageCache):
    step = memory._STEP
    assert [cache.fill(), cache.fill(), cache.fill()] == [step, step, 0]  # in whole steps


def test_it_ends_with_its_file(cache: memory.PageCache):
    cache.close()
    with pytest.raises(ValueError):
        cache.fill()
