"""The engine's corrections taken away, one by one, and the rules of Raft that the product keeps itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from lanyinglog.raft import engine as engine_module
from lanyinglog.raft import messages as messages_module
from lanyinglog.raft.election import Election
from lanyinglog.raft.engine import Engine, Role
from lanyinglog.raft.feeds import Feeds
from lanyinglog.raft.follower import Follower
from lanyinglog.raft.guard import Guard
from lanyinglog.raft.journal import Journal
from lanyinglog.raft.messages import Append, Appended, PeerMessage, PreVote, PreVoteRequest, Vote, VoteRequest
from lanyinglog.raft.outgoing import NEVER_WAITS
from lanyinglog.raft.replica import Replica
from lanyinglog.store import environment, memory
from lanyinglog.store import state as state_module
from lanyinglog.store.log_store import HardState, Writes
from simulator.defects import Change, defect


class Anything(int):
    """Equal to every number."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def _nothing(*_: Any, **__: Any) -> None:
    """Does nothing."""


# ------------------------------------------------------------------------------------------------------------ the log
@defect("a follower cuts its log at every append, conflict or not", audit="1")
def truncates_always() -> Sequence[Change]:
    def first(self: Guard, message: Append) -> int | None:
        return message.entries[0].index if message.entries else None

    return [(Guard, "_first_difference", first), (Guard, "_check_not_committed", _nothing)]


@defect("a deposed leader keeps its stale tail where the new leader has other entries")
def stale_tail_stays() -> Sequence[Change]:
    def first(self: Guard, message: Append) -> int | None:
        return next((entry.index for entry in message.entries if entry.index > self.journal.last_index), None)

    return [(Guard, "_first_difference", first)]


@defect("a follower commits what its leader says, proved equal to the leader's log or not", audit="1, 2")
def commits_unproven() -> Sequence[Change]:
    def proven(self: Guard) -> int:
        known = min(self._leader_commit, self.journal.last_index, self.journal.durable_index)
        return max(self.engine.commit, known)

    return [(Guard, "_proven_commit", proven)]


@defect("a refusal that was overtaken takes the leader back once more", audit="4")
def hears_stale_refusals() -> Sequence[Change]:
    original = Guard._on_appended

    def on_appended(self: Guard, sender: str, message: Appended) -> None:
        follower = self._follower(sender, message.term)
        if follower is not None and not message.success and message.number < follower.rewound_at:
            self._rewind(sender, follower, next=min(message.next, self.journal.last_index + 1))
            return
        original(self, sender, message)

    return [(Guard, "_on_appended", on_appended)]


@defect("an answer counts in whichever term it comes", audit="7")
def answers_of_any_term() -> Sequence[Change]:
    original = Guard.receive

    def follower(self: Guard, sender: str, term: int) -> Follower | None:
        return self.feeds.of(sender) if self.engine.role is Role.LEADER else None

    def receive(self: Guard, sender: str, message: PeerMessage, now: float) -> None:
        if isinstance(message, Appended) and message.term < self.engine.term and sender in self.peers:
            self._now = now
            self._on_appended(sender, message)
        else:
            original(self, sender, message, now)

    return [(Guard, "_follower", follower), (Guard, "receive", receive)]


@defect("the stored commit index is above the log, and nobody clamps it", audit="9")
def commit_beyond_the_log() -> Sequence[Change]:
    original, advance = Journal.begin_write, state_module.advance

    def begin_write(self: Journal, checkpoint: Any = None) -> Writes:
        writes = original(self, checkpoint)
        state = HardState(self.hard_state.term, self.hard_state.vote, self.last_index + 8)
        return dataclasses.replace(writes, hard_state=state)

    def unclamped(state: Any, writes: Writes) -> Any:
        after = advance(state, writes)
        return after._replace(hard=writes.hard_state or after.hard)

    def stored(self: Journal) -> int:
        return max(1, self.hard_state.commit)

    return [
        (Journal, "begin_write", begin_write),
        (Journal, "getRaftCommitIndex", stored),
        (memory, "advance", unclamped),
        (environment, "advance", unclamped),
    ]


