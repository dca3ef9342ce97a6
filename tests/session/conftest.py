"""Both ways in which a session waits for its client."""

from __future__ import annotations

import pytest
from session.dialogue import House, memory_pair, socket_pair


@pytest.fixture(params=[memory_pair, socket_pair], ids=["in memory", "over sockets"])
def streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over sockets the poller's task receives and answers, and what is sent leaves at once as long as the system takes
    it; in memory each session does all of that by itself."""
    monkeypatch.setattr(House, "pair", staticmethod(request.param))
