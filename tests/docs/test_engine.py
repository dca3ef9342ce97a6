"""docs/engine.md is true: each correction in its table has its test and its planted defects, and none is left out."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "jepsen-style"))

from simulator import defects_log, defects_raft  # noqa: E402, F401  # they register themselves
from simulator.defects import DEFECTS  # noqa: E402

PAGE = (ROOT / "docs" / "engine.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if re.match(r"\| \d+ \|", line)
]
TESTED = {
    int(number)
    for file in (ROOT / "tests" / "raft").glob("test_audit_*.py")
    for number in re.findall(r"^def test_audit_(\d\d)_", file.read_text(), re.M)
}


def test_every_correction_has_a_test_of_its_name_and_every_test_its_correction():
    assert {int(row[0]) for row in ROWS} == TESTED


def test_the_planted_defects_are_those_of_the_simulator():
    for number, *_, cell in ROWS:
        for name in re.findall(r"`(\w+)`", cell):
            assert number in (DEFECTS[name].audit or number).split(", "), f"{name} is not about audit {number}"


def test_no_planted_defect_of_the_engine_is_left_out():
    named = set(re.findall(r"`(\w+)`", " ".join(row[-1] for row in ROWS)))
    ours = {name for name, defect in DEFECTS.items() if defect.changes.__module__.endswith("defects_retention")}
    assert {name for name, defect in DEFECTS.items() if defect.audit} - ours <= named
