"""Consensus: PySyncObj decides order behind a guard that corrects it."""
