"""The blocking client: `connect`, and what it gives. For programs without an event loop; see `docs/client.md`."""

from __future__ import annotations

from lanyinglog.client.acks import Ack, Acks
from lanyinglog.client.blocking import BatchBuilder, Client, Pending, Publisher, Subscription, connect
from lanyinglog.record import Message

__all__ = ["Ack", "Acks", "BatchBuilder", "Client", "Message", "Pending", "Publisher", "Subscription", "connect"]
