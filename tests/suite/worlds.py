"""Synthetic histories: a log, who wrote it and who read it, made up by a seed; and ways to make them wrong.

`World` is what really happened; `history` and `image` are what a run would have recorded of it. A clean world raises
no alarm, whatever the seed; a spoilt one raises the alarm that its spoiler is named after.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from suite.history import FAIL, INFO, OK, History, Poll, Publish, Run
from suite.image import Image, image_of
from suite.messages import SPREAD, message_id, topic_number

MS = 1_000_000
LANES = (1, 2, 3, SPREAD + 1, SPREAD + 2)


@dataclass
class World:
    """``log`` is what the nodes hold: ``(id, timestamp)``, seq 1 first."""

    log: list[tuple[int, int]] = field(default_factory=list)
    publishes: list[Publish] = field(default_factory=list)
    polls: list[Poll] = field(default_factory=list)

    @property
    def image(self) -> Image:
        return image_of(self.log)

    @property
    def history(self) -> History:
        history = History()
        for publish in self.publishes:
            history.add_publish(publish)
        for poll in self.polls:
            history.add_poll(poll)
        return history

    def acked(self, *, count_min: int = 1) -> int:
        """The place of a publish that was acknowledged, in the middle of the others."""
        places = [
            place
            for place, one in enumerate(self.publishes)
            if one.result == OK and one.count >= count_min and not one.again and one.seq > 10
        ]
        return places[len(places) // 2]


def world(seed: int, *, operations: int = 60) -> World:
    """A clean one: lanes write batches, some of which fail or stay in doubt; readers follow and look back."""
    source = random.Random(seed)
    made = World()
    counters = dict.fromkeys(LANES, 0)
    free_at = dict.fromkeys(LANES, 0)
    now, stamp = 1_000 * MS, 1_700_000_000_000_000_000
    for _ in range(operations):
        lane = source.choice(LANES)
        now = max(now, free_at[lane]) + source.randrange(1, 5) * MS  # when the log takes it: between t0 and t1
        count = source.choice((1, 1, 2, 7))
        identity = message_id(lane, counters[lane])
        counters[lane] += count
        t0 = max(free_at[lane] + 1, now - source.randrange(1, 4) * MS)
        t1 = now + source.randrange(1, 9) * MS
        free_at[lane] = t1
        result = source.choices((OK, FAIL, INFO), (10, 1, 1))[0]
        seq = ts = 0
        if result == OK or (result == INFO and source.random() < 0.5):
            stamp += source.randrange(1, 1_000)
            seq, ts = len(made.log) + 1, stamp
            made.log += [(identity + i, stamp + i) for i in range(count)]
            stamp += count
        told = (seq, ts) if result == OK else (0, 0)
        made.publishes.append(Publish(t0, t1, lane, result, identity, count, *told, again=False))
        if result == OK and source.random() < 0.2:
            made.publishes.append(Publish(t1, t1 + MS, lane, OK, identity, count, seq, ts, again=True))
    _add_readers(made, source, now + 1_000 * MS)
    return made


def runs_of(log: list[tuple[int, int]], seqs: list[int]) -> tuple[Run, ...]:
    """The messages ``seqs`` of ``log`` as runs, cut as a reader would."""
    runs: list[Run] = []
    for seq in seqs:
        identity, stamp = log[seq - 1]
        last = runs[-1] if runs else None
        end = None if last is None else (last.seq + last.count, last.ts + last.count, last.identity + last.count)
        if last is not None and end == (seq, stamp, identity):
            runs[-1] = last._replace(count=last.count + 1)
        else:
            runs.append(Run(seq, stamp, identity, 1))
    return tuple(runs)


def _add_readers(made: World, source: random.Random, t0: int) -> None:
    last = len(made.log)
    for subscription, topic in ((1, -1), (2, 3), (3, -1)):
        after = 0
        while after < last:
            through = min(last, after + source.randrange(1, 25))
            seqs = [seq for seq in range(after + 1, through + 1) if topic in (-1, topic_number(made.log[seq - 1][0]))]
            runs = runs_of(made.log, seqs)
            made.polls.append(Poll(t0, t0 + MS, 9, subscription, f"n{subscription}", topic, after, through, 0, runs))
            after, t0 = through, t0 + 2 * MS
    ends = [one.seq + one.count - 1 for one in made.publishes if one.result == OK and not one.again]
    for end in ends[-3:]:
        acked = source.randrange(1, end + 1)
        runs = runs_of(made.log, list(range(acked, end + 1)))
        made.polls.append(Poll(t0, t0 + MS, 10, 0, "n1", -1, acked - 1, end, acked, runs))


# ------------------------------------------------------------------------------------------------------------- spoilers
def _change(made: World, place: int, **values: object) -> None:
    made.publishes[place] = made.publishes[place]._replace(**values)  # type: ignore[arg-type]


def _poll(made: World, place: int, **values: object) -> None:
    made.polls[place] = made.polls[place]._replace(**values)  # type: ignore[arg-type]


def lost_write(made: World) -> None:
    one = made.publishes[made.acked()]
    for i in range(one.count):
        made.log[one.seq - 1 + i] = (message_id(77, i), made.log[one.seq - 1 + i][1])
    made.publishes.append(one._replace(identity=message_id(77, 0), result=INFO, worker=77, seq=0, ts=0, again=False))


def inconsistent_offsets(made: World) -> None:
    place = made.acked()
    _change(made, place, seq=made.publishes[place].seq - 1)


def inconsistent_timestamp(made: World) -> None:
    place = made.acked()
    _change(made, place, ts=made.publishes[place].ts + 1)


def aborted_read(made: World) -> None:
    _change(made, made.acked(), result=FAIL, seq=0, ts=0)


def duplicate(made: World) -> None:
    made.log.append((made.log[0][0], made.log[-1][1] + 1))


def phantom(made: World) -> None:
    made.log.append((message_id(50, 0), made.log[-1][1] + 1))


def phantom_bytes(made: World) -> None:
    made.log.append((-1, made.log[-1][1] + 1))


def reordered(made: World) -> None:
    stamp = made.log[-1][1]
    made.log += [(message_id(60, 1), stamp + 1), (message_id(60, 0), stamp + 2)]
    made.publishes += [Publish(1, 2, 60, INFO, message_id(60, i), 1, 0, 0, again=False) for i in range(2)]


def realtime_order(made: World) -> None:
    seq, stamp = len(made.log), made.log[-1][1]
    made.log += [(message_id(61, 0), stamp + 1), (message_id(62, 0), stamp + 2)]
    late, early = 900_000 * MS, 800_000 * MS
    made.publishes.append(Publish(late, late + MS, 61, OK, message_id(61, 0), 1, seq + 1, stamp + 1, again=False))
    made.publishes.append(Publish(early, early + MS, 62, OK, message_id(62, 0), 1, seq + 2, stamp + 2, again=False))


def torn_batch(made: World) -> None:
    stamp = made.log[-1][1]
    made.log += [(message_id(63, i), stamp + 1 + i) for i in (0, 1)]
    made.publishes.append(Publish(1, 2, 63, INFO, message_id(63, 0), 3, 0, 0, again=False))


def torn_acked_batch(made: World) -> None:
    seq, stamp = len(made.log), made.log[-1][1]
    made.log += [(message_id(64, 0), stamp + 1), (message_id(65, 0), stamp + 2), (message_id(64, 1), stamp + 3)]
    made.publishes.append(Publish(1, 2, 64, OK, message_id(64, 0), 2, seq + 1, stamp + 1, again=False))
    made.publishes.append(Publish(1, 2, 65, INFO, message_id(65, 0), 1, 0, 0, again=False))


def timestamp_order(made: World) -> None:
    made.log.append((message_id(66, 0), made.log[-1][1]))
    made.publishes.append(Publish(1, 2, 66, INFO, message_id(66, 0), 1, 0, 0, again=False))


def changed_answer(made: World) -> None:
    one = made.publishes[made.acked()]
    made.publishes.append(one._replace(seq=one.seq + 1, again=True))


def inconsistent_read(made: World) -> None:
    poll = made.polls[0]
    _poll(made, 0, runs=(poll.runs[0]._replace(identity=message_id(1, 99_999)), *poll.runs[1:]))


def inconsistent_read_time(made: World) -> None:
    poll = made.polls[0]
    _poll(made, 0, runs=(poll.runs[0]._replace(ts=poll.runs[0].ts - 1), *poll.runs[1:]))


def dirty_read(made: World) -> None:
    last = len(made.log)
    run = Run(last + 1, made.log[-1][1] + 1, message_id(1, 99_999), 1)
    made.polls.append(Poll(1 << 60, 1 << 60, 9, 7, "n1", -1, last, last + 1, 0, (run,)))


def read_before_write(made: World) -> None:
    _poll(made, 0, t0=0, t1=1)


def poll_skip(made: World) -> None:
    place = next(i for i, one in enumerate(made.polls) if one.filter < 0 and len(one.runs) > 2)
    runs = made.polls[place].runs
    _poll(made, place, runs=(runs[0], *runs[2:]))


def poll_skip_at_the_end(made: World) -> None:
    place = next(i for i, one in enumerate(made.polls) if one.filter < 0 and len(one.runs) > 2)
    _poll(made, place, runs=made.polls[place].runs[:-1])


def poll_skip_of_a_topic(made: World) -> None:
    place = next(i for i, one in enumerate(made.polls) if one.filter >= 0 and one.runs)
    _poll(made, place, runs=made.polls[place].runs[1:])


def poll_skip_between_polls(made: World) -> None:
    del made.polls[1]


def nonmonotonic_poll(made: World) -> None:
    poll = next(one for one in made.polls if one.filter < 0 and one.runs)
    made.polls.insert(made.polls.index(poll) + 1, poll)


def nonmonotonic_inside(made: World) -> None:
    place = next(i for i, one in enumerate(made.polls) if one.filter < 0 and len(one.runs) > 1)
    runs = made.polls[place].runs
    _poll(made, place, runs=(*runs, runs[-1]))


def garbled_message(made: World) -> None:
    poll = made.polls[0]
    _poll(made, 0, runs=(poll.runs[0]._replace(identity=-1), *poll.runs[1:]))


def stale_read(made: World) -> None:
    poll = made.polls[-1]
    made.polls[-1] = poll._replace(acked=poll.through + 1, after=poll.through, runs=())


def torn_read(made: World) -> None:
    one = made.publishes[made.acked(count_min=7)]
    until = one.seq + 2
    runs = runs_of(made.log, list(range(one.seq, until + 1)))
    made.polls.append(Poll(1 << 60, 1 << 60, 10, 0, "n1", -1, one.seq - 1, until, one.seq, runs))


SPOILERS = {
    lost_write: "lost-write",
    inconsistent_offsets: "inconsistent-offsets",
    inconsistent_timestamp: "inconsistent-offsets",
    aborted_read: "aborted-read",
    duplicate: "duplicate",
    phantom: "phantom",
    phantom_bytes: "phantom",
    reordered: "reordered",
    realtime_order: "realtime-order",
    torn_batch: "torn-batch",
    torn_acked_batch: "torn-batch",
    timestamp_order: "timestamp-order",
    changed_answer: "changed-answer",
    inconsistent_read: "inconsistent-read",
    inconsistent_read_time: "inconsistent-read",
    dirty_read: "dirty-read",
    read_before_write: "read-before-write",
    poll_skip: "poll-skip",
    poll_skip_at_the_end: "poll-skip",
    poll_skip_of_a_topic: "poll-skip",
    poll_skip_between_polls: "poll-skip",
    nonmonotonic_poll: "nonmonotonic-poll",
    nonmonotonic_inside: "nonmonotonic-poll",
    garbled_message: "garbled-message",
    stale_read: "stale-read",
    torn_read: "torn-read",
}
