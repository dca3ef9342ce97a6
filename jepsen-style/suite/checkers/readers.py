"""Readers' side: did everybody see the same log, all of it, forwards?"""

from __future__ import annotations

from array import array
from typing import Any

from suite.checkers import Checker, Findings
from suite.checkers.writers import Index
from suite.history import EVERY_TOPIC, History, Poll
from suite.image import Image
from suite.messages import TOPICS, counter_of, lane_of, topic_number


def check_reads(history: History, image: Image, findings: Findings) -> None:
    """inconsistent-read, dirty-read, garbled-message: each run against the log."""
    seqs, stamps, identities, counts = history.run_columns()
    last_seq = image.last_seq
    log_ids, log_stamps = image.identities, image.timestamps
    for place in range(history.polls):
        *_, start, stop = history.poll_row(place)
        for i in range(start, stop):
            seq, identity, count = seqs[i], identities[i], counts[i]
            end = seq + count - 1
            if end <= last_seq and log_ids[seq - 1] == identity >= 0 and log_stamps[seq - 1] == stamps[i]:
                if count == 1:
                    continue
                same = log_ids[seq - 1 : end] == array("q", range(identity, identity + count))
                if same and log_stamps[end - 1] == stamps[i] + count - 1:
                    continue
            _explain_run(history.poll(place), i - start, image, findings)


def _explain_run(poll: Poll, place: int, image: Image, findings: Findings) -> None:
    run = poll.runs[place]
    who = f"a reader at {poll.at}"
    proof = line_of(poll, run.seq)
    if run.identity < 0:
        words = f"{who} got a message at seq {run.seq} that nobody sent like that"
        findings.add("garbled-message", words, proof, t_ns=poll.t1)
    elif run.seq + run.count - 1 > image.last_seq:
        words = f"{who} got seq {run.seq} to {run.seq + run.count - 1}; the log ends at seq {image.last_seq}"
        findings.add("dirty-read", words, proof, t_ns=poll.t1)
    else:
        at = next((i for i in range(run.count) if image.identities[run.seq - 1 + i] != run.identity + i), 0)
        seq, stored = run.seq + at, image.identities[run.seq - 1 + at]
        seen = f"message {counter_of(run.identity + at)} of lane {lane_of(run.identity + at)}"
        there = f"message {counter_of(stored)} of lane {lane_of(stored)}" if stored >= 0 else "something else"
        if stored == run.identity + at:
            there, seen = f"timestamp {image.timestamps[seq - 1]}", f"timestamp {run.ts + at}"
        findings.add("inconsistent-read", f"{who} got {seen} at seq {seq}; the log has {there}", proof, t_ns=poll.t1)


def check_subscriptions(history: History, image: Image, findings: Findings) -> None:
    """poll-skip, nonmonotonic-poll, stale-read, torn-read: what a subscription covers is there, once, in order."""
    totals = _topic_totals(image, history)
    cursors: dict[tuple[int, int], int] = {}
    seqs, _, _, counts = history.run_columns()
    for place in range(history.polls):
        _, _, worker, subscription, _, topic, after, through, acked, start, stop = history.poll_row(place)
        if not acked:
            cursor = cursors.get((worker, subscription), after)
            if after != cursor:
                kind = "nonmonotonic-poll" if after < cursor else "poll-skip"
                words = f"a subscription went on behind seq {after}, it had been at seq {cursor}"
                findings.add(kind, words, line_of(history.poll(place), after))
            cursors[worker, subscription] = through
        at, handed_out = after, 0
        for i in range(start, stop):
            if seqs[i] <= at:
                words = f"seq {seqs[i]} was handed out behind seq {at}"
                findings.add("nonmonotonic-poll", words, line_of(history.poll(place), seqs[i]))
            elif topic == EVERY_TOPIC and seqs[i] > at + 1:
                words = f"seq {at + 1} to {seqs[i] - 1} were not handed out"
                findings.add("poll-skip", words, line_of(history.poll(place), at))
            at = seqs[i] + counts[i] - 1
            handed_out += counts[i]
        if topic == EVERY_TOPIC:
            if at < through and not acked:
                words = f"seq {at + 1} to {through} were passed and not handed out"
                findings.add("poll-skip", words, line_of(history.poll(place), at))
        elif through <= image.last_seq:
            due = totals.between(topic, after, through)
            if due != handed_out:
                kind = "poll-skip" if handed_out < due else "inconsistent-read"
                words = (
                    f"seq {after + 1} to {through} have {due} messages of topic {topic}, {handed_out} were handed out"
                )
                findings.add(kind, words, line_of(history.poll(place), after))
        if acked:
            _check_latest(history.poll(place), at, image, findings)


