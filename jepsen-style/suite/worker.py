"""A worker process: runs its share of the workloads against the cluster and writes its part of the history.

Started with a plan as its argument (`Plan`); an empty line on standard input ends the workloads, the next one starts
the final reads, one with names says who the members are now, the end of the input ends the process. Twice a second it
prints what happened so far. The client connects through the relays: the one function of the client that opens a stream
is given the relay's address instead.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import trio

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT.parent)]

import lanyinglog  # noqa: E402
from lanyinglog.client import link as client_link  # noqa: E402
from lanyinglog.config import Address  # noqa: E402
from lanyinglog.errors import LanyingError  # noqa: E402
from suite import workloads  # noqa: E402
from suite.history import Recorder  # noqa: E402
from suite.session import Session, Tally  # noqa: E402

TELL_S = 0.5
FINAL_READ_S_MAX, FINAL_READ_DEFECT_S_MAX = 180.0, 20.0
GRACE_S = 8.0
"""Beyond an operation's own limit."""


def connect_through(relays: dict[str, str]) -> None:
    """Let the client reach each address of ``relays`` through the relay's."""
    open_stream = client_link._open_stream

    async def through_relay(address: Address, *more: Any) -> Any:
        relay = relays.get(str(address))
        if relay is None:
            return await open_stream(address, *more)
        host, _, port = relay.rpartition(":")
        return await open_stream(Address(host, int(port)), *more)

    client_link._open_stream = through_relay


class Worker:
    """All sessions of this process."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.recorder = Recorder(Path(plan["history"]))
        self.tally = Tally()
        self.stop = trio.Event()
        self.reading = trio.Event()
        self.problems: list[str] = []
        self.unserved: list[str] = []

    def session(self, lane: int, interval_s: float) -> Session:
        return Session(
            lane=lane,
            servers=self.plan["servers"],
            everyone=self.plan["everyone"],
            recorder=self.recorder,
            tally=self.tally,
            source=random.Random(f"{self.plan['seed']} {lane}"),
            epoch_ns=self.plan["epoch_ns"],
            interval_s=interval_s,
            stop=self.stop,
        )

    async def run(self) -> None:
        """Workloads, then final reads if the plan says so."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen)
            nursery.start_soon(self._tell)
            async with trio.open_nursery() as lanes:
                for one in self.plan["workers"]:
                    lanes.start_soon(self._work, one)
                await self.stop.wait()
                lanes.cancel_scope.deadline = trio.current_time() + GRACE_S
            self._say({"stopped": True})
            await self.reading.wait()
            if self.plan["final_reads"]:
                await self._final_reads()
            self.recorder.close()
            self._say({"finished": True, "problems": self.problems, "unserved": self.unserved})
            nursery.cancel_scope.cancel()

    async def _work(self, one: dict[str, Any]) -> None:
        workload = workloads.load(one["workload"])
        lanes = [self.session(lane, one["interval_s"]) for lane in one["lanes"]]
        lanes[0].lanes = lanes
        try:
            await workload.run(lanes[0])
        except* LanyingError as errors:
            # What a workload does not expect is a finding about the product or the workload; the others go on.
            words = "; ".join(
                f"{error.code}: {error}" for error in errors.exceptions if isinstance(error, LanyingError)
            )
            self.problems.append(f"{one['workload']} (lane {one['lanes'][0]}) ended with {words or errors!r}")

    async def _final_reads(self) -> None:
        """The whole log from every node, by itself, as a subscriber gets it."""
        limit_s = FINAL_READ_DEFECT_S_MAX if self.plan.get("defect") else FINAL_READ_S_MAX
        for place, (node, server) in enumerate(self.plan["servers"].items()):
            session = self.session(60_000 + place, 0.0)
            with trio.move_on_after(limit_s) as scope:
                try:
                    await self._read_all(session, server, place)
                except LanyingError as error:
                    self.unserved.append(f"the final read from {node} ended with {error.code}: {error.message}")
            if scope.cancelled_caught:
                self.unserved.append(f"the final read from {node} took more than {limit_s:g} s")

    async def _read_all(self, session: Session, server: str, place: int) -> None:
        async with (
            lanyinglog.connect(server, timeout=20) as client,
            client.subscribe(">", start="first", until="last") as messages,
        ):
            after, began = 0, session.now()
            async for batch in messages.batches():
                through = messages.next_seq - 1
                at = str(messages.server or server)
                session.polled(
                    began, batch, subscription=1_000_000 + place, server=at, topic=-1, after=after, through=through
                )
                after, began = through, session.now()

    # ------------------------------------------------------------------------------------------------ with the suite
    async def _listen(self) -> None:
        buffer = b""
        async for piece in trio.lowlevel.FdStream(0):
            *lines, buffer = (buffer + piece).split(b"\n")
            for line in lines:
                if line:
                    self._members_are(json.loads(line))
                elif not self.stop.is_set():
                    self.stop.set()
                else:
                    self.reading.set()
        raise SystemExit(3)  # the suite is gone

    def _members_are(self, names: list[str]) -> None:
        """All sessions look at the same table."""
        servers = self.plan["servers"]
        servers.clear()
        servers.update({name: self.plan["everyone"][name] for name in names})

    async def _tell(self) -> None:
        while True:
            await trio.sleep(TELL_S)
            tally = self.tally
            self._say({"operations": dict(tally.operations), "messages": tally.messages, "read": tally.read})

    def _say(self, line: dict[str, Any]) -> None:
        print(json.dumps(line), flush=True)


def main(plan: dict[str, Any]) -> None:
    """Become the worker process of ``plan``."""
    connect_through(plan["relays"])
    if plan.get("defect"):
        from suite.defects import plant

        plant(plan["defect"])
    trio.run(Worker(plan).run)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
