"""How long each stage of a party's start took."""

from __future__ import annotations

import time

__all__ = ["Stages"]


class Stages:
    """Seconds by stage, in order, from when it is made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.monotonic()

    def done(self, stage: str) -> None:
        """A stage is over, and the next begins."""
        now = time.monotonic()
        self.seconds[stage] = round(now - self._since, 3)
        self._since = now

    def waited(self) -> None:
        """What has passed belongs to no stage: the process stood by."""
        self._since = time.monotonic()
