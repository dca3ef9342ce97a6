"""Names in order, which come and go all the time, in blocks: adding one moves a part of one block alone.

A list of a hundred thousand names that is sorted when somebody asks for a page of it would stand in everybody's way for
a fifth of a second. Here a name costs a few microseconds when it comes, and a page costs what is on it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

BLOCK_NAMES_MAX = 512


class SortedNames:
    """Each name once; by code points, which is also the order of their bytes."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        ordered = sorted(names)
        step = BLOCK_NAMES_MAX // 2  # so that the next names find room
        self._blocks = [ordered[start : start + step] for start in range(0, len(ordered), step)]
        self._lasts = [block[-1] for block in self._blocks]

    def add(self, name: str) -> None:
        """A name that is not there yet."""
        if not self._blocks:
            self._blocks.append([])
            self._lasts.append(name)
        place = min(bisect_left(self._lasts, name), len(self._blocks) - 1)
        block = self._blocks[place]
        insort(block, name)
        self._lasts[place] = block[-1]
        if len(block) > BLOCK_NAMES_MAX:
            half = len(block) // 2
            self._blocks[place : place + 1] = [block[:half], block[half:]]
            self._lasts[place : place + 1] = [block[half - 1], block[-1]]

    def remove(self, name: str) -> None:
        """A name that is there."""
        place = bisect_left(self._lasts, name)
        block = self._blocks[place]
        found = block.pop(bisect_left(block, name))
        assert found == name, f"{name} is not there"
        if block:
            self._lasts[place] = block[-1]
        else:
            del self._blocks[place], self._lasts[place]

    def __len__(self) -> int:
        return sum(map(len, self._blocks))

    def behind(self, name: str) -> Iterator[str]:
        """All that come after ``name``, which need not be there; none may come or go meanwhile."""
        first = bisect_right(self._lasts, name)
        for place in range(first, len(self._blocks)):
            block = self._blocks[place]
            yield from block[bisect_right(block, name) :] if place == first else block
