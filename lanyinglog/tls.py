"""TLS between nodes, and between nodes and clients: the files it takes, and what is made of them.

One certificate authority of your own signs the certificates of nodes and clients, and both ends show theirs and check
the other's: who gets as far as a hello is authenticated (promise P10). A node's certificate must name the host by which
it is dialled, and that name is checked, so that who holds another certificate of the cluster can't stand in for a node.
TLS 1.3 only: both ends are ours.

Files are looked at when a connection is made, and read again when they have changed: certificates are renewed without
a restart. As long as new ones make no sense, half copied for instance, those that were read last serve on.
"""

from __future__ import annotations

import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lanyinglog.errors import ConfigError

WITHOUT_A_WORD = "without a word, as a node with TLS does to who shows no certificate of its authority"
"""How a connection ends then: in TLS 1.3 the dialler's handshake is done before the node looks at its certificate."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the own certificate (with intermediate ones behind it), its key, and the authority's certificate."""

    cert: Path
    key: Path
    ca: Path

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """All three."""
        return self.cert, self.key, self.ca


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For who dials: the other end's certificate must be of ``files.ca`` and name the host that was dialled.
    `ConfigError` says which file can't be used, and why."""
    return _filled(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For who is dialled: the other end must show a certificate of ``files.ca``, whatever it names. `ConfigError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, files)


def _filled(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        mode = stat.S_IMODE(files.key.stat().st_mode)
        for path in files.paths:
            path.open("rb").close()  # which one it is, is more than the error below knows
    except OSError as error:
        raise ConfigError(f"{error.filename} can't be read: {error.strerror}") from error
    if mode & 0o007:
        raise ConfigError(f"{files.key} is open to every user of this machine (mode {mode:o}): chmod 600 it")
    try:
        context.load_verify_locations(files.ca)
    except OSError as error:
        raise ConfigError(f"{files.ca} holds no certificate: {error}") from error
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except OSError as error:
        raise ConfigError(f"{files.cert} and {files.key} are no certificate and its key: {error}") from error
    return context


def _no_password() -> str:
    raise ConfigError("the key is encrypted, and nobody is there to be asked for its password")


class Tls:
    """A node's TLS, for both ends, always of the newest files that could be used. `ConfigError` if there are none;
    later ``trouble`` is told, once for each state of the files, why they could not be."""

    def __init__(self, files: TlsFiles, *, trouble: Callable[[str], None] = lambda why: None) -> None:
        self._files = files
        self._trouble = trouble
        self._seen = self._told = self._state()
        self._client, self._server = client_context(files), server_context(files)

    @property
    def client(self) -> ssl.SSLContext:
        """See `client_context`."""
        self._renew()
        return self._client

    @property
    def server(self) -> ssl.SSLContext:
        """See `server_context`."""
        self._renew()
        return self._server

    def _renew(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        try:
            self._client, self._server = client_context(self._files), server_context(self._files)
            self._seen = state
        except ConfigError as error:  # tried again at each connection: what is wrong need not be in the files
            if state != self._told:
                self._told = state
                self._trouble(error.message)

    def _state(self) -> list[tuple[int, int, int, int]]:
        """What changes when a file does."""
        states = []
        for path in self._files.paths:
            try:
                found = path.stat()
                states.append((found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
            except OSError:
                states.append((0, 0, 0, 0))
        return states
