"""Which executables of the ladder to run for a number of rows, from measured run times."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["Ladder"]

_WEIGHT_OF_NEWEST = 0.2
_DOUBTED_FROM = 1.25
"""Times what smaller batches of the same rows take."""
_DOUBTED_FOR = 20
"""Batches of other rungs, until a time that is doubted is forgotten."""


class Ladder:
    """Batch sizes of a program, and how long each takes here.

    A rung that has not run yet is taken to cost as much as the nearest smaller one that has (MPC is bound by
    rounds, which do not grow with the batch) plus a little for each row. No rung is taken to cost more than a
    larger one: where it was measured so, something else held it up. Likewise rows cost no more together than
    apart; a rung that seems to is tried again after some batches, or one bad moment would end its use.
    """

    def __init__(self, batch_sizes: Sequence[int]) -> None:
        self._all = self.batch_sizes = tuple(sorted(batch_sizes))
        self._allowed: int | None = None
        self._run_s: dict[int, float] = {}
        self._batches = 0
        self._measured_at: dict[int, int] = {}

    @property
    def largest(self) -> int:
        """Rows of the largest executable."""
        return self.batch_sizes[-1]

    def allow_up_to(self, rows: int | None) -> None:
        """Use no larger executable than this; None allows all. The smallest one is always used."""
        if rows != self._allowed:
            self._allowed = rows
            self.batch_sizes = tuple(s for s in self._all if rows is None or s <= rows) or self._all[:1]

    def measured(self, batch_size: int, run_s: float) -> None:
        """Take note of one run."""
        known = self._run_s.get(batch_size)
        self._run_s[batch_size] = run_s if known is None else known + _WEIGHT_OF_NEWEST * (run_s - known)
        self._batches += 1
        self._measured_at[batch_size] = self._batches
        for doubtful in [size for size in self._run_s if self._is_doubtful(size)]:
            del self._run_s[doubtful]

    def run_s(self, batch_size: int) -> float:
        """Expected run time of a rung in seconds."""
        larger = [run_s for size, run_s in self._run_s.items() if size > batch_size]
        smaller = [size for size in self.batch_sizes if size <= batch_size and size in self._run_s]
        if not smaller:
            return min(0.05 * (1 + 0.01 * batch_size), *larger, math.inf)
        known = smaller[-1]
        return min(self._run_s[known] * (1 + 0.01 * (batch_size - known)), *larger, math.inf)

    def first_rung(self, rows: int) -> int:
        """Which rung to run first so that all ``rows`` are answered soonest.

        Rows above the largest rung take more than one run. Below it, one padded run competes with several
        smaller ones: two rows of a convolutional network are cheaper as two runs of one than as one of eight.
        """
        return min(self.batch_sizes, key=lambda size: self._rest_s(rows, size))

    def expected_s(self, rows: int) -> float:
        """Expected time until all ``rows`` are answered, run as :meth:`first_rung` says, in seconds."""
        return min(self._rest_s(rows, size) for size in self.batch_sizes)

    def _is_doubtful(self, batch_size: int) -> bool:
        if self._batches - self._measured_at[batch_size] < _DOUBTED_FOR:
            return False
        apart_s = [
            math.ceil(batch_size / size) * run_s for size, run_s in self._run_s.items() if size < batch_size
        ]
        return bool(apart_s) and self._run_s[batch_size] > _DOUBTED_FROM * min(apart_s)

    def _rest_s(self, rows: int, first: int) -> float:
        runs = -(-rows // first)
        full, rest = divmod(rows, first)
        if runs == 1 or not rest:
            return runs * self.run_s(first)
        last = min((size for size in self.batch_sizes if size >= rest), default=first)
        return full * self.run_s(first) + min(self.run_s(last), self.run_s(first))
