"""The engine is the one that was audited: what `raft/engine.py` leans on is there, and does what we were told it does.

When pysyncobj changes, the first test says that; the others say what moved.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from lanyinglog.errors import StoreError
from lanyinglog.raft import engine as engine_module
from lanyinglog.raft.engine import AUDITED_VERSION, Engine, Role, check_audited
from lanyinglog.raft.journal import Journal
from lanyinglog.store.memory import MemoryStore

ENGINE_SOURCE = inspect.getsource(engine_module)
UPSTREAM = inspect.getsource(pysyncobj.syncobj)
PRIVATE = sorted(set(re.findall(r"_SyncObj(__\w+)", ENGINE_SOURCE)))
SETTINGS = sorted(
    set(re.findall(r"^            (\w+)=", ENGINE_SOURCE.split("SyncObjConf(")[1].split("\n        )")[0], re.M))
)


def test_the_installed_engine_is_the_audited_one():
    assert pysyncobj.syncobj.VERSION == AUDITED_VERSION
    check_audited()


def test_another_engine_stops_the_node(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_module, "AUDITED_SHA256", "0" * 64)
    with pytest.raises(StoreError, match=rf"install pysyncobj=={re.escape(AUDITED_VERSION)}"):
        check_audited()


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_name_is_still_there(name: str):
    assert re.search(rf"self\.{name}\b|def {name}\b", UPSTREAM), f"SyncObj has no {name} any more"


@pytest.mark.parametrize("name", ["createJournal", "createPoller", "PIPE_NOTIFIER_ENABLED", "monotonicTime", "pickle"])
def test_a_name_of_the_module_is_still_used(name: str):
    assert len(re.findall(rf"\b{name}\b", UPSTREAM)) >= 2, f"pysyncobj.syncobj does not use {name} any more"


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_still_known(name: str):
    assert hasattr(SyncObjConf(), name)


@pytest.mark.parametrize("name", ["_onMessageReceived", "_onNodeConnected", "_onNodeDisconnected"])
def test_the_seam_to_the_transport_is_still_there(name: str):
    assert callable(getattr(Transport, name))


def test_the_only_file_that_imports_the_engine_is_ours():
    package = Path(engine_module.__file__).parents[1]
    importing = [
        file for file in package.rglob("*.py") if re.search(r"^\s*(import|from) pysyncobj", file.read_text(), re.M)
    ]
    assert [file.name for file in importing] == ["engine.py"]


# ------------------------------------------------------------------------------------------------- what it does
class Watched:
    """An engine of three members with a journal, and what it sent and applied."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.applied: list[int] = []
        self.journal = Journal(MemoryStore(), cache_bytes_max=1 << 20)
        self.engine = Engine(
            node="n1",
            members=("n1", "n2", "n3"),
            journal=self.journal,
            applied=1,
            send=lambda to, body: self.sent.append((to, dict(body))),
            apply=self.applied.append,
            heartbeat_s=0.1,
            quorum_timeout_s=2.0,
            now=100.0,
        )

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        sent, self.sent = self.sent, []
        return sorted(sent, key=lambda one: one[0])


def elected() -> Watched:
    watched = Watched()
    watched.engine.campaign(100.0)
    watched.engine.receive("n2", {"type": "response_vote", "term": 1}, 100.0)
    assert watched.engine.role is Role.LEADER
    return watched


def test_a_new_engine_writes_the_first_no_op_and_waits_for_ever():
    watched = Watched()
    assert (watched.journal.last_index, watched.journal.last_term) == (1, 0)
    watched.engine.tick(50_000.0)
    assert watched.engine.role is Role.FOLLOWER and not watched.sent


def test_a_campaign_raises_the_term_votes_for_itself_and_asks_all_others():
    watched = Watched()
    watched.engine.campaign(100.0)
    assert watched.journal.hard_state.term == 1 and watched.journal.hard_state.vote == "n1"
    asked = {"type": "request_vote", "term": 1, "last_log_index": 1, "last_log_term": 0}
    assert watched.take() == [("n2", asked), ("n3", asked)]


