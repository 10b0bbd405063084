"""The ladder of batch sizes: which executable answers a number of rows soonest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_runner.runner.ladder import Ladder


def _measured(run_s: dict[int, float]) -> Ladder:
    ladder = Ladder(list(run_s))
    for batch_size, seconds in run_s.items():
        ladder.measured(batch_size, seconds)
    return ladder


@pytest.mark.parametrize(("rows", "rung"), [(1, 1), (2, 8), (8, 8), (9, 32), (32, 32), (33, 32), (500, 32)])
def test_rungs_that_cost_the_same_are_chosen_by_the_fewest_runs(rows, rung):
    """Where rounds dominate, a padded run of a larger batch beats two runs."""
    assert _measured({1: 0.020, 8: 0.021, 32: 0.022}).first_rung(rows) == rung


@pytest.mark.parametrize(("rows", "rung"), [(1, 1), (2, 1), (4, 1), (5, 8), (8, 8)])
def test_rungs_that_cost_by_the_row_are_not_padded_much(rows, rung):
    """Where computation dominates, some small runs beat one that is mostly padding."""
    assert _measured({1: 0.1, 8: 0.45}).first_rung(rows) == rung


def test_an_unmeasured_rung_is_expected_to_cost_little_more_than_the_one_below():
    """So it is tried, and then known."""
    ladder = Ladder([1, 8])
    ladder.measured(1, 0.4)
    assert 0.4 < ladder.run_s(8) < 0.8
    assert ladder.first_rung(3) == 8


def test_measurements_follow_what_happens_now():
    """A rung that became slow is not run for ever because it once was fast."""
    ladder = _measured({1: 0.01, 8: 0.01})
    for _ in range(30):
        ladder.measured(8, 1.0)
    assert ladder.run_s(8) > 0.9
    assert ladder.first_rung(4) == 1


def test_one_slow_run_of_a_large_rung_does_not_end_its_use():
    """Two batches of 32 cannot be much faster than one of 64: after a while it is tried again."""
    ladder = _measured({1: 0.07, 32: 0.15, 64: 3.3})
    assert ladder.first_rung(64) == 32
    for _ in range(25):
        ladder.measured(32, 0.15)
    assert ladder.first_rung(64) == 64
    ladder.measured(64, 0.2)
    assert ladder.run_s(64) == 0.2, "what was measured in the bad moment is forgotten"


def test_a_large_rung_that_costs_by_the_row_stays_known():
    """It costs what its rows cost, which is no reason to try it over and over."""
    ladder = _measured({1: 0.1, 8: 0.85})
    for _ in range(100):
        ladder.measured(1, 0.1)
    assert ladder.first_rung(2) == 1


@given(
    st.lists(st.integers(1, 256), min_size=1, max_size=5, unique=True),
    st.data(),
    st.integers(1, 1000),
)
def test_a_rung_of_the_ladder_is_always_chosen(batch_sizes, data, rows):
    """Whatever has been measured, also nothing."""
    ladder = Ladder(batch_sizes)
    for batch_size in data.draw(st.lists(st.sampled_from(batch_sizes))):
        ladder.measured(batch_size, data.draw(st.floats(0, 10)))
    assert ladder.first_rung(rows) in batch_sizes


def test_a_single_row_never_waits_for_a_larger_rung_of_the_same_cost():
    """The smallest of equals is chosen."""
    assert _measured({1: 0.02, 8: 0.02}).first_rung(1) == 1


def test_one_slow_run_of_a_small_rung_does_not_send_single_rows_to_a_larger_one():
    """A smaller batch never costs more rounds or bytes, so it is never expected to take longer."""
    ladder = _measured({1: 0.5, 8: 0.03})
    assert ladder.run_s(1) <= ladder.run_s(8)
    assert ladder.first_rung(1) == 1
