"""The TLS of a program run: which certificate it shows, and whose it accepts, when it connects to a node.

Set once, by the options before the verb, for all connections.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from lanyinglog.config import tls_files
from lanyinglog.tls import client_context

_context: ssl.SSLContext | None = None


def use(cert: Path | None, key: Path | None, ca: Path | None) -> None:
    """From now on; all three, or none for plain connections. `ConfigError` for some of them, or unusable ones."""
    global _context
    files = tls_files((cert, key, ca))
    _context = None if files is None else client_context(files)


def context() -> ssl.SSLContext | None:
    """What to connect with; None for plain connections."""
    return _context
