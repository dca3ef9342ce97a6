"""The simulator is a program beside the package: its directory is made importable."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "jepsen-style"))
