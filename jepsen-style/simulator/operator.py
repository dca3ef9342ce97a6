"""Who sets the limits of retention: asks whoever leads, until it is so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lanyinglog.batcher import Ticket
from lanyinglog.errors import LanyingError
from lanyinglog.service import Ack

if TYPE_CHECKING:
    from simulator.world import World


class Operator:
    """One person with a wish."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ticket: Ticket | None = None

    def begin(self) -> None:
        """Set what the plan says, if it says anything."""
        if self._wish:
            self._world.schedule.after(0.1, self._try)

    @property
    def _wish(self) -> dict[str, int | None]:
        plan = self._world.plan
        limits: dict[str, int | None] = {"messages": plan.keep_messages, "age_s": plan.keep_age_s}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def _try(self) -> None:
        if self._ticket is not None and isinstance(self._ticket.result, Ack):
            return
        if self._ticket is None or self._ticket.result is not None:
            for node in self._world.nodes.values():
                if node.runs and not node.installing and node.core.replica.leads:
                    try:
                        self._ticket = node.core.configure(self._wish, node.now)
                    except LanyingError:
                        continue
                    node.run(node.wake)
                    break
        self._world.schedule.after(0.3, self._try)
