"""The systems, one a file, by name, in the order in which they are listed and drawn."""

from __future__ import annotations

from benchmarks.system import System
from benchmarks.systems import etcd, lanyinglog, nats, rabbitmq, raw, redis

ALL: dict[str, System] = {
    system.name: system for one in (lanyinglog, raw, nats, redis, rabbitmq, etcd) for system in one.SYSTEMS
}
