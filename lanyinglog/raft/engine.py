"""PySyncObj 0.3.17 as a step function: the one module that knows it.

The engine decides who leads and what is committed. It is driven, not trusted: this module takes away its thread, its
sockets, its clock, its files and its pickle, and `guard` stands between it and the peers. What is taken away here,
and by which hook (numbers are those of docs/engine.md):

| correction | hook |
|---|---|
| 10 journal that syncs | the module's ``createJournal`` returns the journal given as ``conf.journalFile`` |
| 12 a raising command wedges every node | ``__doApplyCommand`` is replaced: bytes go to a total function, no pickle |
| 15 no pre-vote | timeouts beyond any run; an election starts only by `campaign` |
| (ours) a restart applies all again | ``__raftLastApplied`` starts at the caller's applied index |
| 5, 6 unguarded change of members | off; `set_members` gives it the members that `membership` derives from the log |
| 19 callbacks that never fire | none are given: the caller matches ``(index, term)`` |
| 21 sends without end | ``send`` may `pause` a node in the middle of the engine's send loop |
| 23 each reply rewinds what is in flight | `set_next_index` |
| 27 pickle and utility commands | the module's ``pickle`` raises; the transport has no utility port |

It leans on private names. `AUDITED_SHA256` is the source they were read from; another source stops the node at start,
and a test says which name moved.

Not safe to share between threads. ``now`` is seconds on the caller's monotonic clock.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import partial
from typing import Any, Protocol

import pysyncobj.syncobj as _module
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from lanyinglog.errors import StoreError

AUDITED_VERSION = "0.3.17"
AUDITED_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

APPEND_BYTES_MAX = 5 << 20
"""Where the engine stops adding entries to one message. Above the largest entry (4 MiB), or else the engine would cut
an entry into transmissions that do not survive it (audit 22)."""
_NEVER_S = 1e8

Body = Mapping[str, Any]
"""A message in the engine's own words."""


class Role(StrEnum):
    """What a node is to its log; ``unreachable`` is what others say of it."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


_ROLES = (Role.FOLLOWER, Role.CANDIDATE, Role.LEADER)
_LEADER = _ROLES.index(Role.LEADER)


class EngineJournal(Protocol):
    """What the engine needs of a log; `journal.Journal` is the one."""

    def __len__(self) -> int: ...
    def add(self, command: bytes, idx: int, term: int) -> None: ...


class _NoPickle:
    """Stands where the engine's module had pickle (audit 27): nothing a peer or a disk says becomes code."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"pickle.{name} was called: no pickle in this product")


class _NullPoller:
    """The engine polls no sockets: it has none."""

    def subscribe(self, *_: object) -> None: ...
    def unsubscribe(self, *_: object) -> None: ...
    def poll(self, timeout: float) -> None: ...


class _Clock:
    now = 0.0


_clock = _Clock()


def _install_hooks() -> None:
    _module.createJournal = lambda journal: journal
    _module.createPoller = lambda kind: _NullPoller()
    _module.PIPE_NOTIFIER_ENABLED = False
    _module.monotonicTime = partial(getattr, _clock, "now")  # called without a frame of its own
    _module.pickle = _NoPickle()


def check_audited() -> None:
    """`StoreError` unless the installed engine is the one that was audited, to the byte."""
    source = inspect.getsource(_module).encode()
    found = hashlib.sha256(source).hexdigest()
    if found != AUDITED_SHA256:
        raise StoreError(
            f"pysyncobj {_module.VERSION} is installed, but its syncobj.py (sha256 {found}) is not the audited source"
            f" of {AUDITED_VERSION}: install pysyncobj=={AUDITED_VERSION}"
        )


class EngineNode(str, Node):  # type: ignore[misc]  # pysyncobj is untyped
    """A `Node` that is its own name: the engine keeps all it knows in tables of nodes, and looks there sixty times an
    entry. A string is hashed and compared without a call."""

    def __init__(self, name: str) -> None:
        Node.__init__(self, name)
        self.name = name


