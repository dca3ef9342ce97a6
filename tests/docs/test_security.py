"""docs/security.md: its commands make certificates that nodes and clients can use, its blocks are what they say."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import tomllib
from pathlib import Path

import pytest

from lanyinglog.config import TLS_KEYS
from lanyinglog.tls import TlsFiles, client_context, server_context

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    """A handshake in memory; `ssl.SSLError` if one end does not like the other."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(back, there, server_hostname=host),
        server.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the commands are openssl's")
def test_its_commands_make_certificates_that_work(tmp_path: Path) -> None:
    (commands,) = [block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "openssl req" in block]
    done = subprocess.run(["sh", "-e", "-c", commands], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = {
        name: TlsFiles(*(tmp_path / file for file in (f"{name}.pem", f"{name}.key", "ca.pem")))
        for name in ("n1", "n2", "app")
    }
    _shake_hands(client_context(files["app"]), server_context(files["n1"]), "log1")
    _shake_hands(client_context(files["n2"]), server_context(files["n1"]), "10.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        _shake_hands(client_context(files["app"]), server_context(files["n1"]), "log2")


def test_its_settings_are_those_there_are() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert tuple(tomllib.loads(text)) == TLS_KEYS


def test_its_python_is_a_program() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(block, "docs/security.md", "exec"), names)
    assert callable(names["secured"]) and callable(names["main"])
