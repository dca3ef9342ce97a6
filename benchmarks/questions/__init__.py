"""The questions, one a file, by name."""

from __future__ import annotations

from benchmarks.question import Question
from benchmarks.questions import catch_up, cpu, failover, fan_out, growth, latency, producers, replay, tail, throughput

ALL: dict[str, Question] = {
    one.QUESTION.name: one.QUESTION
    for one in (throughput, latency, tail, replay, producers, fan_out, cpu, catch_up, failover, growth)
}
