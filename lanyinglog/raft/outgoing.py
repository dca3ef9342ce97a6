"""What waits to leave a node: a message, for whom, and which sync it must not leave before."""

from __future__ import annotations

from dataclasses import dataclass

from lanyinglog.raft.messages import Appended, PeerMessage

NEVER_WAITS = 0
"""The journal version of messages that wait for no sync."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message for ``to``, to be sent once the journal's durable version reaches ``version``."""

    to: str
    message: PeerMessage
    version: int

    def is_said_by(self, message: PeerMessage) -> bool:
        """Whether ``message`` says all that this one does, which waits for the same sync."""
        other = self.message
        if isinstance(message, Appended) and isinstance(other, Appended):
            newer = message.number >= other.number and message.match >= other.match
            return newer and (message.term, message.success) == (other.term, other.success)
        return message == other
