"""Purging: no reader gets what was published to some topics so far, from then on, on any node.

A purge is an entry, so all nodes purge alike; it names topics by a filter and concerns the messages before it. It hides
and frees nothing: an entry may hold messages of other topics, and what retention removes is whole entries from the
front. Seqs stay as they are: a reader passes over what is purged as over topics that it did not ask for.

A request whose answer was lost is repeated, and must not purge what came in between. So it has a number, and the log
knows the last `REMEMBERED` of them.
"""

from __future__ import annotations

from typing import NamedTuple

from lanyinglog import codec
from lanyinglog.errors import BadRequest, BadTopic, ProtocolError
from lanyinglog.topics import check_filter

REMEMBERED = 64
NUMBER_MAX = (1 << 63) - 1


class Purge(NamedTuple):
    """``number``, 1 to NUMBER_MAX, is the caller's choice, at random."""

    filter: str
    number: int

    def encode(self) -> bytes:
        """The body of a purge command; `BadRequest`, `BadTopic`."""
        check_filter(self.filter)
        if type(self.number) is not int or not 1 <= self.number <= NUMBER_MAX:
            raise BadRequest(f"the number of a purge must be 1 to {NUMBER_MAX}, not {self.number}")
        return codec.pack([self.filter, self.number])

    @classmethod
    def decode(cls, body: bytes) -> Purge:
        """`BadRequest` unless it is what `encode` made."""
        try:
            purge = cls(*codec.unpack(body))
            if purge.encode() == body:
                return purge
        except (ProtocolError, BadTopic, TypeError, ValueError, AttributeError) as error:
            raise BadRequest(f"a purge command that can't be read: {error}") from error
        raise BadRequest("a purge command that can't be read")
