"""The program itself, on real nodes, tiny."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import command, questions
from benchmarks.question import Cell, Question
from benchmarks.questions import latency, throughput
from benchmarks.system import Load


def test_list_names_every_question_and_system(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["list"]) == 0
    shown = capsys.readouterr().out
    for name in (*questions.ALL, "lanyinglog", "raw", "nats-always", "redis", "rabbitmq-quorum", "etcd"):
        assert name in shown


def test_an_unknown_question_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["run", "nonsense"])
    assert ended.value.code == 2
    assert "throughput" in capsys.readouterr().err


def test_a_quick_run_measures_a_real_cluster_and_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = [b"x" * 128] * 16
    cells = [
        Cell("bulk", lambda cluster, scale: throughput.rates(cluster.publish(Load(pool, count=2_000)))),
        Cell("replay", lambda cluster, scale: {"messages/s": 2_000 / cluster.replay(2_000)}),
        Cell("each", lambda cluster, scale: latency.latency_metrics(cluster.publish_each(Load(pool, count=5)))),
    ]
    monkeypatch.setitem(questions.ALL, "throughput", Question("throughput", "tiny", "messages/s", lambda _: cells))
    file = tmp_path / "results.json"
    assert command.main(["run", "throughput", "--quick", "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    assert {answer["cell"] for answer in results["answers"]} == {"bulk", "replay", "each"}
    assert all(metric["median"] > 0 for answer in results["answers"] for metric in answer["metrics"].values())
    assert "majority" in results["systems"]["lanyinglog"]["durability"]


def test_the_document_says_what_each_question_asks() -> None:
    document = (Path(__file__).resolve().parent.parent.parent / "docs" / "performance.md").read_text()
    for question in questions.ALL.values():
        assert f"| {question.name} | {question.asks} |" in document
