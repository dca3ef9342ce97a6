"""Which files TLS can be made of, and that new ones are taken up."""

from __future__ import annotations

import shutil
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from certificates import Authority

from lanyinglog.errors import ConfigError
from lanyinglog.tls import Tls, TlsFiles, client_context, server_context


def _encrypt(key: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(key.read_bytes(), None)
    protection = serialization.BestAvailableEncryption(b"x")
    form = serialization.PrivateFormat.PKCS8
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, protection))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda files: files.cert.unlink(), "n1.pem can't be read", id="no-certificate"),
        pytest.param(lambda files: files.ca.write_text("x"), "ca.pem holds no certificate", id="no-authority"),
        pytest.param(lambda files: files.cert.write_text("x"), "are no certificate and its key", id="junk"),
        pytest.param(lambda files: files.key.chmod(0o604), "chmod 600", id="open-key"),
        pytest.param(lambda files: _encrypt(files.key), "the key is encrypted", id="encrypted-key"),
        pytest.param(lambda files: shutil.copy(files.ca, files.cert), "no certificate and its key", id="not-its-key"),
    ],
)
@pytest.mark.parametrize("make", [client_context, server_context])
def test_what_is_wrong_with_the_files_is_named(tmp_path: Path, spoil: object, words: str, make: object) -> None:
    files = Authority(tmp_path).issue("n1", "127.0.0.1")
    spoil(files)  # type: ignore[operator]
    with pytest.raises(ConfigError) as caught:
        make(files)  # type: ignore[operator]
    assert words in caught.value.message


def test_both_ends_show_a_certificate_and_names_are_checked_where_one_dials(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("n1", "127.0.0.1")
    for context in (client_context(files), server_context(files)):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert client_context(files).check_hostname


def test_new_files_are_taken_up_and_bad_ones_are_not(tmp_path: Path) -> None:
    trouble: list[str] = []
    authority = Authority(tmp_path / "ours")
    files = authority.issue("n1", "127.0.0.1")
    tls = Tls(files, trouble=trouble.append)
    first = tls.server
    assert tls.server is first
    files.cert.write_text("half a certifica")
    assert (tls.server, len(trouble)) == (first, 1)
    assert (tls.client is not None, len(trouble)) == (True, 1)  # told once
    authority.issue("n1", "127.0.0.1")
    renewed = tls.server
    assert renewed is not first
    assert tls.server is renewed
    files.key.chmod(0o604)
    assert (tls.server, trouble[-1][-12:]) == (renewed, "chmod 600 it")
    files.key.chmod(0o600)  # as it was told to do: nothing else changes
    assert tls.server is not renewed
    renewed = tls.server
    files.key.unlink()
    assert tls.server is renewed
    assert "n1.key can't be read" in trouble[-1]


def test_a_node_does_not_start_without_them(tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("n1", "127.0.0.1")
    with pytest.raises(ConfigError):
        Tls(replace(files, ca=tmp_path / "absent"))
    assert isinstance(files, TlsFiles)
