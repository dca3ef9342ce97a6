"""The simulator's planted defects are switches here too: its directory is made importable."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "jepsen-style"))
