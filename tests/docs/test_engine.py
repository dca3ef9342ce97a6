"""docs/engine.md says what is so: its tests, planted defects, names and limits exist, and none is left out."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from lanyinglog.raft import engine as engine_module
from lanyinglog.raft.follower import WINDOW_APPENDS_MAX, WINDOW_BYTES_MAX
from lanyinglog.raft.guard import Guard
from lanyinglog.raft.journal import Journal
from lanyinglog.store.log_store import ENTRY_BYTES_MAX

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "jepsen-style"))
for file in (ROOT / "jepsen-style" / "simulator").glob("defects_*.py"):
    importlib.import_module(f"simulator.{file.stem}")  # they register themselves

from simulator.defects import DEFECTS  # noqa: E402

PAGE = (ROOT / "docs" / "engine.md").read_text()
SOURCE = Path(engine_module.__file__).read_text()
CORRECTED = {int(part.split(".")[0]): part.split("\n## ")[0] for part in PAGE.split("\n### ")[1:]}
UNUSED = {int(number) for number in re.findall(r"^\| (\d+) \|", PAGE, re.M)}
AUDIT_NUMBERS = set(range(1, 28))
TESTS = {
    name
    for file in (ROOT / "tests" / "raft").glob("test_*.py")
    for name in re.findall(r"^def (test_audit_\d\d_\w+)", file.read_text(), re.M)
}


def _numbers(audit: str) -> set[int]:
    return {int(number) for number in re.findall(r"\d+", audit)}


def _shown_by(what: str, number: int) -> set[str]:
    """The names behind ``- Test:`` or ``- Defect:`` in the section of a correction."""
    found = re.findall(rf"^- {what}: ((?:.+\n?(?!\n|- ))*.*)", CORRECTED[number], re.M)
    return set(re.findall(r"`(\w+)`", " ".join(found)))


def test_each_number_of_the_audit_is_corrected_or_not_used() -> None:
    assert set(CORRECTED) | UNUSED == AUDIT_NUMBERS
    assert not set(CORRECTED) & UNUSED


@pytest.mark.parametrize("number", sorted(CORRECTED))
def test_a_correction_names_its_tests_and_all_of_them(number: int) -> None:
    tests = {name for name in TESTS if name.startswith(f"test_audit_{number:02}_")}
    assert tests, f"no test for audit {number}"
    assert _shown_by("Test", number) == tests


@pytest.mark.parametrize("number", sorted(CORRECTED))
def test_a_correction_names_its_planted_defects_and_all_of_them(number: int) -> None:
    assert _shown_by("Defect", number) == {n for n, defect in DEFECTS.items() if number in _numbers(defect.audit)}


def test_nothing_is_tested_or_planted_that_is_not_a_correction() -> None:
    planted = set[int]().union(*(_numbers(defect.audit) for defect in DEFECTS.values()))
    tested = {int(name.split("_")[2]) for name in TESTS}
    assert planted <= set(CORRECTED) and tested == set(CORRECTED)


@pytest.mark.parametrize("owner", [Guard, Journal, engine_module.Engine], ids=lambda owner: owner.__name__)
def test_a_method_that_is_named_exists(owner: type) -> None:
    methods = set(re.findall(rf"`{owner.__name__}\.(\w+)", PAGE))
    assert methods
    assert not {method for method in methods if not hasattr(owner, method)}


def test_a_hook_that_is_named_is_used() -> None:
    rows = PAGE.split("## How it is driven")[1].split("\n## ")[0].splitlines()
    hooks = {hook for row in rows if row.startswith("|") for hook in re.findall(r"`([^`]+)`", row.split("|")[3])}
    assert len(hooks) > 10
    names = {re.split(r"[=(]", hook)[0] for hook in hooks}
    assert not {name for name in names if name not in SOURCE}


def test_its_numbers_and_settings_are_those_of_the_code() -> None:
    assert f"PySyncObj](https://github.com/bakwc/PySyncObj) {engine_module.AUDITED_VERSION}," in PAGE
    text = " ".join(PAGE.split())
    assert f"at {WINDOW_APPENDS_MAX} appends and {WINDOW_BYTES_MAX >> 20} MiB" in text
    limits = f"is {engine_module.APPEND_BYTES_MAX >> 20} MiB, an entry has at most {ENTRY_BYTES_MAX >> 20} MiB"
    assert limits in text
    settings = re.findall(r"`(\w+=\w+)`", PAGE)
    assert settings and not [setting for setting in settings if setting not in SOURCE.replace("_NEVER_S", "1e8")]
