"""Thresholds on the grid of the fixed-point ring."""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.trees.ensemble import NEVER

__all__ = ["on_grid"]

NDArray = np.ndarray[Any, Any]

_RING_LIMIT_BITS = 60
"""|threshold| stays below 2**60 units, so that its distance to a feature fits a 64-bit ring."""


def on_grid(thresholds: NDArray, fraction_bits: int) -> NDArray:
    """Round thresholds down to multiples of ``2**-fraction_bits``.

    For a feature on the grid, ``x <= t`` and ``x <= floor(t)`` are the same, so the comparison in the ring
    has the outcome of the one in floats; a threshold of -1e-35, which a ring would take for 0, becomes the
    largest number below 0 that it knows.

    Args:
        thresholds: (splits, comparisons) float32, of ``x <= t``. Two that differ by one last place test
            equality and stay different.
        fraction_bits: of the ring.

    Returns:
        Of the same shape, float32, exact multiples.
    """
    unit = 2.0**-fraction_bits
    limit = 2.0 ** (_RING_LIMIT_BITS - fraction_bits)
    rounded = _floor(np.clip(thresholds.astype(np.float64), -limit, limit), unit)
    for right in range(1, thresholds.shape[1], 2):
        left = right - 1
        merged = (rounded[:, left] == rounded[:, right]) & (thresholds[:, left] != thresholds[:, right])
        merged &= thresholds[:, right] != NEVER
        before = np.nextafter(rounded[merged, left].astype(np.float32), np.float32(-np.inf))
        rounded[merged, right] = _floor(before.astype(np.float64), unit)
    return rounded.astype(np.float32)


def _floor(values: NDArray, unit: float) -> NDArray:
    """Down to the grid; float32 holds the result, since what it cannot hold is a multiple already."""
    return np.asarray(np.floor(values / unit) * unit)
