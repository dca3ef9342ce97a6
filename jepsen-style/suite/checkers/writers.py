"""Writers' side: is every acknowledged message where its acknowledgement says, once, in order, in one piece?"""

from __future__ import annotations

from array import array
from typing import Any

from suite.checkers import Checker, Findings
from suite.history import FAIL, OK, RESULTS, History
from suite.image import Image
from suite.messages import COUNTER_BITS, counter_of, lane_of

NOWHERE = 0
_COUNTERS = (1 << COUNTER_BITS) - 1


class Index:
    """id -> seq, for the ids of one log. `first` finds the first place of each; what comes later is a duplicate."""

    def __init__(self, image: Image) -> None:
        self._lanes: dict[int, array[int]] = {}
        self.duplicates: list[tuple[int, int, int]] = []
        self.foreign: list[int] = []
        lanes = self._lanes
        for seq, identity in enumerate(image.identities, 1):
            if identity < 0:
                self.foreign.append(seq)
                continue
            places = lanes.get(identity >> COUNTER_BITS)
            if places is None:
                places = lanes[identity >> COUNTER_BITS] = array("q")
            counter = identity & _COUNTERS
            missing = counter + 1 - len(places)
            if missing > 0:
                places.frombytes(bytes(places.itemsize * missing))
            if places[counter]:
                self.duplicates.append((identity, places[counter], seq))
            else:
                places[counter] = seq

    def first(self, identity: int) -> int:
        """The first seq of a message; `NOWHERE` if it is not in the log."""
        places = self._lanes.get(identity >> COUNTER_BITS)
        counter = identity & _COUNTERS
        return places[counter] if places is not None and counter < len(places) else NOWHERE


def check_publishes(history: History, image: Image, findings: Findings) -> None:
    """lost-write, inconsistent-offsets, aborted-read, torn-batch, duplicate, phantom, changed-answer."""
    index = Index(image)
    sent: dict[int, int] = {}
    for place, row in enumerate(history.iter_publishes()):
        _, _, _, result, identity, count, seq, ts, again = row
        if again:
            _check_repetition(history, place, index, findings)
            continue
        lane = lane_of(identity)
        sent[lane] = max(sent.get(lane, 0), counter_of(identity) + count)
        where = index.first(identity)
        if result == OK:
            if seq == 0 and where:
                continue  # a repetition that came so late that the log forgot the numbers
            if (
                where == seq
                and image.timestamps[seq - 1] == ts
                and (count == 1 or _is_whole(image, identity, count, seq))
            ):
                continue
            _explain_ok(history, place, image, index, findings)
        elif result == FAIL:
            if any(index.first(one) for one in range(identity, identity + count)):
                found = next(at for one in range(identity, identity + count) if (at := index.first(one)))
                words = f"{_name(identity)} was refused for certain, and stands at seq {found}"
                findings.add("aborted-read", words, line_of(history, place), t_ns=row[1])
        elif count > 1:
            _check_unknown(history, place, image, index, findings)
    for place in history.forgotten:
        name = _name(history.publish(place).identity)
        words = f"{name} was acknowledged; when it was sent again, its producer was not known any more"
        findings.add("changed-answer", words, line_of(history, place), t_ns=history.publish(place).t1)
    _check_log(index, sent, findings)


def _is_whole(image: Image, identity: int, count: int, seq: int) -> bool:
    return image.identities[seq - 1 : seq - 1 + count] == array("q", range(identity, identity + count))


def _explain_ok(history: History, place: int, image: Image, index: Index, findings: Findings) -> None:
    one = history.publish(place)
    places = [index.first(i) for i in range(one.identity, one.identity + one.count)]
    proof = line_of(history, place)
    if not any(places):
        words = f"{_name(one.identity)} was acknowledged at seq {one.seq} and is not in the log"
        if one.seq > image.last_seq:
            words += f", which ends at seq {image.last_seq}"
        elif one.seq:
            words += f": there is {_name(image.identities[one.seq - 1])}"
        findings.add("lost-write", words, proof, t_ns=one.t1)
    elif places != list(range(places[0], places[0] + one.count)):
        _add_torn(one.identity, places, proof, one.t1, findings)
    elif places[0] != one.seq:
        words = f"{_name(one.identity)} was acknowledged at seq {one.seq} and stands at seq {places[0]}"
        findings.add("inconsistent-offsets", words, proof, t_ns=one.t1)
    else:
        stored = image.timestamps[one.seq - 1]
        words = f"{_name(one.identity)} was acknowledged with timestamp {one.ts} and has {stored}"
        findings.add("inconsistent-offsets", words, proof, t_ns=one.t1)