def test_a_leader_appends_a_no_op_and_sends_it_at_once():
    watched = elected()
    assert (watched.journal.last_index, watched.journal.last_term) == (2, 1)
    appends = {to: body for to, body in watched.take() if body["type"] == "append_entries" and body["entries"]}
    assert set(appends) == {"n2", "n3"}
    assert (appends["n2"]["prevLogIdx"], appends["n2"]["prevLogTerm"]) == (1, 0)


def test_a_proposal_is_appended_and_sent_in_the_turn_that_takes_it():
    watched = elected()
    watched.take()
    watched.engine.propose(b"\0command")
    watched.engine.tick(100.01)
    assert watched.journal.entry(3).command == b"\0command"
    assert {to for to, body in watched.take() if body["entries"]} == {"n2", "n3"}


def test_an_answer_moves_match_and_next_and_the_next_turn_commits_and_applies():
    watched = elected()
    answer = {"type": "next_node_idx", "reset": False, "success": True, "next_node_idx": 3}
    watched.engine.receive("n2", answer, 100.01)
    assert (watched.engine.match_index("n2"), watched.engine.next_index("n2")) == (2, 3)
    assert watched.engine.commit == 1
    watched.engine.tick(100.02)
    assert watched.engine.commit == 2 and watched.applied == [2]


def test_a_follower_cuts_its_log_at_every_append_which_is_why_the_guard_stands_before_it():
    """Audit 1, as it is upstream: if this fails they have corrected it."""
    watched = Watched()
    append = {"type": "append_entries", "term": 1, "commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0}
    watched.engine.receive("n2", {**append, "entries": [(b"\0a", 2, 1), (b"\0b", 3, 1)]}, 100.0)
    assert watched.journal.last_index == 3
    watched.engine.receive("n2", {**append, "entries": [(b"\0a", 2, 1)]}, 100.0)
    assert watched.journal.last_index == 2


def test_pausing_a_node_in_the_middle_of_sending_ends_it():
    watched = elected()
    watched.take()
    watched.engine.pause("n2")
    watched.engine.propose(b"\0command")
    watched.engine.tick(100.01)
    assert {to for to, _ in watched.take()} == {"n3"}
    watched.engine.resume("n2")
    watched.engine.send_soon()
    watched.engine.tick(100.02)
    assert "n2" in {to for to, _ in watched.take()}


def test_a_leader_that_hears_no_majority_steps_down():
    watched = elected()
    watched.engine.tick(101.9)
    assert watched.engine.role is Role.LEADER
    watched.engine.tick(102.1)
    assert watched.engine.role is Role.FOLLOWER


def test_a_match_that_is_forgotten_does_not_count():
    """Its disk is new: two of three have the entry, and one of the two is the leader."""
    watched = elected()
    answer = {"type": "next_node_idx", "reset": False, "success": True, "next_node_idx": 3}
    watched.engine.receive("n2", answer, 100.01)
    watched.engine.forget_match("n2")
    watched.engine.tick(100.02)
    assert (watched.engine.match_index("n2"), watched.engine.commit) == (0, 1)


def test_who_abstains_votes_for_nobody_else_in_that_term():
    watched = Watched()
    watched.engine.abstain(5)
    assert (watched.journal.hard_state.term, watched.journal.hard_state.vote) == (5, "n1")
    request = {"type": "request_vote", "term": 5, "last_log_index": 9, "last_log_term": 4}
    watched.engine.receive("n2", request, 100.0)
    assert watched.take() == []
    watched.engine.receive("n2", {**request, "term": 6}, 100.0)
    assert watched.take() == [("n2", {"type": "response_vote", "term": 6})]


def test_a_proposal_at_a_follower_is_sent_to_the_leader_which_is_why_only_leaders_propose():
    watched = Watched()
    watched.engine.receive("n2", {"type": "append_entries", "term": 1, "commit_index": 1}, 100.0)
    watched.engine.propose(b"\0command")
    watched.engine.tick(100.01)
    assert [(to, body["type"]) for to, body in watched.take()] == [("n2", "apply_command")]


def test_nodes_are_compared_by_name():
    assert Node("n2") == Node("n2") and issubclass(engine_module._Core, SyncObj)