class _Seam(Transport):  # type: ignore[misc]  # pysyncobj is untyped
    """The engine's transport: hands what it sends to ``send``; connects and disconnects as the guard says."""

    ready = True

    def __init__(self, send: Callable[[str, Body], None]) -> None:
        super().__init__(None, None, [])
        self._send = send

    def send(self, node: EngineNode, message: Body) -> None:
        self._send(node.name, message)

    def tryGetReady(self) -> None: ...
    def waitReady(self) -> None: ...
    def addNode(self, node: Node) -> None: ...
    def dropNode(self, node: Node) -> None: ...
    def destroy(self) -> None: ...

    def deliver(self, node: Node, message: Body) -> None:
        self._onMessageReceived(node, message)

    def connect(self, node: Node) -> None:
        self._onNodeConnected(node)

    def disconnect(self, node: Node) -> None:
        self._onNodeDisconnected(node)


class _Core(SyncObj):  # type: ignore[misc]  # pysyncobj is untyped
    """SyncObj with its apply step replaced. Attributes with ``_SyncObj__`` are the engine's private names."""

    def __init__(self, apply: Callable[[int], None], **kwargs: Any) -> None:
        self._lanying_apply = apply
        super().__init__(**kwargs)

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        self._lanying_apply(self._SyncObj__raftLastApplied + 1)


