"""Which of two SPU runtimes a batch runs in, so that none waits while oblivious transfers are made.

Cheetah's comparisons use up correlated oblivious transfers. Ferret (Yang et al., CCS 2020) makes ten million
of them at a time, and the run that finds too few left makes the next ones first: half a second of processor
time at each party, ten times what a row of a small network takes. Two runtimes each have a stock of their
own, and take turns: while one serves, the other's stock is made anew.

SPU does not say how many are left. Each executable uses as many for a row, whatever the row; so how many rows
a stock lasts is learned from the first run that was held up.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

__all__ = ["MOST_PREPARING_RUNS", "Turns"]

MOST_PREPARING_RUNS = 6
"""What is left of a stock that was thought to be nearly used up is used up by fewer runs."""

_LONG_TIMES = 2.0
_LONG_S = 0.1
"""A run was held up if it took so many times its usual processor time, and so many seconds more."""

_FEWEST_BATCHES = 8
"""Largest batches that a stock has to last. Where it lasts less, making it is a small part of each run."""


@dataclass
class _Turn:
    """One runtime. Counts of rows are of padded batches, since the session began."""

    taken: int = 0
    """Given to it."""
    ran: int = 0
    """Computed by it."""
    stocked_at: int = 0
    """Of ``ran``: what it had computed when its stock was last made."""
    preparing: bool = False

    @property
    def used(self) -> int:
        """Rows that its stock has to serve, those that are still to be computed with them."""
        return self.taken - self.stocked_at


class Turns:
    """Kept by the data owner's party, which says in which runtime all parties run a batch.

    Args:
        count: of runtimes that hold the program, 1 or 2; with one there is nothing to decide.
        largest: rows of the largest batch.
    """

    def __init__(self, count: int, largest: int) -> None:
        self.largest = largest
        self.held_up = 0
        """Batches that waited for a stock to be made."""
        self.made_ahead = 0
        """Stocks that were made while the other runtime served."""
        self._turns = [_Turn() for _ in range(count)]
        self._present = 0
        self._lasts: int | None = None
        """Rows that a stock lasts, at least."""
        self._usual_s: dict[int, float] = {}
        self._lock = threading.Lock()

    def take(self, batch_size: int) -> int:
        """The runtime that the next batch runs in."""
        with self._lock:
            other = (self._present + 1) % len(self._turns)
            if self._is_low(self._present, batch_size) and self._is_stocked(other, batch_size):
                self._present = other
            self._turns[self._present].taken += batch_size
            return self._present

    def ran(self, index: int, batch_size: int, cpu_s: float) -> bool:
        """A batch was computed; returns whether the runtime's stock was made in it.

        Args:
            index: of the runtime.
            batch_size: its rows.
            cpu_s: processor time of the thread that ran it, which waiting for other parties is no part of.
        """
        with self._lock:
            turn = self._turns[index]
            # The first run of a runtime sets it up, with a stock of its own.
            stocked = turn.ran == 0
            if not stocked and self._is_long(batch_size, cpu_s):
                lasted, stocked = turn.ran - turn.stocked_at, True
                self._lasts = lasted if lasted >= _FEWEST_BATCHES * self.largest else None
                turn.stocked_at = turn.ran
                self.held_up += not turn.preparing
            turn.ran += batch_size
            return stocked

    def due(self) -> int | None:
        """A runtime whose stock is to be made now, if there is one: all its batches are computed, and the
        other one serves."""
        with self._lock:
            for index, turn in enumerate(self._turns):
                idle = index != self._present and turn.taken == turn.ran and not turn.preparing
                if idle and self._lasts is not None and not self._is_stocked(index, self.largest):
                    turn.preparing = True
                    return index
        return None

    def prepare(self, index: int) -> None:
        """A largest batch, of nobody's rows, is about to run in a runtime that is due."""
        with self._lock:
            self._turns[index].taken += self.largest

    def prepared(self, index: int, *, stocked: bool) -> None:
        """Its preparation is over; ``stocked`` says whether its stock was made in one of its runs."""
        with self._lock:
            self._turns[index].preparing = False
            self.made_ahead += stocked
            if not stocked:
                # A stock lasts longer than was thought: learn it anew.
                self._lasts = None

    def _is_low(self, index: int, batch_size: int) -> bool:
        """Whether so many rows more could find too little left; the largest batch is kept as a margin."""
        if self._lasts is None:
            return False
        return self._turns[index].used + batch_size > self._lasts - self.largest

    def _is_stocked(self, index: int, batch_size: int) -> bool:
        turn = self._turns[index]
        return turn.ran > 0 and not turn.preparing and not self._is_low(index, batch_size)

    def _is_long(self, batch_size: int, cpu_s: float) -> bool:
        usual_s = self._usual_s.get(batch_size, cpu_s)
        self._usual_s[batch_size] = min(usual_s, cpu_s)
        return cpu_s > _LONG_TIMES * usual_s and cpu_s > usual_s + _LONG_S
