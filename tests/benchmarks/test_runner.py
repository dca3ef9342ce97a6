"""Fairness of the runner, and what is reported."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks import plots, report
from benchmarks.processes import Trouble, free_ports, workplace
from benchmarks.question import Cell, Question, Scale
from benchmarks.runner import Outcome, compare, number, rotated
from benchmarks.system import Cluster, Load, System


class Twin(System):
    """A system that does nothing, and remembers that it was started."""

    client, durability, answers = "none", "none", frozenset({"throughput"})

    def __init__(self, name: str, started: list[str], *, trouble: bool = False) -> None:
        self.name = name
        self._started = started
        self._trouble = trouble

    def missing(self) -> list[str]:
        return []

    def version(self) -> str:
        return "1"

    @contextlib.contextmanager
    def running(self) -> Iterator[Cluster]:
        self._started.append(self.name)
        if self._trouble:
            raise Trouble("it does not start")
        with workplace() as place:
            yield Cluster(place)


def _question(*cells: Cell, name: str = "throughput") -> Question:
    return Question(name, "how much", "messages/s", lambda _: cells)


def _run(systems: list[Twin], question: Question, rounds: int) -> Outcome:
    outcome = Outcome()
    compare([question], systems, outcome, rounds=rounds, scale=Scale(quick=True), report=lambda _: None)
    return outcome


CELL = Cell("all", lambda cluster, scale: {"messages/s": 3.0})


def test_systems_alternate_and_take_turns_at_being_first() -> None:
    started: list[str] = []
    _run([Twin(name, started) for name in "abc"], _question(CELL), rounds=3)
    assert "".join(started) == "abcbcacab"


def test_nothing_to_rotate_is_fine() -> None:
    assert rotated([], 3) == []


def test_trouble_of_one_system_is_told_and_spares_the_others() -> None:
    started: list[str] = []
    outcome = _run([Twin("a", started, trouble=True), Twin("b", started)], _question(CELL), rounds=2)
    assert [answer.system for answer in outcome.answers()] == ["b"]
    assert outcome.troubles == ["throughput, a: it does not start"] * 2


def test_an_interrupted_run_keeps_what_it_has() -> None:
    def interrupt(cluster: Cluster, scale: Scale) -> dict[str, float]:
        raise KeyboardInterrupt

    outcome = Outcome()
    question = _question(CELL, Cell("second", interrupt))
    with pytest.raises(KeyboardInterrupt):
        compare([question], [Twin("a", [])], outcome, rounds=1, scale=Scale(quick=True), report=lambda _: None)
    assert [answer.cell for answer in outcome.answers()] == ["all"]


def test_a_variant_for_one_system_is_not_put_to_another() -> None:
    only = Cell("mine", lambda cluster, scale: {"messages/s": 1.0}, only=frozenset({"a"}))
    outcome = _run([Twin(name, []) for name in "ab"], _question(CELL, only), rounds=1)
    assert {(answer.cell, answer.system) for answer in outcome.answers()} == {("all", "a"), ("all", "b"), ("mine", "a")}


def test_a_question_that_nobody_answers_starts_nothing() -> None:
    started: list[str] = []
    _run([Twin("a", started)], _question(CELL, name="growth"), rounds=1)
    assert started == []


def test_a_report_names_durability_and_spread(tmp_path: Path) -> None:
    values = iter([3.0, 1.0, 2.0])
    cell = Cell("all", lambda cluster, scale: {"messages/s": next(values)})
    twin = Twin("a", [])
    results = report.as_json({"cpu": "one"}, [twin], {"b": "a b"}, _run([twin], _question(cell), rounds=3))
    text = report.text(results)
    assert "2 (1 - 3)" in text
    assert "skipped: b: needs a b" in text
    page = report.markdown(results, plots=tmp_path / "plots")
    assert "| a | none | none | 1 |" in page
    assert "(plots/throughput.svg)" in page
    ElementTree.parse(tmp_path / "plots" / "throughput.svg")


def _part(question: str, **facts: str) -> report.Results:
    return {
        "machine": facts,
        "systems": {"a": {"version": "1", "client": "c", "durability": "d"}},
        "skipped": {},
        "troubles": [],
        "answers": [{"question": question, "cell": "all", "system": "a", "metrics": {}}],
    }


def test_runs_that_asked_different_questions_make_one_report() -> None:
    whole = report.merged([_part("latency", cpu="one", load="0.1"), _part("tail", cpu="one", load="0.2")])
    assert list(report.by_question(whole)) == ["latency", "tail"]
    assert whole["machine"] == {"cpu": "one", "load": "0.1; 0.2"}


def test_what_was_measured_twice_is_not_put_into_one_table() -> None:
    with pytest.raises(ValueError, match="latency"):
        report.merged([_part("latency"), _part("latency")])


def test_results_go_between_the_marks_of_a_page_again_and_again() -> None:
    page = "before <!-- results -->\nold\n<!-- end of results --> after"
    once = report.replace_results(page, "new\n")
    assert "old" not in once
    assert once.startswith("before <!-- results -->") and once.endswith("<!-- end of results --> after")
    assert report.replace_results(once, "new\n") == once


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="results"):
        report.replace_results("nothing here", "new")


def _answer(system: str, median: float) -> dict[str, object]:
    metric = {"median": median, "low": median, "high": median, "runs": [median]}
    return {"question": "q", "cell": "<c>", "system": system, "metrics": {"m": metric}}


@pytest.mark.parametrize(
    ("medians", "axis"),
    [pytest.param((1.0, 20.0), "from 0", id="near"), pytest.param((1.0, 200.0), "logarithmic", id="far apart")],
)
def test_a_plot_is_svg_and_says_its_axis(medians: tuple[float, ...], axis: str) -> None:
    picture = plots.bars("a & b", "m", [_answer(str(i), median) for i, median in enumerate(medians)])
    root = ElementTree.fromstring(picture)
    assert axis in picture
    bars = [one for one in root.iter("{http://www.w3.org/2000/svg}rect") if one.get("fill") != "white"]
    widths = [float(one.get("width") or 0) for one in bars]
    assert len(widths) == 2 and 0 < widths[0] < widths[1]


@pytest.mark.parametrize(("value", "text"), [(1234567.0, "1,234,567"), (123.4, "123"), (0.01234, "0.0123")])
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_load_goes_round_its_pool_until_its_count() -> None:
    assert list(Load([b"a", b"b", b"c"], count=5).chunks(2)) == [[b"a", b"b"], [b"c", b"a"], [b"b"]]


def test_ports_are_different_and_free() -> None:
    assert len(set(free_ports(20))) == 20


def test_a_workplace_leaves_no_process_and_no_directory() -> None:
    with workplace() as place:
        place.spawn("parent", ["sh", "-c", "sleep 60 & echo started; wait"])
        place.wait(lambda: "started" in place.log_tail("parent"), what="the child", seconds_max=10)
        family = place._alive()
    assert len(family) >= 2
    # The child of a child is nobody's to wait for here: the system may still be ending it.
    _, left = psutil.wait_procs(family, timeout=10)
    assert not [one for one in left if one.status() != psutil.STATUS_ZOMBIE]
    assert not place.directory.exists()


def test_a_process_that_ends_early_is_trouble_with_its_last_words() -> None:
    with workplace() as place, pytest.raises(Trouble, match="goodbye"):
        place.spawn("one", ["sh", "-c", "echo goodbye; exit 3"])
        place.wait(lambda: False, what="never", seconds_max=10)
