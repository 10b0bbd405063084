"""When to wait for more rows, although a lane is free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from secure_runner.runner.ladder import Ladder

__all__ = ["Linger"]

_LONGEST_S = 0.1
_LOOK_EVERY_S = 0.001
_WEIGHT_OF_NEWEST = 0.2
_WEIGHT_OF_NEWEST_ROW = 0.05
"""Less: many rows come after each answer, and in bursts."""
_MOST_AT_ONCE = 4.0
_MOST_AT_ONCE_S = 0.005
"""A time counts as at most so many times the usual one, and this more: after a night without requests, nobody
is expected to take a night."""
_COST_OF_WAITING = 0.25
"""What a second of waiting is taken to cost, in seconds of a run. The lane stands still, but the processors
do not: they work on the requests that are coming. Padding, though, takes them as much as any row. With 4, 16
and 64 clients on two cores: 7 to 10 % more rows a second than with 1.0, and a shorter p99."""


class Linger:
    """Waits while more rows are likely to come, and worth it.

    Clients that were answered a moment ago mostly ask again. A run of few rows costs about as much as a run
    of many, so a moment's wait can serve all of them sooner: as long as the rows of all, answered after the
    wait, are more a second than the rows that are there, answered without it; the wait counts for what it
    costs. How fast clients come back is measured, and so is how fast one comes after the other; where they
    come slower than that, nobody waits for them.
    """

    def __init__(self, ladder: Ladder) -> None:
        self._ladder = ladder
        self._returning = 0
        """Rows of clients that were answered and have not asked again."""
        self._gap_s = 0.0
        """Usual time from an answer to the first arrival after it."""
        self._spacing_s: float | None = None
        """Usual time from one arrival to the next while clients return, for each row."""
        self._answered_s: float | None = None
        """When the latest answer was given, until somebody asks again."""
        self._latest_s = 0.0

    def answered(self, rows: int) -> None:
        """Requests of so many rows have just been answered."""
        self._returning = rows
        self._answered_s = self._latest_s = time.monotonic()

    def arrived(self, rows: int) -> None:
        """Rows have come."""
        now = time.monotonic()
        if now - self._latest_s >= _LONGEST_S:
            # Nobody waits so long for those who have not come back.
            self._returning = 0
        if self._answered_s is not None:
            gap_s = min(now - self._answered_s, _MOST_AT_ONCE * self._gap_s + _MOST_AT_ONCE_S)
            self._gap_s += _WEIGHT_OF_NEWEST * (gap_s - self._gap_s)
            self._answered_s = None
        elif self._returning:
            spacing_s = (now - self._latest_s) / rows
            usual_s = spacing_s if self._spacing_s is None else self._spacing_s
            self._spacing_s = usual_s + _WEIGHT_OF_NEWEST_ROW * (spacing_s - usual_s)
        self._returning = max(0, self._returning - rows)
        self._latest_s = now

    async def wait(self, waiting: Callable[[], int]) -> None:
        """Wait as long as it is worth it; ``waiting`` counts the rows that are there."""
        began = time.monotonic()
        while (rows := waiting()) and self._is_worth(rows, time.monotonic() - began):
            await asyncio.sleep(_LOOK_EVERY_S)

    def _is_worth(self, rows: int, waited_s: float) -> bool:
        expected = min(self._ladder.largest, rows + self._returning)
        if expected <= rows:
            return False
        run_s = self._ladder.expected_s
        # No wait is longer than the run that it is for.
        if waited_s >= min(run_s(expected), _LONGEST_S):
            return False
        worth_s = (run_s(rows) * expected / rows - run_s(expected)) / _COST_OF_WAITING
        silent_s = time.monotonic() - self._latest_s
        coming_s = (expected - rows) * (self._gap_s if self._spacing_s is None else self._spacing_s)
        if self._answered_s is not None:
            coming_s += self._gap_s
        return max(silent_s, coming_s) < worth_s and silent_s <= 2 * self._gap_s + _LOOK_EVERY_S
