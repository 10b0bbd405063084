"""What is known of a lane at this party, for readiness, dashboards and the queue."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

__all__ = ["LaneState"]

_log = logging.getLogger(__name__)


@dataclass
class LaneState:
    """A lane runs one session after the other; this says where it is."""

    lane: int
    epoch: int = 0
    """Number of the session that serves, or of the latest that did; 0 before the first."""
    recoveries: int = 0
    """Sessions that ended although nobody asked them to."""
    doing: str = "starting"
    """In a few words."""
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while a session serves at this party."""

    def begins_serving(self, epoch: int) -> None:
        """A session serves from now on, in the place of any other."""
        if self.serving.is_set() and epoch == self.epoch:
            return
        self.epoch = epoch
        self.doing = f"session {epoch} is serving"
        self.serving.set()
        _log.info("lane %d: %s", self.lane, self.doing)

    def ends_serving(self) -> None:
        """The session is over."""
        self.serving.clear()

    def recovers(self, reason: str) -> None:
        """Nobody asked for the end."""
        self.recoveries += 1
        self.doing = f"session {self.epoch} ended ({reason}); starting the next"
        _log.warning("lane %d: %s", self.lane, self.doing)

    def fails(self, epoch: int, reason: str) -> None:
        """A session could not be formed."""
        sentence = f"session {epoch} {reason}; starting the next"
        _log.warning("lane %d: %s", self.lane, sentence)
        if not self.serving.is_set():
            self.recoveries += 1
            self.doing = sentence

    def waits(self, reason: str) -> None:
        """Something else must happen first."""
        self.doing = reason
