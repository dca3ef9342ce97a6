"""lanyinglog: a Raft-replicated, ordered message log for Python teams.

::

    async with lanyinglog.connect("127.0.0.1:7420") as client:      # asyncio or trio
        ack = await client.publish("orders.eu", b"...")
    with lanyinglog.sync.connect("127.0.0.1:7420") as client:       # without an event loop
        ack = client.publish("orders.eu", b"...")

Names below are imported when they are first used, so that ``import lanyinglog`` costs nothing: the node, the command
line and a reader of the version need no client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lanyinglog import errors, sync
    from lanyinglog.client.acks import Ack, Acks, Pending
    from lanyinglog.client.client import BatchBuilder, Client, connect
    from lanyinglog.client.publisher import Publisher
    from lanyinglog.client.subscription import Subscription
    from lanyinglog.errors import LanyingError, Outcome
    from lanyinglog.record import Message
    from lanyinglog.service import TopicStat

__version__ = "0.1.0"
__all__ = [
    "Ack",
    "Acks",
    "BatchBuilder",
    "Client",
    "LanyingError",
    "Message",
    "Outcome",
    "Pending",
    "Publisher",
    "Subscription",
    "TopicStat",
    "__version__",
    "connect",
    "errors",
    "sync",
]

_HOMES = {
    "Ack": "client.acks",
    "Acks": "client.acks",
    "BatchBuilder": "client.client",
    "Client": "client.client",
    "LanyingError": "errors",
    "Message": "record",
    "Outcome": "errors",
    "Pending": "client.acks",
    "Publisher": "client.publisher",
    "Subscription": "client.subscription",
    "TopicStat": "service",
    "connect": "client.client",
}
"""Name -> the module it lives in. `errors` and `sync` are modules themselves."""


def __getattr__(name: str) -> Any:
    if name in ("errors", "sync"):
        return import_module(f"lanyinglog.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'lanyinglog' has no attribute {name!r}")
    value = getattr(import_module(f"lanyinglog.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
