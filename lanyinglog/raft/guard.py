"""The guard between the engine and its peers: every message passes here, both ways, and leaves it safe.

The engine's defects are corrected from outside. This is the consensus-critical code of the product; each correction
is a method of its own, named in the table, so that a test can take one away and see what breaks (docs/engine.md).

Inbound
| method | correction |
|---|---|
| `_adopt_newer_term`, `_answer_older_term` | 16: who is behind learns the term and steps down |
| `_on_append` | 1: the log is cut only at a real conflict; what agrees is answered here |
| `_conflict_start` | 18: one answer goes back over a whole conflicting term, not one entry |
| `_proven_commit` | 1, 10: commit never passes what this leader proved equal, nor what is on our own disk |
| `_on_appended` | 7: answers of another term are dropped; 4: resets older than the last rewind are dropped |
| `deliver_durable_acks` | 10: followers' answers count only up to the leader's own disk |
| `_restore_pipeline` | 23: an answer does not rewind what is in flight |
| `_leave_behind` | 2-4, 13, 24: who lacks what the log begins with gets no entries but a snapshot, out of band |
| `_on_vote` | 8: a voter counts once, and only members are voters |

Outbound
| `feeds` | 21: bytes and appends in flight to a follower are bounded; then the engine is told to stop |
| `call_successor` | P9: a leader that can speak and not hear does not make the others wait for their own timeouts |
| `_gate` | 10: what reflects a change waits for that change's sync; appends and commit notices do not |

`receive` and `sent` queue messages in `outbox`, each with the journal version it must wait for; the replica releases
them. A conflict at or below the commit index raises `Diverged`: the node must halt.
"""

from __future__ import annotations

from collections.abc import Iterable

