"""What must hold after every step, checked by what the step changed alone.

| rule | source |
|---|---|
| election safety: one leader a term, elected by votes of a majority; a node votes once a term | Raft 5.2 |
| log matching: same index and term, same entry and same entry before it | Raft 5.3 |
| leader completeness: a leader has every entry committed in an earlier term | Raft 5.4 |
| state-machine safety: one entry at an applied index, one meaning (`ledger`) | Raft 5.4.3 |
| commit never falls, is on this node's disk and on a majority's; applied <= commit | P1, audit 9, 10 |
| no entry that is committed is ever dropped | audit 1 |
| a leader counts for a follower only what is on its disk, and only answers of its term | audit 7, 10 |
| the window, the resends and the back-tracking are bounded | audit 4, 18, 21, 23 |
| who is behind is told the term | audit 16 |
| every ticket is answered | audit 19 |
| only what is committed is trimmed; a snapshot takes the place of no entry that the log goes on with | P1, audit 2-4 |
| a leader counts on nothing that a node had before it lost its disk, once it was told | `raft.joining` |
| a node goes by members that its log sets, and by none that were cut off with their entry | Raft dissertation 4.1 |

Hooks are put on each new core's journal and machine as plain attributes of those objects: the product's code is as it
is on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lanyinglog.machine.commands import NO_OP
from lanyinglog.machine.state_machine import Applied
from lanyinglog.raft.messages import Append, Appended, Committed, Heartbeat, Join, PeerMessage, Vote, VoteRequest
from lanyinglog.store.log_store import entry_crc
from simulator.history import Violation
from simulator.network import check_window

if TYPE_CHECKING:
    from simulator.node import Node
    from simulator.world import World


FIRST_CRC = entry_crc(1, 0, NO_OP)


class Seen:
    """What was last seen of one life of a node."""

    def __init__(self) -> None:
        self.commit = 0
        self.durable = 0
        self.log: list[tuple[int, int]] = [(0, FIRST_CRC)]
        """(term, CRC) of each entry of its log, from index 1 on, those that are trimmed as they were committed:
        looking here reads nothing from the product."""
        self.members_by: tuple[int, tuple[int, int] | None] = (-1, None)
        """The version of the members by which the node goes, and the entry that set them, as in ``log``."""
        self.dropped = False
        self.told_wipes: dict[str, int] = {}
        """Peer -> how often it had lost its disk when it last said so."""
        self.wrote_nothing = False
        self.led_term = 0
        self.matches: dict[str, int] = {}
        self.rewound: dict[str, int] = {}
        self.sent_to: dict[str, int] = {}
        self.back_tracks: dict[tuple[str, int], list[int]] = {}


class Invariants:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[str, Seen] = {}
        self._leaders: dict[int, str] = {}
        self._votes: dict[tuple[str, int], str] = {}  # voter, term -> for whom
        self._entries: dict[tuple[int, int], tuple[int, int]] = {}  # index, term -> CRC, term of the entry before
        self._stood_before_wipe: dict[tuple[str, int], int] = {}  # candidate, term -> how often its disk was lost then
        self._rewound_before = 0
        self._counted_before: tuple[int, int] | None = None
        self._wipes_told: dict[int, int] = {}  # number of a `Join` -> how often its sender had lost its disk
        self.committed: list[tuple[int, int]] = []
        """(term, CRC) of each entry that any node knew to be committed, from index 1 on."""
        self._committed_in: list[int] = []  # the term in which a node knew so first: a later one than the entry's own
        self.elections = 0

    # ------------------------------------------------------------------------------------------------------ hooks
    def node_started(self, node: Node) -> None:
        """Watch a new life."""
        self._seen[node.name] = Seen()
        journal, machine = node.core.replica.journal, node.core.machine
        add, drop, apply = journal.add, journal.deleteEntriesFrom, machine.apply

        def watched_add(command: bytes, idx: int, term: int) -> None:
            add(command, idx, term)
            self._appended(node, idx, term, entry_crc(idx, term, command))

        def watched_drop(place: int) -> None:
            log = self._seen[node.name].log
            for index in range(journal.first_index + place, len(log) + 1):
                self._dropped(node, index, log[index - 1][0])
            del log[journal.first_index + place - 1 :]
            self._seen[node.name].dropped = True
            drop(place)

        def watched_apply(index: int, command: bytes) -> Applied:
            applied = apply(index, command)
            self._world.ledger.applied(node, journal.entry(index), applied)
            return applied

        journal.add = watched_add  # type: ignore[method-assign]
        journal.deleteEntriesFrom = watched_drop  # type: ignore[method-assign]
        machine.apply = watched_apply  # type: ignore[method-assign]
        self._check_start(node)

    def node_renewed(self, node: Node) -> None:
        """A snapshot has replaced the log of ``node``: a new life, which knows no less than the old one."""
        commit = self._seen[node.name].commit
        self.node_started(node)
        now = node.core.replica.engine.commit
        if now < commit:
            words = f"{node.name} had committed {commit}; by the snapshot it is {now}"
            raise Violation("commit never falls", words, ("node", node.name), ("entry", commit))

    def _check_start(self, node: Node) -> None:
        """What a node finds on its disk is what it, or nobody, wrote."""
        journal, machine = node.core.replica.journal, node.core.machine
        log = self._seen[node.name].log
        first = node.disk.first
        if journal.first_index != first or first - 1 > len(self.committed):
            words = f"{node.name} starts at entry {journal.first_index}; its disk begins at {first}"
            raise Violation("only the committed is trimmed", words, ("node", node.name), ("entry", first))
        log[1:] = self.committed[1 : first - 1]
        for index in range(max(2, first), node.disk.last + 1):
            term, crc = node.disk.synced[index]
            self._check_entry(node, index, term, crc, log[-1][0])
            log.append((term, crc))
        if journal.last_index != max(1, node.disk.last):
            words = f"{node.name} starts with {journal.last_index} entries; {node.disk.last} were on its disk"
            raise Violation("P1 durable", words, ("node", node.name))
        entries = self._world.ledger.entries
        if 0 < machine.applied <= len(entries):
            record = entries[machine.applied - 1].applied.record
            if machine.last_seq != record.first_seq + record.count - 1:
                words = f"{node.name} starts at entry {machine.applied} with seq {machine.last_seq}, it was {record}"
                raise Violation("state-machine safety", words, ("node", node.name), ("entry", machine.applied))

    def _appended(self, node: Node, index: int, term: int, crc: int) -> None:
        log = self._seen[node.name].log
        before = log[-1][0]
        self._entries.setdefault((index, term), (crc, before))
        self._check_entry(node, index, term, crc, before)
        log.append((term, crc))

    def _check_entry(self, node: Node, index: int, term: int, crc: int, before: int) -> None:
        if self._entries.get((index, term)) != (crc, before):
            words = f"entry {index} of term {term} differs on {node.name} from the same entry elsewhere"
            raise Violation("log matching", words, ("entry", index), ("node", node.name))

    def _dropped(self, node: Node, index: int, term: int) -> None:
        if index <= len(self.committed) and self.committed[index - 1][0] == term:
            words = f"{node.name} drops entry {index} of term {term}, which is committed"
            raise Violation("committed entries stay", words, ("entry", index))

    # ------------------------------------------------------------------------------------------------------ steps
    def check(self, node: Node) -> None:
        """``node`` has taken a step."""
        seen = self._seen[node.name]
        core = node.core
        replica = core.replica
        commit = replica.engine.commit
        if commit != seen.commit:
            self._check_commit(node, seen, commit)
        if core.machine.applied > commit:
            words = f"{node.name} applied {core.machine.applied}, committed is {commit}"
            raise Violation("applied <= commit", words, ("entry", commit + 1))
        durable = replica.journal.durable_index
        if durable != seen.durable:
            seen.durable = durable
            if durable > max(1, node.disk.last):
                words = f"{node.name} takes entry {durable} for durable, its disk ends at {node.disk.last}"
                raise Violation("durable is on disk", words, ("entry", durable))
        self._check_members(node, seen)
        if replica.leads:
            self._check_leader(node, seen)
        node.doors.check_tickets()

    def _check_members(self, node: Node, seen: Seen) -> None:
        membership = node.core.replica.membership
        index = membership.index
        members_by = membership.version, seen.log[index - 1] if 0 < index <= len(seen.log) else None
        if seen.dropped and membership.version == seen.members_by[0] and members_by != seen.members_by:
            words = f"{node.name} dropped entry {index}, and goes by the members which it set"
            raise Violation("members are of the log", words, ("node", node.name), ("entry", index))
        seen.members_by, seen.dropped = members_by, False

    def _check_commit(self, node: Node, seen: Seen, commit: int) -> None:
        if commit < seen.commit:
            words = f"commit of {node.name} falls from {seen.commit} to {commit}"
            raise Violation("commit never falls", words, ("node", node.name), ("entry", commit + 1))
        if commit > len(seen.log):
            words = f"{node.name} has committed {commit}, its log ends at {len(seen.log)}"
            raise Violation("commit <= last", words, ("node", node.name))
        if commit > max(1, node.disk.last) + self._own_no_op(node, commit):
            words = f"{node.name} has committed {commit}, its disk ends at {node.disk.last}"
            raise Violation("commit <= durable", words, ("entry", commit), ("node", node.name))
        seen.commit = commit
        if node.core.replica.leads and seen.led_term == node.core.replica.engine.term and commit <= len(seen.log):
            term = seen.log[commit - 1][0]
            if term != seen.led_term:
                words = (
                    f"{node.name} leads in term {seen.led_term} and commits entry {commit} of term {term} by counting"
                )
                raise Violation("Raft 5.4.2", words, ("entry", commit), ("term", term))
        while len(self.committed) < commit:
            index = len(self.committed) + 1
            term, crc = seen.log[index - 1]
            if index > 1 and not self._own_no_op(node, index):
                self.check_durable(node, index, term, crc, f"commits entry {index}")
            self.committed.append((term, crc))
            self._committed_in.append(node.core.replica.engine.term)

    def _own_no_op(self, node: Node, index: int) -> bool:
        """A node that is alone commits the no-op of its election with it, before its sync. It holds no message, nothing
        of it leaves the node, and all before it is on the disk; so the engine is left to do so."""
        term, crc = self._seen[node.name].log[index - 1]
        alone = node.core.replica.guard.voters == {node.name}
        return alone and crc == entry_crc(index, term, NO_OP)

    def check_durable(self, node: Node, index: int, term: int, crc: int, what: str) -> None:
        """Entry ``index`` is on the disks of a majority of the members by whom ``node``, a leader, decides, or of those
        it had before their last change."""
        membership = node.core.replica.membership
        nodes = self._world.nodes.items()
        holders = {name for name, other in nodes if self._holds(other, index, (term, crc))}
        for voters in (membership.current.voters, membership.settled.voters):
            if 2 * len(holders & voters) > len(voters):
                return
        words = f"{node.name} {what}; entry {index} of term {term} is on disk on {sorted(holders)} of {sorted(voters)}"
        raise Violation("P1 durable", words, ("entry", index))

    def _holds(self, node: Node, index: int, entry: tuple[int, int]) -> bool:
        """A disk that was lost counts: it had the entry when the node said so, and none but one is lost at a time."""
        return node.disk.held(index, entry)

    # ---------------------------------------------------------------------------------------------------- leaders
    def _check_leader(self, node: Node, seen: Seen) -> None:
        engine, guard = node.core.replica.engine, node.core.replica.guard
        term = engine.term
        if term != seen.led_term:
            seen.led_term = term
            seen.matches, seen.rewound, seen.sent_to = {}, {}, {}
            self._elected(node, term)
        for peer in guard.peers:
            match = engine.match_index(peer)
            if match != seen.matches.get(peer, 0):
                seen.matches[peer] = match
                self._check_match(node, peer, match)
            follower = guard.feeds.followers.get(peer)
            if follower is not None:
                check_window(node.name, peer, len(follower.in_flight))

    def _elected(self, node: Node, term: int) -> None:
        other = self._leaders.setdefault(term, node.name)
        if other != node.name:
            words = f"{node.name} and {other} both lead in term {term}"
            raise Violation("election safety", words, ("term", term), ("node", node.name), ("node", other))
        self.elections += 1
        self._world.note("leads", ("node", node.name), ("term", term))
        voters = {voter for (voter, voted), whom in self._votes.items() if voted == term and whom == node.name}
        members = node.core.replica.guard.voters
        if 2 * len((voters | {node.name}) & members) <= len(members):
            words = f"{node.name} leads in term {term} by votes of {sorted(voters)}"
            raise Violation("election safety", words, ("term", term), ("node", node.name))
        log = self._seen[node.name].log
        for index in range(len(self.committed), 0, -1):
            committed_in = self._committed_in[index - 1]
            if committed_in < term:
                if index > len(log) or log[index - 1][0] != self.committed[index - 1][0]:
                    words = f"{node.name} leads in term {term} without entry {index}, committed in {committed_in}"
                    raise Violation("leader completeness", words, ("entry", index), ("term", term))
                break

    def _check_match(self, node: Node, peer: str, match: int) -> None:
        if match <= 1:
            return
        log, disk = self._seen[node.name].log, self._world.nodes[peer].disk
        if disk.hard.term > node.core.replica.engine.term:
            return  # it follows another by now: this leader's time is over, and it can commit no more with this one
        told = self._seen[node.name].told_wipes.get(peer, 0) == disk.wipes
        if match > len(log) or not (disk.holds if told else disk.held)(match, log[match - 1]):
            words = f"{node.name} counts {peer} for entry {match}, which is not on that disk"
            raise Violation("a leader counts what is on disk", words, ("entry", match), ("node", peer))

    def _check_forgets(self, node: Node, newcomer: str, wipes: int) -> None:
        """``newcomer`` told that it lost its disk so often: what it had is not counted on any more."""
        seen, disk = self._seen[node.name], self._world.nodes[newcomer].disk
        seen.told_wipes[newcomer] = wipes
        match = node.core.replica.engine.match_index(newcomer)
        if wipes == disk.wipes and match > 1 and not disk.holds(match, seen.log[match - 1]):
            words = f"{node.name} counts {newcomer} for entry {match}, though it said that it lost its disk"
            raise Violation("a leader counts what is on disk", words, ("entry", match), ("node", newcomer))

    def check_write(self, node: Node, *, is_empty: bool) -> None:
        """A transaction begins. One with nothing in it may come of entries that were dropped at once, but not two."""
        seen = self._seen[node.name]
        if is_empty and seen.wrote_nothing:
            raise Violation("writes say something", f"{node.name} writes nothing twice", ("node", node.name))
        seen.wrote_nothing = is_empty

    def check_install(self, node: Node, first: int) -> None:
        """A snapshot is about to take the place of the log of ``node``; it ends with entry ``first`` + 1."""
        if first + 1 > len(self.committed):
            words = f"{node.name} installs a snapshot up to entry {first + 1}, committed are {len(self.committed)}"
            raise Violation("snapshots are committed", words, ("node", node.name), ("entry", first + 1))
        disk = node.disk
        if disk.last > first and disk.holds(first + 1, self.committed[first]):
            words = f"{node.name} drops entries up to {disk.last} for a snapshot that ends at {first + 1}"
            raise Violation("committed entries stay", words, ("node", node.name), ("entry", first + 1))

    def fed(self, node: Node) -> tuple[int, list[str]]:
        """The end of a leader's log, and the followers to whom it has sent all of that."""
        replica = node.core.replica
        if not replica.leads:
            return 0, []
        last, feeds = replica.journal.last_index, replica.guard.feeds.followers
        return last, [name for name in feeds if replica.engine.next_index(name) > last and not feeds[name].paused]

    def check_fed(self, node: Node, last: int, fed: list[str]) -> None:
        """Audit 25: what a turn appends leaves in that turn. In one that appends nothing, what is in flight may be
        taken back, to be sent again in the next."""
        replica = node.core.replica
        for name in fed:
            follower = replica.guard.feeds.followers.get(name)
            if follower is None or follower.paused or not replica.leads or replica.journal.last_index == last:
                continue
            if replica.engine.next_index(name) <= replica.journal.last_index:
                words = f"{node.name} has entry {replica.journal.last_index} and sent {name} nothing in that turn"
                raise Violation("entries leave at once", words, ("node", node.name), ("node", name))

    def check_idle(self, node: Node) -> None:
        """What `wants_turn` says: a turn now would decide nothing. What is due by time alone is not spoken of."""
        core, replica = node.core, node.core.replica
        if node.now >= core.next_deadline():
            return

        def decided() -> tuple[object, ...]:
            engine = replica.engine
            return engine.term, engine.role, engine.leader, engine.commit, engine.applied, core.batcher.in_flight

        before = decided()
        led = replica.leads
        core.advance(node.now, node.clock.wall_ns(self._world.schedule.now))
        if decided() != before and replica.leads == led:  # a leader steps down when it has heard nobody for long enough
            words = f"{node.name} wants no turn, and one made {decided()} of {before}"
            raise Violation("no turn is missed", words, ("node", node.name))

    # --------------------------------------------------------------------------------------------------- messages
    def leaving(self, node: Node, to: str, message: PeerMessage) -> None:
        """``message`` leaves ``node``."""
        if isinstance(message, Vote):
            self._vote(node, message.term, to)
        elif isinstance(message, VoteRequest):
            self._vote(node, message.term, node.name)
        elif isinstance(message, Appended) and message.success:
            self._check_answer(node, to, message)
        elif isinstance(message, Join):
            self._wipes_told[message.number] = node.disk.wipes
        elif isinstance(message, Append) and message.entries:
            self._check_resend(node, to, message)
        elif isinstance(message, Appended) and not message.success:
            self._check_back_track(node, to, message)

    def _vote(self, node: Node, term: int, candidate: str) -> None:
        """A vote leaves: it is the only one in its term, and on the disk.

        A vote for itself that nobody answered may be forgotten with the disk: the process that counted it is gone, and
        whoever answers it says so with a term, which the newcomer takes without a vote (`raft.joining`)."""
        voter = node.name
        stood = self._votes.get((voter, term)) == voter and self._leaders.get(term) != voter
        if stood and node.disk.wipes > self._stood_before_wipe[voter, term]:
            del self._votes[voter, term]
        if candidate == voter:
            self._stood_before_wipe[voter, term] = node.disk.wipes
        other = self._votes.setdefault((voter, term), candidate)
        if other != candidate:
            words = f"{voter} votes for {candidate} in term {term}, and for {other}"
            raise Violation("one vote a term", words, ("term", term), ("node", voter))
        hard = node.disk.hard
        if hard.term < term or (hard.term == term and hard.vote != candidate):
            words = f"{voter} votes for {candidate} in term {term}; its disk says {hard.vote} in term {hard.term}"
            raise Violation("sync, then speak", words, ("term", term), ("node", voter))

    def _check_answer(self, node: Node, to: str, message: Appended) -> None:
        """A success leaves: what it says is on the disk."""
        log, match = self._seen[node.name].log, message.match
        if message.term != node.core.replica.engine.term or match <= 1:
            return  # of an earlier term: what it says may be cut off by now, and its reader knows
        if match > len(log) or not node.disk.holds(match, log[match - 1]):
            words = f"{node.name} tells {to} that it has entry {match}, and it is not on its disk"
            raise Violation("sync, then speak", words, ("entry", match), ("node", node.name))

    def _check_resend(self, node: Node, to: str, message: Append) -> None:
        """Audit 23: within a term nothing goes twice unless a refusal, a new link or silence asks for it."""
        seen = self._seen[node.name]
        follower = node.core.replica.guard.feeds.followers.get(to)
        if follower is None or message.term != seen.led_term:
            return
        if seen.rewound.get(to) != follower.rewound_at:
            seen.rewound[to] = follower.rewound_at
            seen.sent_to[to] = 0
        if message.number < follower.rewound_at:
            return
        if message.prev_index < seen.sent_to.get(to, 0):
            words = f"{node.name} sends entry {message.prev_index + 1} to {to} again, and nothing asked for it"
            raise Violation("nothing goes twice", words, ("entry", message.prev_index + 1), ("node", to))
        seen.sent_to[to] = message.entries[-1].index

    def _check_back_track(self, node: Node, to: str, message: Appended) -> None:
        """Audit 18: a refusal goes back over a whole term, so a follower refuses no more often than it has terms."""
        seen = self._seen[node.name]
        tracks = seen.back_tracks.setdefault((to, message.term), [])
        if not tracks or message.next < tracks[-1]:
            tracks.append(message.next)
            terms = {term for term, _ in seen.log}
            if len(tracks) > len(terms) + 2:
                words = f"{node.name} refuses at {tracks}, going back for {to}; its log has {len(terms)} terms"
                raise Violation("fast back-tracking", words, ("node", node.name), ("node", to))
        elif message.next > tracks[-1]:
            tracks.clear()

    def before_receive(self, node: Node, sender: str, message: PeerMessage) -> None:
        """``node`` is about to take ``message``."""
        if isinstance(message, Appended) and message.term < node.core.replica.engine.term:
            self._counted_before = self._counted(node, sender)
        if isinstance(message, Appended) and not message.success:
            follower = node.core.replica.guard.feeds.followers.get(sender)
            self._rewound_before = 0 if follower is None else follower.rewound_at

    @staticmethod
    def _counted(node: Node, peer: str) -> tuple[int, int] | None:
        """What a leader counts for ``peer``, and what it will when its own sync is done."""
        replica = node.core.replica
        follower = replica.guard.feeds.followers.get(peer)
        return (replica.engine.match_index(peer), follower.acked) if replica.leads and follower else None

    def after_receive(self, node: Node, sender: str, message: Any) -> None:
        """``node`` has taken ``message``."""
        replica = node.core.replica
        if isinstance(message, Join) and replica.leads:
            self._check_forgets(node, sender, self._wipes_told[message.number])
        if isinstance(message, Appended) and not message.success:
            follower = replica.guard.feeds.followers.get(sender)
            if follower and follower.rewound_at != self._rewound_before and message.number < self._rewound_before:
                words = (
                    f"{node.name} goes back for {sender} by an answer to append {message.number}, sent before the last"
                )
                raise Violation("stale refusals", words, ("node", node.name), ("node", sender))
        if isinstance(message, Appended) and message.term < replica.engine.term:
            before, self._counted_before = self._counted_before, None
            if before not in (None, self._counted(node, sender)):
                words = f"{node.name} leads in term {replica.engine.term} and counts an answer of term {message.term}"
                raise Violation("answers count in their term", words, ("node", node.name), ("node", sender))
        # A newcomer speaks of its own accord; who has left is not heard; who has a new snapshot on disk begins anew.
        begins_anew = node.installing or replica.installed
        is_deaf = begins_anew or replica.joining is not None or sender in replica.guard.departed
        is_late = isinstance(message, Append | Heartbeat | Committed | VoteRequest)
        if is_late and not is_deaf and message.term < replica.engine.term:
            outbox = replica.guard.outbox
            if not any(one.to == sender and one.message.term >= replica.engine.term for one in outbox):
                words = f"{node.name} does not tell {sender}, in term {message.term}, of term {replica.engine.term}"
                raise Violation("who is behind is told", words, ("node", node.name), ("node", sender))
