"""A dealer that serves for long: right answers, flat memory."""

from __future__ import annotations

from benchmarks.dealer_soak import soak

_REQUESTS = 6_000
_GROWTH_MIB = 8


def test_thousands_of_answers_are_right_and_leave_nothing_behind() -> None:
    """All ten operations in turn, each answer checked; ``make bench`` asks for a million."""
    result = soak(_REQUESTS)

    assert result["n"] == _REQUESTS
    assert result["value"] < _GROWTH_MIB