from lanyinglog.machine.members import Members
from lanyinglog.raft.engine import Body, Engine
from lanyinglog.raft.feeds import Feeds
from lanyinglog.raft.follower import Follower
from lanyinglog.raft.journal import Journal
from lanyinglog.raft.messages import (
    Alive,
    Append,
    Appended,
    Committed,
    Heartbeat,
    PeerMessage,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from lanyinglog.raft.outgoing import NEVER_WAITS, Outgoing


class Diverged(Exception):
    """A leader contradicts an entry this node holds as committed. Going on could only spread the damage."""


class Guard:
    """Stands around one `Engine`; see the module."""

    def __init__(self, *, node: str, voters: Iterable[str], journal: Journal, catch_up_bytes_s: float) -> None:
        self.node = node
        self.voters = frozenset(voters)
        self.departed: frozenset[str] = frozenset()
        self.peers = tuple(sorted(self.voters - {node}))
        self.journal = journal
        self.engine: Engine  # set by `attach`: the engine needs the guard's `sent` first
        self.outbox: list[Outgoing] = []
        self.feeds = Feeds(journal=journal, catch_up_bytes_s=catch_up_bytes_s)
        self.leader_contact_at: float | None = None
        self.next_number = 1  # of the next append
        self._answering: Append | None = None
        self._voters: set[str] = set()
        self._voters_term = 0
        self._verified = 0
        self._verified_term = 0
        self._leader_commit = 0
        self._notices: dict[str, int] = {}
        self._now = 0.0

    def attach(self, engine: Engine) -> None:
        """The engine that this guard stands around."""
        self.engine = self.feeds.engine = engine

    def begin(self, now: float) -> None:
        """A step begins."""
        self._now = now
        if self.engine.leads:
            self.feeds.resume_paced(now)

    def set_members(self, members: Members, departed: frozenset[str]) -> None:
        """The log has other members, and ``departed`` left for certain: a removal that is not committed may come to
        nothing, and who was to leave may lead. Not in the middle of the engine's step."""
        self.voters = members.voters
        self.departed = departed
        self.peers = tuple(sorted(set(members.table) - {self.node}))
        self.engine.set_members(self.voters, members.learners)
        self.feeds.set_peers(self.peers)
        self._notices = {name: index for name, index in self._notices.items() if name in self.peers}

    # ------------------------------------------------------------------------------------------------- inbound
    def receive(self, sender: str, message: PeerMessage, now: float) -> None:
        """A message from a peer; pre-votes are `election`'s and not for here.

        Who leads or campaigns need not be a member by *our* log, which may lack that entry (Raft dissertation, 4.1).
        Who left is not heard (audit 20); answers count only from members, votes only from voters (audit 8).
        """
        self._now = now
        if sender in self.departed:
            return
        self._adopt_newer_term(sender, message)
        if message.term < self.engine.term:
            self._answer_older_term(sender, message)
        elif isinstance(message, Append):
            self._on_append(sender, message)
        elif isinstance(message, Appended):
            self._on_appended(sender, message)
        elif isinstance(message, (Committed, Heartbeat)):
            self._on_commit_notice(sender, message)
        elif isinstance(message, Alive):
            self._on_alive(sender)
        elif isinstance(message, VoteRequest):
            self._on_vote_request(sender, message)
        elif isinstance(message, Vote):
            self._on_vote(sender, message)

    def _adopt_newer_term(self, sender: str, message: PeerMessage) -> None:
        """Raft 5.1: whoever sees a newer term takes it and follows. The engine does so only for some messages.

        It learns by a vote request that can't be granted, whose log is older than any.
        """
        if message.term > self.engine.term and not isinstance(message, VoteRequest):
            self._engine(
                sender, {"type": "request_vote", "term": message.term, "last_log_term": -1, "last_log_index": 0}
            )

    def _answer_older_term(self, sender: str, message: PeerMessage) -> None:
        """Tell a leader or candidate of an older term that its time is over (audit 16); stale answers need none."""
        if isinstance(message, Append | Heartbeat | Committed | VoteRequest):
            self._gate(sender, Alive(self.engine.term), self.journal.term_version)

    # ---------------------------------------------------------------------------------- inbound, from the leader
    def _on_append(self, sender: str, message: Append) -> None:
        if self.engine.leads:
            raise Diverged(f"{sender} leads in term {message.term}, which this node leads")
        self.leader_contact_at = self._now
        self._leader_commit = max(self._leader_commit, message.commit)
        journal = self.journal
        if message.prev_index > journal.last_index:
            self._refuse(sender, message, next=journal.last_index + 1)
            return
        if message.prev_index < journal.first_index - 1:
            # What is trimmed here was committed, and every leader has that: it may go on behind our commit index.
            self._refuse(sender, message, next=max(journal.first_index, self.engine.commit + 1))
            return
        if message.prev_index >= journal.first_index and journal.term(message.prev_index) != message.prev_term:
            self._check_not_committed(message.prev_index)
            self._refuse(sender, message, next=self._conflict_start(message.prev_index))
            return
        fresh = self._first_difference(message)
        last = message.prev_index + len(message.entries)
        self._verify(message.term, last)
        if fresh is None:
            self._gate(sender, Appended(message.term, message.number, True, last, last + 1), journal.version)
            self._tell_commit(sender, message.term)
            return
        if fresh <= journal.last_index:
            self._check_not_committed(fresh)
        self._answering = message
        self._engine(
            sender,
            {
                "type": "append_entries",
                "term": message.term,
                "commit_index": max(self.engine.commit, min(self._proven_commit(), fresh - 1)),
                "prevLogIdx": fresh - 1,
                "prevLogTerm": journal.term(fresh - 1),
                "entries": [(e.command, e.index, e.term) for e in message.entries[fresh - message.prev_index - 1 :]],
            },
        )
        self._answering = None

    def _first_difference(self, message: Append) -> int | None:
        """The first index at which our log lacks an entry of ``message`` or holds another; None if it has them all."""
        for entry in message.entries:
            if entry.index > self.journal.last_index or self.journal.term(entry.index) != entry.term:
                return entry.index
        return None

    def _refuse(self, sender: str, message: Append, *, next: int) -> None:
        """Answer that entries are missing, and let the engine know of its leader."""
        self._gate(sender, Appended(message.term, message.number, False, 0, next), self.journal.version)
        self._tell_commit(sender, message.term)

    def _conflict_start(self, index: int) -> int:
        """Where the conflicting term that ends at ``index`` starts, but above the commit index (audit 18)."""
        term = self.journal.term(index)
        floor = max(self.engine.commit, self.journal.first_index)
        while index - 1 > floor and self.journal.term(index - 1) == term:
            index -= 1
        return index

    def _check_not_committed(self, index: int) -> None:
        if index <= self.engine.commit:
            raise Diverged(f"entry {index} is committed here, and the leader has another")

    def _verify(self, term: int, last: int) -> None:
        """Up to ``last`` our log is the leader's of ``term``, once what is being handled is in it."""
        if term != self._verified_term:
            self._verified_term, self._verified = term, 0
        self._verified = max(self._verified, last)

    def _proven_commit(self) -> int:
        """As far as the leader says, proved equal to its log, and on our disk; never back (audit 1, 10)."""
        verified = self._verified if self._verified_term == self.engine.term else 0
        return max(self.engine.commit, min(self._leader_commit, verified, self.journal.durable_index))

    def _on_commit_notice(self, sender: str, message: Heartbeat | Committed) -> None:
        if self.engine.leads:
            raise Diverged(f"{sender} leads in term {message.term}, which this node leads")
        self.leader_contact_at = self._now
        self._leader_commit = max(self._leader_commit, message.commit)
        self._tell_commit(sender, message.term)
        if isinstance(message, Heartbeat):
            self._gate(sender, Alive(message.term), self.journal.term_version)

    def _tell_commit(self, leader: str, term: int) -> None:
        """An append without a log part: the engine learns leader, term and commit index, and truncates nothing."""
        self._engine(leader, {"type": "append_entries", "term": term, "commit_index": self._proven_commit()})

    def commit_durable(self, now: float) -> None:
        """After a sync: let the engine commit what waited for our own disk."""
        self._now = now
        leader = self.engine.leader
        if leader is not None and leader != self.node and self._proven_commit() > self.engine.commit:
            self._tell_commit(leader, self.engine.term)

    # ---------------------------------------------------------------------------------- inbound, from followers
    def _on_appended(self, sender: str, message: Appended) -> None:
        follower = self._follower(sender, message.term)
        if follower is None:
            return
        self._heard(sender)
        follower.answered_at = self._now
        if message.number < follower.valid_from:
            return
        follower.answered_number = max(follower.answered_number, message.number)
        if message.success:
            follower.has(min(message.match, self.journal.last_index), message.number)
            self.deliver_durable_acks(self._now)
            if follower.behind and follower.acked >= self.journal.first_index:
                self._rewind(sender, follower, next=follower.acked + 1)
            self.feeds.open(sender, self._now)
        elif message.number >= follower.rewound_at:
            following = max(min(message.next, self.journal.last_index + 1), follower.acked + 1)
            if following > self.journal.first_index:
                self._rewind(sender, follower, next=following)
            else:
                self._leave_behind(sender, follower)

    def _follower(self, sender: str, term: int) -> Follower | None:
        """The follower's state if this node leads in ``term`` (audit 7: an answer of another term proves nothing)."""
        if not self.engine.leads or term != self.engine.term or sender not in self.peers:
            return None
        return self.feeds.of(sender)

    def _rewind(self, name: str, follower: Follower, *, next: int) -> None:
        """Send from ``next`` on, forgetting what is in flight; never from below what is known to be there."""
        follower.take_back(self.next_number)
        follower.behind = False
        self.engine.set_next_index(name, max(next, follower.acked + 1, self.journal.first_index + 1))
        self.feeds.open(name, self._now)
        self.engine.send_soon()

    # -------------------------------------------------------------------------------- followers that fell off the log
    def _leave_behind(self, name: str, follower: Follower) -> None:
        """It needs entries that are trimmed, or the one the log begins with. The engine's own way would be a snapshot
        through its `serialized` messages, which move commit indexes and go back (audit 2, 4): it never gets there."""
        follower.take_back(self.next_number)
        follower.behind = follower.paused = True
        self.engine.pause(name)
        self.engine.set_next_index(name, self.journal.first_index + 1)

    def log_trimmed(self) -> None:
        """The log begins later than before: the engine must not reach below that for anybody."""
        if not self.engine.leads:
            return
        for name in self.peers:
            if self.engine.next_index(name) <= self.journal.first_index:
                self._leave_behind(name, self.feeds.of(name))

    def slowest_match(self, now: float, *, silence_s: float) -> int | None:
        """The lowest entry known to be on the disk of a follower that is fed and has answered within ``silence_s``."""
        if not self.engine.leads:
            return None
        states = [(name, self.feeds.of(name)) for name in self.peers]
        fed = [name for name, state in states if not state.behind and now - state.answered_at < silence_s]
        return min(map(self.engine.match_index, fed), default=None)

    def is_behind(self, name: str) -> bool:
        """Whether this node leads and ``name`` needs a snapshot."""
        return self.engine.leads and name in self.peers and self.feeds.of(name).behind

    def forget(self, name: str) -> None:
        """``name`` has lost its disk: what it acknowledged is not there any more, late answers included."""
        if not self.engine.leads or name not in self.peers:
            return
        follower = self.feeds.forget(name, self.next_number)
        self.engine.forget_match(name)
        self._rewind(name, follower, next=0)

    @property
    def leader_commit(self) -> int:
        """How far all is committed, as the newest message of a leader said."""
        return self._leader_commit

    def verified_durable(self) -> int:
        """Up to which entry our log on disk is that of the leader of our term, as far as it was compared."""
        return min(self._verified, self.journal.durable_index) if self._verified_term == self.engine.term else 0

    def deliver_durable_acks(self, now: float) -> None:
        """Count followers' answers as far as our own disk is (audit 10): with that, so is every commit."""
        self._now = now
        if not self.engine.leads:
            return
        for name in self.peers:
            follower = self.feeds.of(name)
            match = min(follower.acked, self.journal.durable_index)
            if match > self.engine.match_index(name):
                before = self.engine.next_index(name)
                answer = {"type": "next_node_idx", "reset": False, "success": True, "next_node_idx": match + 1}
                self._engine(name, answer)
                self._restore_pipeline(name, before)

    def _restore_pipeline(self, name: str, before: int) -> None:
        """The engine set its next entry back to the one behind the answer; what is in flight need not go again."""
        self.engine.set_next_index(name, max(before, self.engine.next_index(name)))

    def _on_alive(self, sender: str) -> None:
        if self._follower(sender, self.engine.term) is not None:
            self._heard(sender)

    def _heard(self, sender: str) -> None:
        """It lives: the engine's clock of silence starts anew for it (check-quorum, Raft dissertation 6.2)."""
        self.engine.heard(sender, self._now)

    # ---------------------------------------------------------------------------------------- inbound, elections
    def _on_vote_request(self, sender: str, message: VoteRequest) -> None:
        self._engine(
            sender,
            {
                "type": "request_vote",
                "term": message.term,
                "last_log_index": message.last_index,
                "last_log_term": message.last_term,
            },
        )

    def _on_vote(self, sender: str, message: Vote) -> None:
        """One vote a voter and term (audit 8): the engine counts answers, not voters."""
        if message.term != self._voters_term:
            self._voters_term, self._voters = message.term, set()
        if sender in self.voters - self._voters:
            self._voters.add(sender)
            self._engine(sender, {"type": "response_vote", "term": message.term})

    # ------------------------------------------------------------------------------------------------ outbound
    def sent(self, to: str, body: Body) -> None:
        """What the engine sends, in the middle of its step."""
        kind = body["type"]
        if kind == "append_entries":
            self._send_append(to, body)
        elif kind == "next_node_idx":
            self._send_appended(to, body)
        elif kind == "request_vote":
            request = VoteRequest(body["term"], body["last_log_index"], body["last_log_term"])
            self._gate(to, request, self.journal.version)
        elif kind == "response_vote":
            self._gate(to, Vote(body["term"]), self.journal.version)
        else:
            raise AssertionError(f"the engine sends {kind}, which this product never asks for")

    def _send_append(self, to: str, body: Body) -> None:
        entries = body["entries"]
        if not entries and to in self._notices:
            return  # a second empty append in one step says nothing new
        if not entries:
            self._notices[to] = body["prevLogIdx"]
            return
        message = Append(
            body["term"],
            self._take_number(),
            body["prevLogIdx"],
            body["prevLogTerm"],
            body["commit_index"],
            tuple(self.journal.entry(entry[1]) for entry in entries),
        )
        self._notices.pop(to, None)  # it carries the commit index too
        self._gate(to, message, NEVER_WAITS)
        self.feeds.sent(to, message, self._now)

    def flush_notices(self, *, probe: bool) -> None:
        """At the end of a step: one message for each follower to whom the engine wanted to say no more than "commit".

        ``probe`` makes it an empty append, which asks whether the follower has all that was sent.
        """
        if self.engine.leads:
            term, commit = self.engine.term, self.engine.commit
            for name, prev in self._notices.items():
                message: PeerMessage = Committed(term, commit)
                if self.feeds.of(name).behind:
                    continue
                if probe and not self.feeds.of(name).in_flight:
                    message = Append(term, self._take_number(), prev, self.journal.term(prev), commit)
                self._gate(name, message, NEVER_WAITS)
            if probe:
                for name in self.peers:
                    self._probe_busy(name, term, commit)
        self._notices.clear()

    def _probe_busy(self, name: str, term: int, commit: int) -> None:
        """Ask who is sent no empty append: for a sign of life that waits for no disk, as it has appends to sync and
        answers those late, or is sent none for now; or whether it has what the log begins with by now."""
        follower = self.feeds.of(name)
        if follower.behind:
            first = self.journal.first_index
            prev_term = self.journal.term(first)
            self._gate(name, Append(term, self._take_number(), first, prev_term, commit), NEVER_WAITS)
        elif follower.in_flight or follower.paused:
            self._gate(name, Heartbeat(term, commit), NEVER_WAITS)

    def _send_appended(self, to: str, body: Body) -> None:
        """The engine's answer to the append it is handling; with `_on_append` before it, always a success."""
        append = self._answering
        assert append is not None and body["success"] and not body["reset"], f"unexpected answer {body}"
        last = append.prev_index + len(append.entries)
        assert body["next_node_idx"] == last + 1
        self._gate(to, Appended(append.term, append.number, True, last, last + 1), self.journal.version)

    def _gate(self, to: str, message: PeerMessage, version: int) -> None:
        """Queue ``message``; it leaves when everything up to journal ``version`` is on disk.

        One that waits takes the place of what it makes useless: a leader that asks again and again while our disk
        stalls does not fill the memory with the same answer (P8).
        """
        if version > self.journal.durable_version:
            self.outbox = [
                o for o in self.outbox if not (o.to == to and o.version == version and o.is_said_by(message))
            ]
        self.outbox.append(Outgoing(to, message, version))

    def take_released(self) -> list[Outgoing]:
        """What waits for no sync any more, in order for each peer."""
        durable = self.journal.durable_version
        released = [outgoing for outgoing in self.outbox if outgoing.version <= durable]
        if released:
            self.outbox = [outgoing for outgoing in self.outbox if outgoing.version > durable]
        return released

    def _take_number(self) -> int:
        self.next_number += 1
        return self.next_number - 1

    def call_successor(self, now: float, *, silence_s: float) -> None:
        """This node led and does no more, for too few answered. Maybe it only can't hear them, while they hear it and
        wait: of those, who is known to have most is asked to take over at once (P9)."""
        silent = [name for name in sorted(self.voters - {self.node}) if self.engine.heard_at(name) <= now - silence_s]
        if silent:
            self._gate(max(silent, key=self.engine.match_index), TimeoutNow(self.engine.term), NEVER_WAITS)

    # ---------------------------------------------------------------------------------------------- lost on the way
    def retry_silent(self, now: float, *, silence_s: float) -> None:
        """Send again what is in flight to whoever has not answered it for ``silence_s``."""
        self._now = now
        if not self.engine.leads:
            return
        for name in self.peers:
            follower = self.feeds.of(name)
            if follower.in_flight and now - follower.answered_at >= silence_s:
                self._send_again(name, follower)

    def reconnected(self, name: str, now: float) -> None:
        """A new link to ``name``: what was in flight on the old one is lost."""
        self._now = now
        if self.engine.leads and name in self.peers:
            follower = self.feeds.of(name)
            if follower.in_flight:
                self._send_again(name, follower)

    def _send_again(self, name: str, follower: Follower) -> None:
        """From the first entry in flight. Not from the last answer: there is none yet in a new term, and all the log
        would go to a follower that has it."""
        self._rewind(name, follower, next=min(sent.first for sent in follower.in_flight.values()))

    def _engine(self, sender: str, body: Body) -> None:
        self.engine.receive(sender, body, self._now)
