"""One node's part in one log: engine, guard, election and journal as one step function, without clock, disk or socket.

The caller (commit loop, simulator) feeds it messages, proposals and time, carries its messages, writes its `Writes`
and says when they are on disk::

    replica.receive(sender, message, now)       any number of times
    replica.propose(command)                    if it leads
    replica.advance(now)                        timers, one turn of the engine; when due, or `wants_turn`
    for outgoing in replica.take_outbox(): ...  what may leave now
    if replica.wants_write: writes = replica.begin_write(checkpoint)
        ... store.write(writes) ...
    replica.end_write(now)

Order of effects: an append leaves at once, beside the leader's own sync; all else that reflects a change of log, term
or vote leaves after that change's sync (`take_outbox` holds it back); an entry is committed when a majority, the leader
included, has it on disk; ``apply`` sees each committed entry once, in order.

When `installed` turns True a snapshot that came from the leader is on disk: the caller drops this replica, lets the
store finish (`LogStore.install_step`), and starts anew from it, as after a restart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from lanyinglog.errors import CorruptEntry
from lanyinglog.machine.members import Members
from lanyinglog.raft.election import Election
from lanyinglog.raft.engine import Body, Engine
from lanyinglog.raft.follower import WINDOW_APPENDS_MAX
from lanyinglog.raft.guard import Guard
from lanyinglog.raft.handover import Handover
from lanyinglog.raft.joining import Joining, Newcomers
from lanyinglog.raft.journal import Journal
from lanyinglog.raft.membership import Membership
from lanyinglog.raft.messages import (
    ELECTORAL,
    LOG_TRAFFIC,
    Appended,
    Chunk,
    Copy,
    Fetch,
    Join,
    Joined,
    Offer,
    PeerMessage,
    PreVote,
    PreVoteRequest,
    TimeoutNow,
    Wanted,
)
from lanyinglog.raft.outgoing import Outgoing
from lanyinglog.raft.repair import Repair
from lanyinglog.raft.snapshots import SnapshotSink, SnapshotSource
from lanyinglog.raft.timing import Timing
from lanyinglog.store.log_store import Checkpoint, Entry, LogStore, Trim, Writes


class Replica:
    """See the module. ``applied`` is the index the caller's state machine has; ``apply(entry)`` must not raise.

    ``newcomer``: the directory is new, and what this node may have promised in an older one is unknown (`joining`).
    """

    def __init__(
        self,
        *,
        node: str,
        members: Members,
        members_in: Callable[[bytes], Members | None],
        store: LogStore,
        applied: int,
        apply: Callable[[Entry], None],
        timing: Timing,
        uniform: Callable[[float, float], float],
        now: float,
        cache_bytes_max: int = 32 << 20,
        catch_up_bytes_s: float = 32 << 20,
        newcomer: bool = False,
    ) -> None:
        self.node = node
        self._timing, self._apply = timing, apply
        self.journal = Journal(store, cache_bytes_max=cache_bytes_max)
        self.membership = self._membership(Membership(members, at=applied, read=members_in), applied)
        voters = self.membership.current.voters
        self.guard = Guard(node=node, voters=voters, journal=self.journal, catch_up_bytes_s=catch_up_bytes_s)
        self.engine = Engine(
            node=node,
            members=voters,
            journal=self.journal,
            applied=max(1, applied),
            send=self._sent,
            apply=self._apply_index,
            heartbeat_s=timing.heartbeat_s,
            quorum_timeout_s=timing.election_timeout_s,
            now=now,
        )
        self.guard.attach(self.engine)
        self.election = Election(
            node=node, voters=voters, timeout_s=timing.election_timeout_s, uniform=uniform, now=now
        )
        self._members_version = -1
        self._follow_members()
        self._probe_at = now
        self._was_leader, self._led_since, self._led_term = False, now, 0
        self._handover = Handover(lasts_s=timing.election_timeout_s)
        self.source, self.sink = SnapshotSource(store), SnapshotSink(self.journal)
        self.repair = Repair(store)
        number = int(uniform(1, 1 << 62)) if newcomer else 0
        joining = Joining(node=node, peers=self.guard.peers, number=number, fresh=node not in voters)
        self.joining = joining if newcomer else None
        self._joined_due, self._stirred = False, True
        self._newcomers = Newcomers()
        self._joining_moved(now)

    def _membership(self, membership: Membership, applied: int) -> Membership:
        """``membership`` with what the log says behind ``applied``, committed or not (audit 6), and from here on."""
        for index in range(applied + 1, self.journal.last_index + 1):
            membership.added(index, self.journal.entry(index).command)
        self.journal.watcher = membership
        return membership

    def start(self, applied: int) -> None:
        """Apply the first no-op, which every node writes itself and which is the same everywhere, if that is due."""
        if applied == 0:
            self._apply_index(1)

    # --------------------------------------------------------------------------------------------------- inputs
    def receive(self, sender: str, message: PeerMessage, now: float) -> None:
        """A message of a peer, checked for form by `messages.from_parts`, in any order and any number of times."""
        traffic = isinstance(message, LOG_TRAFFIC)
        self._stirred = self._stirred or not traffic
        if self._has_left(sender) or self._is_deaf_to(sender, message, now):
            return
        if isinstance(message, Wanted):
            self._send(sender, self.repair.answer(message))
            return
        if isinstance(message, Copy):
            self.repair.arrived(sender, message, now)
            return
        term_before = self.engine.term
        self.guard.leader_contact_at = None
        self.guard.receive(sender, message, now)
        if self.guard.leader_contact_at is not None or (not traffic and self._gave_vote(term_before)):
            self.election.postpone(now)
        self._follow_members()
        if isinstance(message, (Appended, Offer, Fetch, Chunk)):
            if message.term == self.engine.term:
                self._snapshot_message(sender, message, now)
        elif isinstance(message, PreVoteRequest):
            self._answer_pre_vote(sender, message, now)
        elif isinstance(message, PreVote):
            self.election.count(sender, message, term=self.engine.term)
        elif isinstance(message, TimeoutNow) and message.term == self.engine.term and sender == self.engine.leader:
            self._campaign(now)
        self._joining_moved(now)

    # -------------------------------------------------------------------------------------------------- snapshots
    def _snapshot_message(self, sender: str, message: Appended | Offer | Fetch | Chunk, now: float) -> None:
        """What goes beside the engine: a follower that fell off the log draws what it begins with."""
        if self.leads and sender not in self.guard.peers:
            return
        if isinstance(message, Appended):
            if not self.guard.is_behind(sender):
                self.source.served(sender)
            elif not message.success:
                self._send(sender, self.source.offer(self.engine.term))
        elif isinstance(message, Fetch):
            if self.leads:
                self._give_base(sender, message, now)
        elif sender == self.engine.leader:
            self.election.postpone(now)
            if isinstance(message, Chunk):
                self.sink.arrived(sender, message)
            elif (fetch := self.sink.offered(sender, message, now)) is not None:
                self._send(sender, fetch)

    def _give_base(self, to: str, fetch: Fetch, now: float) -> None:
        """What ``to`` asks for, once it can be read; if nobody can mend it, another has to lead: ``to`` can't wait."""
        try:
            self._send(to, self.source.answer(to, fetch, now))
        except CorruptEntry as damage:
            index = int(damage.hint or 0)
            if not self.repair.want(index) or self.repair.is_lost(index):
                raise

    @property
    def installed(self) -> bool:
        """Whether the log on disk is another one now; see the module."""
        return self.sink.installed

    def held_index(self, now: float) -> int | None:
        """Where the log should begin at the latest for the sake of followers: of those that are being fed, and of one
        that draws the base, whose base it must stay. None if nobody needs anything."""
        held = self.guard.slowest_match(now, silence_s=self._timing.election_timeout_s)
        if self.source.holds(now):
            return self.journal.first_index
        return held

    # ---------------------------------------------------------------------------------------------------- joining
    def _has_left(self, sender: str) -> bool:
        """By our log, or, as long as that is empty, by what others say."""
        return sender in self.guard.departed or (self.joining is not None and sender in self.joining.departed)

    def _is_deaf_to(self, sender: str, message: PeerMessage, now: float) -> bool:
        """Whether ``message`` is about joining, which is dealt with here, or one that a newcomer must not hear yet."""
        if isinstance(message, Join):
            self._tell(sender, message)
            return True
        if isinstance(message, Joined):
            if self.joining is not None:
                self._take_answer(self.joining, sender, message, now)
            return True
        return self.joining is not None and (not self.joining.heard_enough or isinstance(message, ELECTORAL))

    def _tell(self, newcomer: str, question: Join) -> None:
        members = self.membership
        voters = tuple(sorted((members.current.voters | members.settled.voters) - {newcomer}))
        departed = tuple(name for name in question.peers if name in members.settled.departed)
        last = self.journal.last_index
        if self._newcomers.asked(newcomer, question.number, last):
            self.guard.forget(newcomer)
        votes = newcomer in self.guard.voters
        answer = Joined(self.engine.term, question.number, last <= 1, self.leads, last, votes, voters, departed)
        self._send(newcomer, answer)

    def _take_answer(self, joining: Joining, sender: str, answer: Joined, now: float) -> None:
        heard_enough_before = joining.heard_enough
        joining.answered(sender, answer)
        if joining.heard_enough and not heard_enough_before:
            if 0 < joining.term >= self.engine.term:
                self.engine.abstain(joining.term)
            self._ask_to_join(joining)
        self._joining_moved(now)

    def _joining_moved(self, now: float) -> None:
        """If the way in is at its end, take part from here on; the next write says so."""
        joining = self.joining
        if joining is not None and joining.is_done(term=self.engine.term, reached=self.guard.verified_durable()):
            self.joining = None
            self._joined_due = True
            self.journal.touch()
            self.election.begin(now)

    def _gave_vote(self, term_before: int) -> bool:
        state = self.journal.hard_state
        return state.term > term_before and state.vote is not None and state.vote != self.node

    def _answer_pre_vote(self, sender: str, request: PreVoteRequest, now: float) -> None:
        journal = self.journal
        answer = self.election.answer(
            request,
            now,
            term=self.engine.term,
            leads=self.leads,
            last_index=journal.last_index,
            last_term=journal.last_term,
        )
        self._send(sender, answer)

    def propose(self, command: bytes) -> None:
        """Have ``command`` appended at the next `advance`; `journal.last_index` before and after tells where.

        Only while `may_append`: else the engine would keep it and append it some time later, when its caller has been
        told that it never will (P7).
        """
        self.guard.feeds.grew(len(command))
        self.engine.propose(command)

    def advance(self, now: float) -> None:
        """Let time pass: timers, then one turn of the engine."""
        self._stirred = False
        self.guard.begin(now)
        probe = now >= self._probe_at
        if probe:
            self._probe_at = now + self._timing.heartbeat_s
            self.guard.retry_silent(now, silence_s=self._timing.election_timeout_s)
            if self.engine.leads:
                self.engine.send_soon()
            for peer, question in self.repair.questions(list(self.guard.peers), self.engine.term, now):
                self._send(peer, question)
        if self._may_tick():
            self.engine.tick(now)
            self._follow_members()
        if self.engine.leads:
            self.election.postpone(now)
        elif self.joining is not None:
            if probe:
                self._ask_to_join(self.joining)
        elif now >= self.election.deadline:
            self._ask_for_election(now)
        if self.election.wins(term=self.engine.term) and not self.engine.leads:
            self._campaign(now)
        self.guard.flush_notices(probe=probe)
        self._hand_over(now, probe=probe)
        self._notice_role(now)

    def probe_soon(self) -> None:
        """Let the next `advance` do what is due at every heartbeat: ask all followers whether they have everything."""
        self._probe_at = -math.inf

    @property
    def wants_turn(self) -> bool:
        """Whether `advance` would do anything now, timers aside. What may leave is in the outbox all the same."""
        if self._stirred or self.engine.wants_tick or self.handing_over is not None:
            return True
        # Alone it needs nobody's answer: its own sync commits.
        return self.guard.voters == {self.node} and self._may_tick() and self.engine.commit < self.journal.last_index

    @property
    def may_append(self) -> bool:
        """Whether what is proposed now is appended by the next `advance`, if this node still leads then."""
        return self.engine.leads and self.handing_over is None and self._may_tick()

    def _ask_to_join(self, joining: Joining) -> None:
        for peer in sorted(joining.peers):
            self._send(peer, joining.question(self.engine.term))

    def _may_tick(self) -> bool:
        """Alone, a node is its own majority: the engine may count it only when all it has is on disk (audit 10)."""
        journal = self.journal
        return self.guard.voters != {self.node} or journal.durable_version == journal.version

    def _ask_for_election(self, now: float) -> None:
        self.engine.forget_leader()
        if self.node not in self.guard.voters:
            self.election.rearm(now)
            return
        journal = self.journal
        request = self.election.ask(
            now, term=self.engine.term, last_index=journal.last_index, last_term=journal.last_term
        )
        for peer in sorted(self.guard.voters - {self.node}):
            self._send(peer, request)

    def _campaign(self, now: float) -> None:
        if self.leads or not self._may_tick() or self.node not in self.guard.voters:
            return
        self.guard.feeds.release()
        self.engine.campaign(now)

    def _notice_role(self, now: float) -> None:
        leads = self.engine.leads
        if leads and not self._was_leader:
            self._led_since, self._led_term = now, self.engine.term
        elif self._was_leader and not leads:
            self.guard.feeds.release()
            if self.engine.term == self._led_term:  # nobody took it: too few have answered
                self.guard.call_successor(now, silence_s=self._timing.election_timeout_s)
        self._was_leader = leads

    # ---------------------------------------------------------------------------------------------- membership
    def _follow_members(self) -> None:
        """Go by the newest configuration in the log, from the moment it is there (Raft dissertation, 4.1)."""
        self.membership.committed(self.engine.commit)
        if self.membership.version != self._members_version:
            self._members_version = self.membership.version
            self.guard.set_members(self.membership.current, self.membership.settled.departed)
            self.election.voters = self.guard.voters

    def caught_up_learner(self, now: float) -> str | None:
        """A learner that `keeps_up`; None if there is none."""
        learners = sorted(self.membership.current.learners) if self.leads else []
        return next((name for name in learners if self.keeps_up(name, now)), None)

    def keeps_up(self, name: str, now: float) -> bool:
        """Whether a change of members may count on ``name``, this node being the leader.

        It was heard within an election timeout, said in this term how much it has on disk, lacks no more than may be
        in flight, and, if it came with an empty disk, has what it must have before it votes (`joining`): a change that
        only such a node could help commit might leave a cluster that can't elect a leader.
        """
        if name == self.node:
            return True
        match = self.engine.match_index(name)
        goal = self._newcomers.goal(name)
        heard = now - self.engine.heard_at(name) < self._timing.election_timeout_s
        return heard and match >= max(1, goal) and self.journal.last_index - match < WINDOW_APPENDS_MAX

    def _sent(self, to: str, body: Body) -> None:
        """What the engine says. The entry that removes a member does not go to it: were it lost with its leader, that
        member would belong no more by its own log, and could neither lead nor help another who lacks the entry."""
        if body["type"] != "append_entries" or to in self.membership.current.table:
            self.guard.sent(to, body)

    def why_no_change(self, now: float) -> str | None:
        """What stands against another change of members now; None if nothing does (Raft dissertation, 4.1)."""
        if not self.leads or self.handing_over is not None:
            return "this node does not lead, or not for long"
        if self.membership.index > self.engine.commit:
            return "the last change is not committed yet"
        if self.journal.term(self.engine.commit) != self.engine.term:
            return "nothing is committed in this leader's term yet"  # the erratum: a no-op first
        unheard = sorted(name for name in self.guard.voters - {self.node} if not self.engine.match_index(name))
        if unheard and now - self._led_since < self._timing.election_timeout_s:
            return f"{', '.join(unheard)} did not answer this leader yet"
        return None

    # ------------------------------------------------------------------------------------------------ hand-over
    def transfer(self, to: str, now: float) -> None:
        """Begin to hand leadership to ``to``, a member (Raft dissertation, 3.10); `ValueError` unless this node leads.

        While `handing_over` nothing new may be proposed. Once ``to`` has the whole log on its disk, and all of it is
        applied here, it is told to start its election at once. If it does not lead within an election timeout, or
        is replaced by another call, this node goes on as before.
        """
        if not self.leads or to not in self.guard.voters - {self.node}:
            raise ValueError(f"{self.node} can't hand over to {to}: only a leader can, and to another voter")
        self._handover.begin(to, now)

    @property
    def handing_over(self) -> str | None:
        """Who is to lead next, while this node, the leader, sees to that."""
        return self._handover.to

    def _hand_over(self, now: float, *, probe: bool) -> None:
        to, last = self._handover.to, self.journal.last_index
        if to is not None:
            ready = self.leads and self.engine.applied == last and self.engine.match_index(to) == last
            if self._handover.is_due(now, leads=self.leads, ready=ready, again=probe):
                self._send(to, TimeoutNow(self.engine.term))

    def peer_connected(self, peer: str, now: float) -> None:
        """A new link to ``peer`` is up; what was sent on the old one may be lost."""
        self.guard.reconnected(peer, now)
        if self.joining is not None and peer in self.joining.peers:
            self._send(peer, self.joining.question(self.engine.term))

    def peer_disconnected(self, peer: str) -> None:
        """The link to ``peer`` is gone: it will not take over soon."""
        if self.handing_over == peer:
            self._handover.give_up()

    # ------------------------------------------------------------------------------------------------- the disk
    @property
    def wants_write(self) -> bool:
        """Whether something must reach the disk and no write is under way."""
        due = self.journal.dirty or self.sink.wants_write or self.repair.wants_write
        return due and not self.journal.writing

    def begin_write(self, checkpoint: Checkpoint | None = None, trim: Trim | None = None) -> Writes:
        """All changes so far as one transaction; ``checkpoint`` and ``trim`` may go with it."""
        assert checkpoint is None or checkpoint.applied <= self.engine.commit
        stage, install = self.sink.begin_write()
        if trim is not None:
            self.journal.trim(trim.first)
            self.guard.log_trimmed()
        writes = self.journal.begin_write(checkpoint)
        joined, self._joined_due = self._joined_due, False
        # The store mends before it trims: by what is stored, not by where the log begins behind this write.
        mends = () if install is not None else self.repair.begin_write()
        plain = trim is None and stage is None and install is None and not joined and not mends
        return writes if plain else replace(writes, trim=trim, joined=joined, stage=stage, install=install, mends=mends)

    def end_write(self, now: float) -> None:
        """The transaction is on disk: count it, and let out what waited for it (at the next `take_outbox`)."""
        self.journal.end_write()
        self.repair.end_write()
        asked = self.sink.end_write(self.engine.term, now)
        if asked is not None:
            self._send(*asked)
        if self.installed:
            return
        self.guard.deliver_durable_acks(now)
        self.guard.commit_durable(now)
        self._joining_moved(now)

    # -------------------------------------------------------------------------------------------------- outputs
    def take_outbox(self) -> list[Outgoing]:
        """The messages that may leave now, in order for each peer; the others stay until their sync is done."""
        return self.guard.take_released()

    def next_deadline(self) -> float:
        """When `advance` is due next even if nothing happens."""
        if self.engine.leads or self.joining is not None:
            return min(self._probe_at, self.guard.feeds.paced_until)
        return min(self.election.deadline, self._probe_at)

    @property
    def election_timeout_s(self) -> float:
        """The longest silence before a node asks for an election."""
        return self._timing.election_timeout_s

    @property
    def leads(self) -> bool:
        """See `Engine.leads`."""
        return self.engine.leads

    def _apply_index(self, index: int) -> None:
        self._apply(self.journal.entry(index))

    def _send(self, to: str, message: PeerMessage) -> None:
        self.guard.outbox.append(Outgoing(to, message, 0))
