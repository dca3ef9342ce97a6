"""The checkout's own environment: made once, used by every Python that comes later, never a mix of two."""

import sys
from pathlib import Path

import pytest

from lanyinglog import checkout


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for ``.venv``, in which nothing is really installed: the commands that would do it are lost."""
    place = tmp_path / ".venv"
    monkeypatch.setattr(checkout, "ENVIRONMENT", place)
    monkeypatch.setattr(checkout, "_call", lambda command, purpose: place.mkdir(exist_ok=True))
    return place


def a_python_that_says(environment: Path, version: str) -> Path:
    python = environment / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\ncat <<'end'\n{version}\nend\n")
    python.chmod(0o755)
    return python


def test_an_environment_of_another_python_is_made_anew(environment: Path):
    python = a_python_that_says(environment, "3.11.0 (another one)")
    checkout._make(python, "test")
    assert not python.exists()


def test_an_environment_of_this_python_is_kept(environment: Path):
    python = a_python_that_says(environment, sys.version)
    checkout._make(python, "test")
    assert python.exists()


def test_an_environment_serves_whichever_python_asks(environment: Path, monkeypatch: pytest.MonkeyPatch):
    python = a_python_that_says(environment, sys.version)
    assert not checkout._is_current(python, "test")
    checkout._make(python, "test")
    monkeypatch.setattr(sys, "version", "3.13.0 (a later one)")
    assert checkout._is_current(python, "test")
    assert not checkout._is_current(python, None)


def test_an_environment_whose_python_went_away_is_not_current(environment: Path):
    python = a_python_that_says(environment, sys.version)
    checkout._make(python, None)
    python.unlink()
    assert not checkout._is_current(python, None)
