"""Client connections on a node: `serve_clients` accepts them, `serve_session` serves one.

Read in this order: `connection` (what a client may ask, and who runs), `reader` (what comes, and when it is answered),
`poller` (one task waits for all sockets), `outbox` (the one writer), `subscription` (pushes and credit), `hub` (one
task serves all who have read everything), `listener` (accepting).
"""

from lanyinglog.session.connection import NodeIdentity, serve_session
from lanyinglog.session.listener import Served, serve_clients

__all__ = ["NodeIdentity", "Served", "serve_clients", "serve_session"]
