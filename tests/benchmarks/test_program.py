"""The program itself, on real nodes, tiny."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import command, payloads, questions
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


def test_a_place_without_log_lines_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.log").write_text("\n\n")
    for path, says in ((tmp_path, "no log lines"), (tmp_path / "nothing", "nothing")):
        assert command.main(["run", "throughput", "--lines", str(path)]) == 2
        assert says in capsys.readouterr().err


def test_log_lines_are_found_in_directories_of_directories(tmp_path: Path) -> None:
    (tmp_path / "web" / "old").mkdir(parents=True)
    (tmp_path / "web" / "old" / "a.log").write_text("one\ntwo\n")
    (tmp_path / "web" / "readme.md").write_text("no line of a log\n")
    assert payloads.read_lines([tmp_path]) == [b"one", b"two"]
