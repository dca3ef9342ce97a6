"""The worker processes of a run: which lanes run where, and what they tell while they do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suite import workloads
from suite.cluster import Cluster
from suite.messages import SPREAD
from suite.settings import Settings

SPREADING = "atomic"
"""The workload whose lanes spread their messages over topics."""
STOP_S_MAX = 40.0


class Workers:
    """Two processes: writers and readers, so that a slow reader never slows the writers' clocks."""

    def __init__(self, settings: Settings, cluster: Cluster, *, epoch_ns: int) -> None:
        self.files: list[Path] = []
        self.tallies: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.unserved: list[str] = []
        """Final reads that did not come to an end: the product's failure, not the suite's."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopped: list[threading.Event] = []
        self._finished: list[threading.Event] = []
        everyone = {name: _text(node.place.client) for name, node in cluster.everyone.items()}
        servers = {name: everyone[name] for name in cluster.names}
        relays = {_text(node.place.client): _text(node.place.client_relay) for node in cluster.everyone.values()}
        self._members = cluster.names
        for part, lanes in lanes_of(settings).items():
            file = settings.report / f"history-{part}.jsonl"
            plan = {
                "servers": servers,
                "everyone": everyone,
                "relays": relays,
                "history": str(file),
                "seed": settings.seed,
                "epoch_ns": epoch_ns,
                "workers": lanes,
                "final_reads": part == "readers",
                "defect": settings.defect,
            }
            self.files.append(file)
            self._start(plan, settings.report / f"{part}.log")

    def _start(self, plan: dict[str, Any], log: Path) -> None:
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), json.dumps(plan)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._processes.append(process)
        self.tallies.append({})
        self._stopped.append(threading.Event())
        self._finished.append(threading.Event())
        threading.Thread(target=self._listen, args=(len(self._processes) - 1, log), daemon=True).start()

    def _listen(self, place: int, log: Path) -> None:
        """What a worker tells, until it ends."""
        stdout = self._processes[place].stdout
        assert stdout is not None
        for line in stdout:
            told = json.loads(line)
            if "operations" in told:
                self.tallies[place] = told
            if told.get("stopped"):
                self._stopped[place].set()
            if told.get("finished"):
                self.problems += told["problems"]
                self.unserved += told["unserved"]
                self._finished[place].set()
        if not self._finished[place].is_set():
            self.problems.append(f"a worker process ended early; {log.name} says why")
        self._stopped[place].set()
        self._finished[place].set()

    # --------------------------------------------------------------------------------------------------- what is told
    def progress(self) -> tuple[Counter[str], int, int]:
        """Operations by result, messages acknowledged, messages read, so far."""
        operations: Counter[str] = Counter()
        for tally in self.tallies:
            operations.update(tally.get("operations", {}))
        messages = sum(tally.get("messages", 0) for tally in self.tallies)
        return operations, messages, sum(tally.get("read", 0) for tally in self.tallies)

    def members_are(self, names: list[str]) -> None:
        """Whom the workloads may ask, if that has changed."""
        if names != self._members:
            self._members = names
            self._write(json.dumps(names))

    def stop(self) -> None:
        """No new operations; returns when those under way have ended."""
        self._say(self._stopped, "the workloads did not end")

    def finish(self, *, timeout_s: float) -> None:
        """The final reads; returns when they are done and the history is complete."""
        self._say(self._finished, "the final reads did not end", timeout_s=timeout_s)

    def _say(self, events: Sequence[threading.Event], words: str, *, timeout_s: float = STOP_S_MAX) -> None:
        self._write("")
        for event in events:
            if not event.wait(timeout_s):
                self.problems.append(f"{words} within {timeout_s:g} s")

    def _write(self, line: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            if process.poll() is None:
                process.stdin.write(line.encode() + b"\n")
                process.stdin.flush()

    def close(self) -> None:
        """Every worker process is gone afterwards."""
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def lanes_of(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """The workers of each process and their lanes. All writers together aim at ``operations_s``."""
    chosen = {name: workloads.load(name) for name in settings.workloads}
    total = sum(workload.WORKERS * workload.LANES for workload in chosen.values() if workload.WRITES)
    parts: dict[str, list[dict[str, Any]]] = {"writers": [], "readers": []}
    for number, name in enumerate(workloads.NAMES):
        if name in chosen:
            workload = chosen[name]
            first = (SPREAD if name == SPREADING else 0) + 1000 * number + 1
            for worker in range(workload.WORKERS):
                start = first + worker * workload.LANES
                lanes = list(range(start, start + workload.LANES))
                one = {"workload": name, "lanes": lanes, "interval_s": total / settings.operations_s}
                parts["writers" if workload.WRITES else "readers"].append(one)
    return parts


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"
