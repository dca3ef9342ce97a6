"""The harness itself: it elects, replicates, and notices when a property is broken."""

from raft.cluster import Cluster, LogCluster, batch


def test_a_leader_that_died_comes_back_and_takes_what_it_missed():
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.propose("n1", b"\0a", b"\0b")
    cluster.settle()
    cluster.tick(3)
    assert cluster.leader == "n1"
    assert all(n.commands() == [b"\0a", b"\0b"] and n.commit == 4 for n in cluster.nodes.values())
    cluster.kill("n1")
    cluster.elect("n2")
    cluster.propose("n2", b"\0c")
    cluster.settle()
    cluster.restart("n1")
    cluster.tick(0.3)
    cluster.check_logs_match()
    assert all(n.commands() == [b"\0a", b"\0b", b"\0c"] for n in cluster.nodes.values())


def test_a_submitted_batch_gets_its_seq():
    cluster = LogCluster(3)
    cluster.elect("n1")
    ticket = cluster.submit("n1", batch(1, 1))
    cluster.settle()
    assert ticket.result is not None
