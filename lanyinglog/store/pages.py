"""LMDB's two meta pages, read as they lie in the file: the only part of LMDB's own structure that is judged here.

Page 0 and page 1 each name a whole tree and the transaction that made it; transaction *n* writes page ``n % 2``, and
whoever opens the environment takes the page with the larger number. They have no checksum: a flipped bit in a
transaction number would silently bring back the transaction before the last, with an acknowledged entry gone. But
they depend on each other: the numbers are always neighbours and sit on the right page, as each is written in one
piece inside one sector. Zero and zero would be an environment that was never written, which no log is.

The number of the last page is no promise about the file's length: pages that a transaction takes and gives back are
never written, so a sound file may end before it (seen: 39 pages).

Source: LMDB 0.9 ``mdb.c``, ``MDB_page`` and ``MDB_meta`` on a 64-bit little-endian machine; elsewhere, and for other
engine versions, LMDB's own checks are the only ones.
"""

from __future__ import annotations

import struct
import sys

from lanyinglog.errors import StoreError

_PAGE = struct.Struct("<QHHHH")  # page number, padding, flags, lower, upper
_META = struct.Struct("<IIQQ96xQQ")  # magic, version, address, map size, two trees, last page, transaction
_TREE_PAD = struct.Struct("<I")  # the first tree's first field is the page size
_META_AT = _PAGE.size
_MAGIC = 0xBEEFC0DE
_VERSION = 1
_FLAG_META = 0x08
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
    transactions = []
    for number, page in enumerate((start, second)):
        page_number, _, flags, _, _ = _PAGE.unpack_from(page)
        magic, version, _, _, _, transaction = _META.unpack_from(page, _META_AT)
        if (page_number, flags, magic, version) != (number, _FLAG_META, _MAGIC, _VERSION):
            return f"meta page {number} is not one"
        transactions.append(transaction)
    even, odd = transactions
    if even % 2 or not odd % 2 or abs(even - odd) != 1:
        return f"its meta pages are of transactions {even} and {odd}, which are no neighbours"
    return None
