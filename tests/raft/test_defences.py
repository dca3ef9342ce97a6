"""Lines of defence of our own, which no number of the audit stands for: with each its proof, as in `audit`."""

from __future__ import annotations

from raft.audit import audited, planted
from raft.cluster import Cluster, expect

from lanyinglog.raft.journal import Journal
from lanyinglog.raft.messages import Append, Committed
from lanyinglog.store.memory import MemoryStore


@audited("", off=planted("durable_index_stays"), harm="n1 commits what is in its memory alone")
def test_what_takes_the_place_of_a_dropped_tail_is_not_on_disk_yet():
    """n1's entries of term 2 were on its disk; n2's take their place, in memory. The others have committed those."""
    cluster = Cluster(3, logs={"n1": [0, 1, 2, 2, 2], "n2": [0, 1, 3, 3], "n3": [0, 1, 3, 3]})
    cluster.isolate("n1")
    cluster.elect("n2")
    assert cluster["n2"].commit == 5
    cluster.heal()
    term = cluster["n2"].term
    cluster.hand("n2", "n1", Append(term, 50, 2, 1, 5, tuple(cluster["n2"].log()[2:])))
    cluster.hand("n2", "n1", Committed(term, 5))
    assert cluster["n1"].terms() == cluster["n2"].terms()
    expect(cluster["n1"].commit == 2, "n1 commits what is in its memory alone")
    cluster.sync("n1")
    assert cluster["n1"].commit == 5


def test_what_is_replaced_while_it_is_written_is_not_on_disk_when_the_write_ends():
    """The transaction has the old entry 3; by its end the log has another, which only the next one takes along."""
    store = MemoryStore()
    journal = Journal(store, cache_bytes_max=1 << 20)
    for index in (1, 2, 3):
        journal.add(b"old", index, 1)
    writes = journal.begin_write()
    journal.deleteEntriesFrom(2)
    journal.add(b"new", 3, 2)
    store.write(writes)
    journal.end_write()
    assert (journal.durable_index, journal.last_index, journal.dirty) == (2, 3, True)
    store.write(journal.begin_write())
    journal.end_write()
    assert journal.durable_index == 3 and store.entry(3).command == b"new"
