"""Work that waits for all other work of the machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["behind_all"]

_T = TypeVar("_T")
_LAST = 19
"""The highest niceness, which is the lowest priority."""


def behind_all(work: Callable[[], _T]) -> _T:
    """Do some work in a thread of the lowest priority, and wait for it.

    It should be in C++ and hold no lock meanwhile, Python's own among them: whoever needs one that it holds
    would have to wait for the rest of the machine, too. No thread may raise its priority again, so this one
    ends with the work.
    """
    with ThreadPoolExecutor(1, "behind_all", initializer=_give_way) as pool:
        return pool.submit(work).result()


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LAST)