class Engine:
    """One node's engine for one log.

    ``send(node id, message)`` is called in the middle of a step with what the engine wants to say. ``apply(index)`` is
    called for each committed entry, in order, once; it must not raise. ``applied`` is the index the caller's state
    machine already has (at least 1: entry 1 is the same no-op everywhere).
    """

    def __init__(
        self,
        *,
        node: str,
        members: Iterable[str],
        journal: EngineJournal,
        applied: int,
        send: Callable[[str, Body], None],
        apply: Callable[[int], None],
        heartbeat_s: float,
        quorum_timeout_s: float,
        now: float,
    ) -> None:
        assert applied >= 1
        _clock.now = now
        self._self = node
        self._nodes = {name: EngineNode(name) for name in sorted({*members, node})}
        self._seam = _Seam(send)
        conf = SyncObjConf(
            autoTick=False,
            journalFile=journal,
            appendEntriesUseBatch=False,  # an entry is a group commit already: no second timer (audit 25)
            appendEntriesPeriod=heartbeat_s,
            appendEntriesBatchSizeBytes=APPEND_BYTES_MAX,
            leaderFallbackTimeout=quorum_timeout_s,
            raftMinTimeout=_NEVER_S,
            raftMaxTimeout=2 * _NEVER_S,
            connectionTimeout=3 * _NEVER_S,
            logCompactionMinEntries=1 << 62,  # retention is the log's own business
            logCompactionMinTime=3 * _NEVER_S,
            commandsWaitLeader=False,
            dynamicMembershipChange=False,
        )
        self._core = _Core(
            apply,
            selfNode=self._nodes[node],
            otherNodes=[other for name, other in self._nodes.items() if name != node],
            conf=conf,
            transport=self._seam,
        )
        self._core._SyncObj__raftLastApplied = applied
        self._restless = True
        for name in self._nodes:
            if name != node:
                self.resume(name)

    # --------------------------------------------------------------------------------------------------- inputs
    def receive(self, sender: str, message: Body, now: float) -> None:
        """A message in the engine's own words from ``sender``. Only the guard calls this."""
        _clock.now = now
        core = self._core
        before = core._SyncObj__raftState, core._SyncObj__raftLeader
        self._seam.deliver(self._node(sender), message)
        kind = message["type"]
        if kind == "next_node_idx":  # an answer moves something only by what it says to be on a disk
            self._restless |= message["success"] and message["next_node_idx"] > self.commit + 1
        elif kind != "append_entries" or before != (core._SyncObj__raftState, core._SyncObj__raftLeader):
            self._restless = True  # what an append commits is seen without that

    def heard(self, node: str, now: float) -> None:
        """``node`` gave a sign of life: what an answer of it does that says no more than that. On the leader only."""
        self._core._SyncObj__lastResponseTime[self._node(node)] = now

    def tick(self, now: float) -> None:
        """One turn: commit, apply, send, take proposals."""
        _clock.now = now
        self._restless = False
        self._core.doTick(0)

    @property
    def wants_tick(self) -> bool:
        """Whether a `tick` would do anything now, timers aside."""
        return self._restless or self.commit > self.applied

    def propose(self, command: bytes) -> None:
        """Queue ``command``; the next `tick` appends it if this node still leads, and drops it if not."""
        self._restless = True
        self._core._applyCommand(command, None)

    def campaign(self, now: float) -> None:
        """Start an election now: the engine's own answer to a leader that hands over (``timeout_now``)."""
        _clock.now = now
        self._restless = True
        leader = self._core._getLeader()
        self._core._SyncObj__onMessageReceived(leader, {"type": "timeout_now", "term": self.term})
        self._core.doTick(0)

    def set_members(self, voters: Iterable[str], learners: Iterable[str]) -> None:
        """Who is sent entries, and whose answers count: the voters'. This node counts itself, so it may not lead
        unless it is a voter. Not in the middle of a step."""
        self._restless = True
        core = self._core
        others = {self._node(name) for name in sorted(voters) if name != self._self}
        silent = {self._node(name) for name in sorted(learners) if name != self._self}
        before = core._SyncObj__otherNodes | core._SyncObj__readonlyNodes
        for node in before - others - silent:
            self._seam.disconnect(node)
            core._SyncObj__raftNextIndex.pop(node, None)
            core._SyncObj__raftMatchIndex.pop(node, None)
        for node in (others | silent) - before:
            core._SyncObj__raftNextIndex[node] = core._SyncObj__getCurrentLogIndex() + 1
            core._SyncObj__raftMatchIndex[node] = 0
            self._seam.connect(node)
        for node in (others | silent) - before:
            core._SyncObj__lastResponseTime[node] = _clock.now
        core._SyncObj__otherNodes = others
        core._SyncObj__readonlyNodes = silent

    def forget_leader(self) -> None:
        """The leader went silent: there is none until one is heard."""
        if not self.leads:
            self._core._SyncObj__raftLeader = None

    def pause(self, node: str) -> None:
        """Send ``node`` nothing more: its window is full."""
        self._seam.disconnect(self._node(node))

    def resume(self, node: str) -> None:
        """Send to ``node`` again."""
        self._restless = True
        self._seam.connect(self._node(node))

    def send_soon(self) -> None:
        """Let the next `tick` send to all followers, not waiting for the heartbeat."""
        self._restless = True
        self._core._SyncObj__newAppendEntriesTime = 0

    def set_next_index(self, node: str, index: int) -> None:
        """The next entry to send to ``node``."""
        self._core._SyncObj__raftNextIndex[self._node(node)] = index

    def forget_match(self, node: str) -> None:
        """Nothing is known to be on ``node``'s disk."""
        self._core._SyncObj__raftMatchIndex[self._node(node)] = 0

    def abstain(self, term: int) -> None:
        """Take ``term``, at least this node's own, and vote for nobody else in it."""
        assert term >= self.term and self.role is Role.FOLLOWER
        self._core._SyncObj__setCurrentTerm(term, self._self)

    # --------------------------------------------------------------------------------------------------- outputs
    @property
    def role(self) -> Role:
        return _ROLES[self._core._SyncObj__raftState]

    @property
    def leads(self) -> bool:
        """Whether this node is the leader, as far as it knows."""
        state: int = self._core._SyncObj__raftState
        return state == _LEADER

    @property
    def term(self) -> int:
        term: int = self._core._SyncObj__raftCurrentTerm
        return term

    @property
    def leader(self) -> str | None:
        """Who leads, as far as this node knows."""
        leader: EngineNode | None = self._core._SyncObj__raftLeader
        return None if leader is None else leader.name

    @property
    def commit(self) -> int:
        commit: int = self._core._SyncObj__raftCommitIndex
        return commit

    @property
    def applied(self) -> int:
        applied: int = self._core._SyncObj__raftLastApplied
        return applied

    def next_index(self, node: str) -> int:
        """On the leader: the next entry to send to ``node``."""
        index: int = self._core._SyncObj__raftNextIndex[self._nodes[node]]
        return index

    def heard_at(self, node: str) -> float:
        """On the leader: when ``node`` last gave a sign of life; a new leader, or a new member, begins as heard."""
        at: float = self._core._SyncObj__lastResponseTime.get(self._nodes.get(node), 0.0)
        return at

    def match_index(self, node: str) -> int:
        """On the leader: the last entry known to be on ``node``'s disk."""
        index: int = self._core._SyncObj__raftMatchIndex.get(self._nodes.get(node), 0)
        return index

    def _node(self, name: str) -> EngineNode:
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = EngineNode(name)
        return node


_install_hooks()
