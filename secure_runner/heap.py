"""The heap of a long-lived process: old objects out of the collector's sight, freed memory given back."""

from __future__ import annotations

import ctypes
import gc

__all__ = ["settle_heap"]

_THRESHOLDS = (50_000, 50, 100)


def settle_heap() -> None:
    """Call once a process has imported and built what it keeps.

    Python's collector looks through every old object now and then, and some hundred thousand of them, from
    imports, make a request wait 100 ms and more.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what loading took and freed
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
