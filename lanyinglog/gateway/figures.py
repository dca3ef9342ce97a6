"""A node at one moment, for those who watch it: what `metrics` puts into Prometheus' words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lanyinglog.health import WriteTimes


@dataclass(frozen=True, slots=True)
class Figures:
    """``status`` is that of the log (`service.LogService.status`), with the node's health in it. Bytes appended since
    the log began, and kept of that, are entries as `disk_bytes` counts them."""

    status: Mapping[str, Any]
    connections: int
    waiting_batches: int
    waiting_bytes: int
    appended_bytes: int
    kept_bytes: int
    writes: WriteTimes
