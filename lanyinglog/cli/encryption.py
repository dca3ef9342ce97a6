"""The TLS of a program run: which certificate it shows, and whose it accepts, when it connects to a node.

Set once, by the options before the verb, for all connections; made of the files when the first is opened, so that verbs
that open none, or have such options of their own, do not care. The nodes of a cluster's directory say in their settings
whether they speak TLS: if they do not, nor does the program, whatever the environment has for other clusters.
"""

from __future__ import annotations

import ssl
import tomllib
from pathlib import Path

from lanyinglog.config import TLS_KEYS, tls_files
from lanyinglog.tls import client_context

_paths: tuple[Path | None, Path | None, Path | None] = (None, None, None)
_context: ssl.SSLContext | None = None


def use(cert: Path | None, key: Path | None, ca: Path | None) -> None:
    """From now on; all three, or none for plain connections."""
    global _paths, _context
    _paths, _context = (cert, key, ca), None


def context() -> ssl.SSLContext | None:
    """What to connect with; None for plain connections. `ConfigError` if only some files are given, or one can't be
    used."""
    global _context
    files = tls_files(_paths)
    if _context is None and files is not None:
        _context = client_context(files)
    return _context


def go_by(node_settings: Path) -> None:
    """Connect plainly from here on if the node with these settings does not speak TLS."""
    try:
        settings = tomllib.loads(node_settings.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # the node itself says what is wrong with them
    if not set(TLS_KEYS) & settings.keys():
        use(None, None, None)
