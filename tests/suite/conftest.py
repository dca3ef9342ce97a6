"""The suite is a program beside the package: its directory is made importable, as is this one."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parents[1] / "jepsen-style"), str(HERE)]