def _check_unknown(history: History, place: int, image: Image, index: Index, findings: Findings) -> None:
    """Nobody knows whether it is there; but if it is, all of it is."""
    one = history.publish(place)
    places = [index.first(i) for i in range(one.identity, one.identity + one.count)]
    if any(places) and places != list(range(places[0], places[0] + one.count)):
        _add_torn(one.identity, places, line_of(history, place), one.t1, findings)


def _add_torn(identity: int, places: list[int], proof: dict[str, Any], t_ns: int, findings: Findings) -> None:
    shown = ", ".join(str(one) if one else "nowhere" for one in places[:12])
    findings.add("torn-batch", f"the batch from {_name(identity)} on is at {shown}", proof, t_ns=t_ns)


def _check_repetition(history: History, place: int, index: Index, findings: Findings) -> None:
    one = history.publish(place)
    where = index.first(one.identity)
    if one.result == OK and one.seq and one.seq != where:
        words = f"{_name(one.identity)} stands at seq {where}; its repetition was answered with seq {one.seq}"
        findings.add("changed-answer", words, line_of(history, place), t_ns=one.t1)


def _check_log(index: Index, sent: dict[int, int], findings: Findings) -> None:
    for identity, first, second in index.duplicates:
        findings.add("duplicate", f"{_name(identity)} stands at seq {first} and again at seq {second}")
    for seq in index.foreign:
        findings.add("phantom", f"the message at seq {seq} is, byte for byte, none that a workload sends")
    for lane, places in index._lanes.items():
        for counter in range(sent.get(lane, 0), len(places)):
            if places[counter]:
                name = f"message {counter} of lane {lane}"
                findings.add("phantom", f"{name} stands at seq {places[counter]} and was never sent")


def check_order(history: History, image: Image, findings: Findings) -> None:
    """reordered, realtime-order, timestamp-order."""
    newest: dict[int, tuple[int, int]] = {}
    repeated = {second for _, _, second in Index(image).duplicates}
    before = 0
    for seq, (identity, timestamp) in enumerate(zip(image.identities, image.timestamps, strict=True), 1):
        if timestamp <= before:
            findings.add("timestamp-order", f"seq {seq} has timestamp {timestamp}, the one before it {before}")
        before = timestamp
        if identity < 0 or seq in repeated:
            continue
        lane = identity >> COUNTER_BITS
        last, last_seq = newest.get(lane, (-1, 0))
        if identity < last:
            words = f"{_name(identity)} stands at seq {seq}, behind {_name(last)} at seq {last_seq}"
            findings.add("reordered", words)
        else:
            newest[lane] = (identity, seq)
    _check_realtime(history, findings)


def _check_realtime(history: History, findings: Findings) -> None:
    """No acknowledged publish may end before one begins that stands before it. Looked at from the log's end."""
    acked = sorted(
        (row[6], row[0], row[1], place)
        for place, row in enumerate(history.iter_publishes())
        if row[3] == OK and row[6] and not row[8]
    )
    earliest_end, earliest = 1 << 62, -1
    for seq, t0, t1, place in reversed(acked):
        if t0 > earliest_end and not findings.full("realtime-order"):
            late, early = history.publish(place), history.publish(earliest)
            words = (
                f"{_name(early.identity)} was acknowledged (seq {early.seq}) before {_name(late.identity)} was sent,"
                f" which stands before it at seq {seq}"
            )
            findings.add("realtime-order", words, line_of(history, earliest), line_of(history, place), t_ns=t0)
        if t1 < earliest_end:
            earliest_end, earliest = t1, place


def _name(identity: int) -> str:
    if identity < 0:
        return "a message of nobody's"
    return f"message {counter_of(identity)} of lane {lane_of(identity)}"


def line_of(history: History, place: int) -> dict[str, Any]:
    """A publish as it stands in the history file, with its place there."""
    one = history.publish(place)
    line: dict[str, Any] = {"f": "again" if one.again else "publish", "w": one.worker, "t0": one.t0, "t1": one.t1}
    line |= {"r": RESULTS[one.result], "id": one.identity, "n": one.count}
    return line | ({"seq": one.seq, "ts": one.ts} if one.result == OK else {})


CHECKERS: tuple[Checker, ...] = (check_publishes, check_order)