@defect("a follower goes back one entry at a time where logs differ", audit="18")
def back_tracks_by_one() -> Sequence[Change]:
    return [(Guard, "_conflict_start", lambda self, index: index)]


@defect("a leader sends without end to who does not answer", audit="21")
def window_without_end() -> Sequence[Change]:
    return [(Feeds, "_window_is_full", lambda self, follower: False)]


@defect("who was told to wait for his pace waits for ever")
def paced_for_ever() -> Sequence[Change]:
    return [(Feeds, "resume_paced", lambda self, now: setattr(self, "paced_until", math.inf))]


@defect("entries are larger than a message may be, and the engine cuts them up", audit="22")
def entries_are_cut_up() -> Sequence[Change]:
    return [(engine_module, "APPEND_BYTES_MAX", 256)]


@defect("each answer takes the leader back to the entry behind it", audit="23")
def rewinds_at_answers() -> Sequence[Change]:
    return [(Guard, "_restore_pipeline", _nothing)]


@defect("entries wait for the next heartbeat", audit="25")
def entries_wait() -> Sequence[Change]:
    conf = engine_module.SyncObjConf
    return [(engine_module, "SyncObjConf", lambda **named: conf(**{**named, "appendEntriesUseBatch": True}))]


@defect("an answer that makes a majority passes for one that says nothing new")
def majorities_go_unnoticed() -> Sequence[Change]:
    return [(Engine, "wants_tick", property(lambda self: self.commit > self.applied))]


@defect("an entry that was damaged on the wire is taken", audit="27")
def wire_is_trusted() -> Sequence[Change]:
    return [(messages_module, "entry_crc", lambda index, term, command: Anything())]


@defect("a dropped tail still counts as being on the disk")
def durable_index_stays() -> Sequence[Change]:
    original = Journal.deleteEntriesFrom

    def drop(self: Journal, place: int) -> None:
        durable = self.durable_index
        original(self, place)
        self.durable_index = durable

    return [(Journal, "deleteEntriesFrom", drop)]


# --------------------------------------------------------------------------------------------------- sync, then speak
@defect("a leader counts itself before its own sync", audit="10")
def leader_counts_itself_early() -> Sequence[Change]:
    def deliver(self: Guard, now: float) -> None:
        self._now = now
        if self.engine.role is not Role.LEADER:
            return
        for name in self.peers:
            match = self.feeds.of(name).acked
            if match > self.engine.match_index(name):
                ahead = self.engine.next_index(name)
                answer = {"type": "next_node_idx", "reset": False, "success": True, "next_node_idx": match + 1}
                self._engine(name, answer)
                self._restore_pipeline(name, ahead)

    return [(Guard, "deliver_durable_acks", deliver)]


def _ungated(*kinds: type) -> Sequence[Change]:
    original = Guard._gate

    def gate(self: Guard, to: str, message: PeerMessage, version: int) -> None:
        original(self, to, message, NEVER_WAITS if isinstance(message, kinds) else version)

    return [(Guard, "_gate", gate)]


@defect("a follower answers before its sync", audit="10")
def answers_before_sync() -> Sequence[Change]:
    return _ungated(Appended)


@defect("votes leave before they are on the disk", audit="10")
def votes_before_sync() -> Sequence[Change]:
    return _ungated(Vote, VoteRequest)


@defect("a follower commits what is not on its own disk", audit="10")
def commits_before_sync() -> Sequence[Change]:
    def proven(self: Guard) -> int:
        verified = self._verified if self._verified_term == self.engine.term else 0
        return max(self.engine.commit, min(self._leader_commit, verified))

    return [(Guard, "_proven_commit", proven)]


def _hard_state(change: Any) -> Sequence[Change]:
    original = Journal.begin_write

    def begin_write(self: Journal, checkpoint: Any = None) -> Writes:
        writes = original(self, checkpoint)
        state = writes.hard_state
        return writes if state is None else dataclasses.replace(writes, hard_state=change(self, state))

    return [(Journal, "begin_write", begin_write)]


