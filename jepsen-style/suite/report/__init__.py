"""What a run came to know, for people and programs. See `page` for the report that opens in a browser."""

from __future__ import annotations

from suite.report.figures import summary
from suite.report.terminal import print_summary
from suite.report.writing import write, write_rounds

__all__ = ["print_summary", "summary", "write", "write_rounds"]
