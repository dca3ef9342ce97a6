"""The cluster by hand of `tests/raft` serves here too, and the simulator's planted defects are switches."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "jepsen-style"))