@defect("the term is not written to disk")
def term_not_persisted() -> Sequence[Change]:
    return _hard_state(lambda journal, state: None)


@defect("the vote is not written to disk")
def vote_not_persisted() -> Sequence[Change]:
    return _hard_state(lambda journal, state: HardState(state.term, None, state.commit))


# ---------------------------------------------------------------------------------------------------------- elections
@defect("a voter counts as often as its vote comes", audit="8")
def votes_count_twice() -> Sequence[Change]:
    def on_vote(self: Guard, sender: str, message: Vote) -> None:
        self._engine(sender, {"type": "response_vote", "term": message.term})

    return [(Guard, "_on_vote", on_vote)]


@defect("a node that hears nobody starts an election at once, without asking", audit="15")
def no_pre_vote() -> Sequence[Change]:
    def ask(self: Replica, now: float) -> None:
        self.election.rearm(now)
        self._campaign(now)

    return [(Replica, "_ask_for_election", ask)]


@defect("a pre-vote is granted although there is a leader", audit="15")
def pre_vote_despite_leader() -> Sequence[Change]:
    def answer(self: Election, request: PreVoteRequest, now: float, **known: Any) -> PreVote:
        complete = (request.last_term, request.last_index) >= (known["last_term"], known["last_index"])
        return PreVote(known["term"], request.next_term, complete and request.next_term > known["term"])

    return [(Election, "answer", answer)]


@defect("who speaks of an older term gets no answer", audit="16")
def older_terms_go_unanswered() -> Sequence[Change]:
    return [(Guard, "_answer_older_term", _nothing)]


@defect("a leader that is cut off leads on", audit="16")
def no_check_quorum() -> Sequence[Change]:
    original = Engine.__init__

    def init(self: Engine, **named: Any) -> None:
        original(self, **{**named, "quorum_timeout_s": 1e8})

    return [(Engine, "__init__", init)]


@defect("a vote is given to who lacks entries (Raft 5.4.1)")
def votes_for_anyone() -> Sequence[Change]:
    original = Guard._on_vote_request

    def on_request(self: Guard, sender: str, message: VoteRequest) -> None:
        original(self, sender, VoteRequest(message.term, 1 << 40, 1 << 40))

    return [(Guard, "_on_vote_request", on_request), *pre_votes_for_anyone()]


def pre_votes_for_anyone() -> Sequence[Change]:
    """Part of the one above: a pre-vote would stop it."""

    def answer(self: Election, request: PreVoteRequest, now: float, **known: Any) -> PreVote:
        silent = not known["leads"] and now - self._contact_at >= self._timeout_s_min
        return PreVote(known["term"], request.next_term, silent and request.next_term > known["term"])

    return [(Election, "answer", answer)]


@defect("a leader commits entries of older terms by counting them (Raft 5.4.2, figure 8)")
def commits_older_terms() -> Sequence[Change]:
    core = engine_module._Core
    tick, entries = core._onTick, core._SyncObj__getEntries
    apply = core._SyncObj__applyLogEntries

    def on_tick(self: Any, *arguments: Any) -> None:
        self.simulated_counting = True
        tick(self, *arguments)

    def get_entries(self: Any, start: int, count: int | None = None, size: int | None = None) -> Any:
        found = entries(self, start, count, size)
        if count == 1 and size is None and getattr(self, "simulated_counting", False):
            return [(command, index, self.raftCurrentTerm) for command, index, _ in found]
        return found

    def apply_entries(self: Any) -> Any:
        self.simulated_counting = False
        return apply(self)

    return [
        (core, "_onTick", on_tick),
        (core, "_SyncObj__getEntries", get_entries),
        (core, "_SyncObj__applyLogEntries", apply_entries),
    ]


@defect("alone, a node ticks its engine while its disk is behind", audit="10")
def alone_and_early() -> Sequence[Change]:
    return [(Replica, "_may_tick", lambda self: True)]


@defect("a proposal is handed to an engine that does not turn, and is refused meanwhile")
def refused_and_appended() -> Sequence[Change]:
    return [(Replica, "may_append", property(lambda self: self.leads and self.handing_over is None))]
