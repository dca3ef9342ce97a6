"""The nodes of a run: real processes of the installed program, started, hurt and looked at from outside.

What the suite does to a node it notes here, so that a node that ends *without* having been told to is noticed
(`unexpected_ends`): a node that dies of a fault it should survive is a finding.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lanyinglog.cli.processes import TIE_VARIABLE, node_environment
from lanyinglog.cli.rollcall import ask
from lanyinglog.config import Address
from lanyinglog.errors import LanyingError
from suite.disks import Disk
from suite.places import Cables, Place

ASK_S = 0.5
STOP_S_MAX = 40.0
LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True, slots=True)
class End:
    """A node's process ended although nobody had told it to."""

    node: str
    at_ns: int
    code: int


class Node:
    """One node: its place, its disk and, while it runs, its process."""

    def __init__(self, place: Place, directory: Path, disk: Disk) -> None:
        self.name = place.node
        self.place = place
        self.directory = directory
        self.disk = disk
        self.process: subprocess.Popen[bytes] | None = None
        self.paused = False
        self.may_end = False
        """Whether its end is no surprise: its disk is damaged or broken just now."""
        self.struck = False
        """Whether this end is the suite's doing."""
        self.joins = False
        """Whether it is new, and has still to be taken in."""

    @property
    def log_file(self) -> Path:
        return self.directory / "node.log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Cluster:
    """See the module. All methods block, none for longer than a node takes to start or stop."""

    def __init__(
        self,
        places: Sequence[Place],
        directory: Path,
        disks: dict[str, Disk],
        cables: Cables | None,
        defect: str | None,
        *,
        spares: int = 0,
    ) -> None:
        everyone = {place.node: Node(place, directory / place.node, disks[place.node]) for place in places}
        self.everyone = everyone
        """Members, those that may become some (the last ``spares`` of ``places``), and those that were."""
        members = len(everyone) - spares
        self.nodes = dict(list(everyone.items())[:members])
        """The members, also one that is to join; replaced, never changed, for faults look at it meanwhile."""
        self._spares = list(everyone.values())[members:]
        self.memberships = [(time.monotonic_ns(), frozenset(self.nodes))]
        """Who belonged, and since when (ns of the monotonic clock)."""
        self.cables = cables
        self._defect = defect or "-"
        self._tie, self._tie_held = os.pipe()
        # A node ends with its parent, and to the kernel that is the thread that started it: faults come and go.
        self._starter = ThreadPoolExecutor(max_workers=1)
        self._lock = threading.RLock()
        """Faults are threads: who starts a node, ends it or notices its end holds this meanwhile."""
        self.ends: list[End] = []
        secret = directory / "cluster.secret"
        secret.touch(0o600)
        secret.write_text(secrets.token_hex(32))
        for node in everyone.values():
            self._write_routes(node)

    @property
    def names(self) -> list[str]:
        return list(self.nodes)

    @property
    def majority(self) -> int:
        return len(self.nodes) // 2 + 1

    def _write_routes(self, node: Node) -> None:
        routes = {_text(self.everyone[other].place.peer): relay for other, relay in node.place.relays.items()}
        (node.directory / "routes.json").write_text(json.dumps(routes))

    def _write_settings(self, node: Node) -> None:
        """As an operator has it who keeps the settings true to who belongs."""
        place = node.place
        lines = [
            f'node = "{node.name}"',
            'data = "data"',
            f'client_listen = "{_text(place.client)}"',
            f'peer_listen = "{_text(place.peer)}"',
            'cluster = "suite"',
            'secret_file = "../cluster.secret"',
            f"i_accept_an_open_unencrypted_port = {'true' if self.cables else 'false'}",
            f"join = {'true' if node.joins else 'false'}",
            "",
            "[peers]",
            *(f'{name} = "{_text(member.place.peer)}"' for name, member in self.nodes.items()),
        ]
        (node.directory / "node.toml").write_text("\n".join(lines) + "\n")

    # ----------------------------------------------------------------------------------------------- start and stop
    def start(self, name: str) -> None:
        """Start the node if it does not run; returns at once."""
        node = self.nodes[name]
        with self._lock:
            if not node.running:
                self._spawn(node)

    def _spawn(self, node: Node) -> None:
        name = node.name
        self._write_settings(node)
        prefix = self.cables.prefix(name) if self.cables else []
        settings = ["node", "--config", str(node.directory / "node.toml")]
        files = [str(node.disk.clock_file), str(node.directory / "routes.json")]
        command = [sys.executable, "-P", str(LAUNCHER), *files, self._defect, "--", *settings]
        environment = node_environment(os.environ) | node.disk.environment() | {TIE_VARIABLE: str(self._tie)}
        with node.log_file.open("ab") as log:
            spawn = partial(
                subprocess.Popen,
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=node.directory,
                env=environment,
                start_new_session=True,
                pass_fds=(self._tie,),
            )
            node.process = self._starter.submit(spawn).result()
        node.paused = False

    def kill(self, name: str) -> None:
        """SIGKILL; returns when the process is gone."""
        node = self.nodes[name]
        process = self._strike(node)
        if process is not None:
            process.kill()
            process.wait()
            self._buried(node)
        node.paused = False

    def _strike(self, node: Node) -> subprocess.Popen[bytes] | None:
        """What ends the node from here on is ours: its process, if it has not ended by itself before."""
        with self._lock:
            if not node.struck:
                self.notice_ends()
            node.struck = node.process is not None
            return node.process

    def _buried(self, node: Node) -> None:
        """The node that was struck is down."""
        with self._lock:
            node.process = None
            node.struck = False

    def stop(self, name: str) -> None:
        """SIGTERM, and SIGKILL to one that does not stop in time (which is a finding: it is noted as an end)."""
        node = self.nodes[name]
        self.resume(name)
        process = self._strike(node)
        if process is None:
            return
        process.terminate()
        try:
            code = process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code not in (0, -signal.SIGTERM) and not node.may_end:  # SIGTERM: it was asked before it could listen
            self.ends.append(End(name, time.monotonic_ns(), code))
        self._buried(node)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self._signal(name, signal.SIGSTOP)
        self.nodes[name].paused = True

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._signal(name, signal.SIGCONT)
        self.nodes[name].paused = False

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self.nodes[name].process
        if process is not None and process.poll() is None:
            process.send_signal(number)

    def notice_ends(self) -> None:
        """Note the nodes that ended by themselves."""
        with self._lock:
            for node in self.nodes.values():
                if node.struck or node.process is None or (code := node.process.poll()) is None:
                    continue
                node.process = None
                node.paused = False
                if not node.may_end:
                    self.ends.append(End(node.name, time.monotonic_ns(), code))

    def pull_plug(self, names: Sequence[str], source: random.Random) -> int:
        """The power of ``names`` goes, at once; they are down then. How many blocks were lost."""
        running = [name for name in names if self._strike(self.nodes[name]) is not None]
        for name in running:
            self._signal(name, signal.SIGKILL)
        lost = 0
        for name in running:
            self.kill(name)
            share = source.choice((1.0, 1.0, 0.5))
            lost += self.nodes[name].disk.pull_plug(source, share=share)
        return lost

    # ------------------------------------------------------------------------------------------------ coming and going
    def admit(self) -> Node | None:
        """A new node runs and waits to be taken in; None if there is none left: a name is used once."""
        with self._lock:
            if not self._spares:
                return None
            node = self._spares.pop(0)
            node.joins = True
            self._set_members(self.nodes | {node.name: node})
            self._spawn(node)
            return node

    def dismiss(self, name: str) -> None:
        """The node belongs no more: it is down, its disk is empty, and its name is not used again."""
        self.kill(name)
        with self._lock:
            self._set_members({one: node for one, node in self.nodes.items() if one != name})
        self.everyone[name].disk.wipe()

    def _set_members(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes
        self.memberships.append((time.monotonic_ns(), frozenset(nodes)))

    # -------------------------------------------------------------------------------------------------- looking at it
    def statuses(self) -> dict[str, dict[str, Any]]:
        """What each node that answers says of itself."""
        names = [name for name, node in self.nodes.items() if node.running and not node.paused]
        if not names:
            return {}
        with ThreadPoolExecutor(len(names)) as pool:
            answers = list(pool.map(self._ask, names))
        return {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}

    def _ask(self, name: str) -> dict[str, Any] | None:
        try:
            return ask(Address(*self.nodes[name].place.client), timeout_s=ASK_S)
        except LanyingError:
            return None

    def leader(self) -> str | None:
        """Who says that it leads, in the newest term; None if nobody does."""
        leading = [one for one in self.statuses().values() if one["role"] == "leader"]
        return max(leading, key=lambda one: int(one["term"]))["node"] if leading else None

    def wait_ready(self, names: Sequence[str], *, timeout_s: float) -> None:
        """Returns when all of ``names`` answer, or after ``timeout_s``: others may hurt them meanwhile."""
        deadline = time.monotonic() + timeout_s
        waiting = list(names)
        while waiting and time.monotonic() < deadline:
            waiting = [name for name in waiting if self._ask(name) is None]
            time.sleep(0.02)

    def wait_equal(self, *, timeout_s: float) -> str | None:
        """Returns None once all nodes run, one leads and all have applied the same; else, in time, what is wrong."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.notice_ends()
            rows = self.statuses()
            leads = [name for name, row in rows.items() if row["role"] == "leader"]
            applied = {(row["commit"], row["applied"], row["last_seq"]) for row in rows.values()}
            if len(rows) == len(self.nodes) and leads and len(applied) == 1:
                return None
            if time.monotonic() > deadline:
                seen = [f"{name}: {row['role']}, applied {row['applied']}" for name, row in rows.items()]
                silent = sorted(set(self.nodes) - rows.keys())
                return "; ".join(seen) + (f"; silent: {', '.join(silent)}" if silent else "")
            time.sleep(0.1)

    def close(self) -> None:
        """Every process is gone afterwards."""
        for node in self.everyone.values():
            if node.process is not None:
                node.process.kill()
                node.process.wait()
                node.process = None
            node.disk.close()
        self._starter.shutdown()
        with contextlib.suppress(OSError):
            os.close(self._tie_held)
            os.close(self._tie)


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"
