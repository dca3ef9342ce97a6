"""lanyinglog: a Raft-replicated, ordered message log for Python teams."""

__version__ = "0.1.0"
