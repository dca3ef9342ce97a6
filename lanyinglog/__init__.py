"""lanyinglog: a Raft-replicated, ordered message log for Python teams."""
