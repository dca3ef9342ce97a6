"""The log on disk: one LMDB environment a log and node."""
