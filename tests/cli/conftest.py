"""One cluster for all tests of a module, gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_programs import Cluster

from lanyinglog.cli.processes import free_port


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), free_port(nodes=3))
    started = made.start()
    assert started.code == 0, started.err
    yield made
    assert made.stop().code == 0