def _check_latest(poll: Poll, at: int, image: Image, findings: Findings) -> None:
    if poll.through < poll.acked or at < poll.acked:
        words = f"a client saw seq {poll.acked} acknowledged and then read up to the newest message, which was seq {at}"
        findings.add("stale-read", words, line_of(poll, at), t_ns=poll.t1)
    elif at < poll.through:
        words = f"a read up to seq {poll.through} ended at seq {at}"
        findings.add("poll-skip", words, line_of(poll, at), t_ns=poll.t1)


def check_batches_read(history: History, image: Image, findings: Findings) -> None:
    """torn-read: the end of a read up to the newest message is the end of a batch."""
    ends = bytearray(image.last_seq + 1)  # 1: inside a batch, that is, more of it follows
    index: Index | None = None
    for row in history.iter_publishes():
        identity, count, seq = row[4], row[5], row[6]
        if count == 1 or row[8]:
            continue
        if not seq:
            index = index or Index(image)
            seq = index.first(identity)
        if seq and seq + count - 1 <= image.last_seq:
            ends[seq : seq + count - 1] = b"\1" * (count - 1)
    for place in range(history.polls):
        *_, through, acked, _, _ = history.poll_row(place)
        if acked and through <= image.last_seq and ends[through]:
            poll = history.poll(place)
            words = f"a read up to the newest message ended at seq {through}, in the middle of a batch"
            findings.add("torn-read", words, line_of(poll, through), t_ns=poll.t1)


def check_future(history: History, image: Image, findings: Findings) -> None:
    """read-before-write: nobody reads what has not been sent yet."""
    sent_at = array("q", bytes(8 * (image.last_seq + 1)))
    for row in history.iter_publishes():
        t0, count, seq, again = row[0], row[5], row[6], row[8]
        if seq and not again and seq + count - 1 <= image.last_seq:
            for i in range(seq, seq + count):
                sent_at[i] = t0
    seqs, _, _, counts = history.run_columns()
    for place in range(history.polls):
        row = history.poll_row(place)
        t1, start, stop = row[1], row[9], row[10]
        if stop == start:
            continue
        newest = seqs[stop - 1] + counts[stop - 1] - 1
        if newest <= image.last_seq and sent_at[newest] > t1:
            words = f"seq {newest} was read before it was sent"
            findings.add("read-before-write", words, line_of(history.poll(place), newest), t_ns=t1)


class _TopicTotals:
    """How many messages of a topic a stretch of the log has."""

    def __init__(self, image: Image, wanted: set[int]) -> None:
        self._seqs: list[array[int]] = [array("q") for _ in range(TOPICS)]
        if wanted:
            for seq, identity in enumerate(image.identities, 1):
                if identity >= 0 and (number := topic_number(identity)) in wanted:
                    self._seqs[number].append(seq)

    def between(self, topic: int, after: int, through: int) -> int:
        from bisect import bisect_right

        seqs = self._seqs[topic]
        return bisect_right(seqs, through) - bisect_right(seqs, after)


def _topic_totals(image: Image, history: History) -> _TopicTotals:
    wanted = {history.poll_row(place)[5] for place in range(history.polls)} - {EVERY_TOPIC}
    return _TopicTotals(image, wanted)


def line_of(poll: Poll, seq: int) -> dict[str, Any]:
    """A poll as it stands in the history file, of its runs only those around ``seq``."""
    near = [list(run) for run in poll.runs if run.seq - 50 <= seq <= run.seq + run.count + 50][:8]
    line: dict[str, Any] = {"f": "latest" if poll.acked else "poll", "w": poll.worker, "t0": poll.t0, "t1": poll.t1}
    line |= {"at": poll.at, "s": poll.subscription, "after": poll.after, "through": poll.through, "runs": near}
    return line | ({"acked": poll.acked} if poll.acked else {})


CHECKERS: tuple[Checker, ...] = (check_reads, check_subscriptions, check_batches_read, check_future)
