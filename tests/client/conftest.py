"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from client.loopback import Loopback, loopback


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: Any) -> str:
    """Both event loops that the client works under."""
    return str(request.param)


@pytest.fixture
def cluster() -> Iterator[Loopback]:
    """One node, which leads."""
    with loopback() as running:
        yield running


@pytest.fixture
def three() -> Iterator[Loopback]:
    """Three nodes; the first leads."""
    with loopback(3) as running:
        yield running
