"""Work behind all other work: in a thread of its own, which alone has the lowest priority."""

from __future__ import annotations

import os
import threading

import pytest

from secure_runner.party.priority import behind_all


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_the_work_alone_has_the_lowest_priority() -> None:
    before = _niceness()
    assert behind_all(_niceness) == 19
    assert _niceness() == before


def test_a_fault_in_the_work_is_the_callers() -> None:
    def fail() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        behind_all(fail)
