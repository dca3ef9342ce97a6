"""What an entry means: pure functions of the log, the same on every node."""
