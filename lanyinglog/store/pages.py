"""LMDB's two meta pages, read as they lie in the file: the only part of LMDB's own structure that is judged here.

Page 0 and page 1 each name a whole tree and the transaction that made it; transaction *n* writes page ``n % 2``, and
whoever opens the environment takes the page with the larger number. They have no checksum: a flipped bit in a
transaction number would silently bring back the transaction before the last, with an acknowledged entry gone. Two
things give it away. The numbers are always neighbours and sit on the right page, as each is written in one piece
inside one sector (zero and zero would be an environment that was never written, which no log is). And the tree of
freed pages, to which each meta page points, has the transaction that wrote it as its largest key: every transaction of
a log replaces the page with the log's state, so every one but the first frees some.

The number of the last page is no promise about the file's length: pages that a transaction takes and gives back are
never written, so a sound file may end before it (seen: 39 pages).

Source: LMDB 0.9 ``mdb.c``, ``MDB_page``, ``MDB_node`` and ``MDB_meta`` on a 64-bit little-endian machine; elsewhere,
and for other engine versions, LMDB's own checks are the only ones.
"""

from __future__ import annotations

import struct
import sys
from typing import BinaryIO

from lanyinglog.errors import StoreError

_PAGE = struct.Struct("<QHHHH")  # page number, padding, flags, lower, upper
_META = struct.Struct("<IIQQ40xQ48xQQ")  # magic, version, address, map size, two trees, last page, transaction
_TREE_PAD = struct.Struct("<I")  # the first tree's first field is the page size
_META_AT = _PAGE.size
_MAGIC = 0xBEEFC0DE
_VERSION = 1
_FLAG_BRANCH = 0x01
_FLAG_LEAF = 0x02
_FLAG_META = 0x08
_NODE = struct.Struct("<HHHHQ")  # size or page number in three parts, length of the key, key
_PLACE = struct.Struct("<H")
_NO_PAGE = 0xFFFF_FFFF_FFFF_FFFF
_DEPTH_MAX = 32
_PAGE_BYTES = (512, 65536)


def check_pages(path: str) -> None:
    """Nothing if the meta pages of the data file ``path`` agree, else `StoreError`. Before the environment is open."""
    if sys.byteorder != "little" or sys.maxsize < 1 << 32:
        return
    problem = find_problem(path)
    if problem is not None:
        raise StoreError(f"{path} is damaged: {problem}")


def find_problem(path: str) -> str | None:
    """What is wrong with the meta pages, in words."""
    with open(path, "rb") as file:
        start = file.read(_META_AT + _META.size)
        if len(start) < _META_AT + _META.size:
            return "it is cut off inside its first page"
        page_bytes = _TREE_PAD.unpack_from(start, _META_AT + 24)[0]
        if not _PAGE_BYTES[0] <= page_bytes <= _PAGE_BYTES[1] or page_bytes & (page_bytes - 1):
            return f"its page size reads {page_bytes}"
        file.seek(page_bytes)
        second = file.read(_META_AT + _META.size)
    if len(second) < _META_AT + _META.size:
        return "it is cut off before its second page"
    return _find_disagreement(path, page_bytes, (start, second))


def _find_disagreement(path: str, page_bytes: int, pages: tuple[bytes, bytes]) -> str | None:
    transactions = []
    with open(path, "rb") as file:
        for number, page in enumerate(pages):
            page_number, _, flags, _, _ = _PAGE.unpack_from(page)
            magic, version, _, _, freed, _, transaction = _META.unpack_from(page, _META_AT)
            if (page_number, flags, magic, version) != (number, _FLAG_META, _MAGIC, _VERSION):
                return f"meta page {number} is not one"
            newest = _newest_freed(file, page_bytes, freed)
            if newest != (transaction if transaction > 1 else None):
                return f"meta page {number} is of transaction {transaction}, what it leads to is not"
            transactions.append(transaction)
    even, odd = transactions
    if even % 2 or not odd % 2 or abs(even - odd) != 1:
        return f"its meta pages are of transactions {even} and {odd}, which are no neighbours"
    return None


def _newest_freed(file: BinaryIO, page_bytes: int, root: int) -> int | None:
    """The largest key in the tree of freed pages at page ``root``; None if it is empty, -1 if it can't be followed."""
    if root == _NO_PAGE:
        return None
    number = root
    for _ in range(_DEPTH_MAX):
        if number > _NO_PAGE // page_bytes // 2:
            return -1
        file.seek(number * page_bytes)
        page = file.read(page_bytes)
        try:
            page_number, _, flags, lower, _ = _PAGE.unpack_from(page)
            (place,) = _PLACE.unpack_from(page, lower - _PLACE.size)
            low, high, highest, key_bytes, key = _NODE.unpack_from(page, place)
        except struct.error:
            return -1
        if page_number != number or lower <= _PAGE.size:
            return -1
        if flags == _FLAG_LEAF:
            return int(key) if key_bytes == 8 else -1
        if flags != _FLAG_BRANCH:
            return -1
        number = low | high << 16 | highest << 32
    return -1
