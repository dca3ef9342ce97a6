"""Putting sound values in the place of damaged ones, inside a transaction of the environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lmdb

from lanyinglog.store import layout
from lanyinglog.store.log_store import Mend
from lanyinglog.store.state import State


def put_mends(
    txn: lmdb.Transaction[bytes], databases: Mapping[bytes, Any], state: State, mends: Sequence[Mend]
) -> bool:
    """Replace entries and records; False if that can't help.

    A value whose key is where it belongs can be replaced. If there is one more key afterwards, then the old key is what
    is damaged, and with it a page of the tree: the transaction must not be committed.
    """
    entries, records = databases[layout.ENTRIES], databases[layout.RECORDS]
    for mend in mends:
        key = layout.index_key(mend.entry.index)
        txn.put(key, layout.encode_entry(mend.entry), db=entries)
        txn.put(key, layout.encode_record(mend.record), db=records)
    return bool(
        txn.stat(entries)["entries"] == state.last - state.first + 1
        and txn.stat(records)["entries"] == state.applied - state.first + 1
    )
