"""Certificates of made-up authorities, as files."""

from __future__ import annotations

from pathlib import Path

import trustme

from lanyinglog.tls import TlsFiles


class Authority:
    """Signs certificates; all files are in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        directory.mkdir(exist_ok=True)
        self.file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def issue(self, name: str, *hosts: str) -> TlsFiles:
        """A new certificate for ``hosts`` (nobody dials a client: any will do), in files called ``name``."""
        issued = self._ca.issue_cert(*(hosts or ("client.invalid",)), key_type=trustme.KeyType.ECDSA)
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.touch(0o600)
        key.write_bytes(issued.private_key_pem.bytes())
        return TlsFiles(cert, key, self.file)
