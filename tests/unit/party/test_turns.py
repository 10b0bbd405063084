"""Turns of two runtimes: after the first, no batch is held up while oblivious transfers are made."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from secure_runner.party.turns import MOST_PREPARING_RUNS, Turns

LARGEST = 32
USUAL_S = {1: 0.02, 8: 0.03, 32: 0.05}
MAKING_S = 0.45


@dataclass
class Runtime:
    """Uses up a stock of so many rows; makes it anew, as SPU does, in the run that finds too little left."""

    lasts: float
    left: float | None = None

    def run(self, rows: int) -> tuple[float, bool]:
        """Processor time, and whether the run was held up."""
        if self.left is None:
            self.left = self.lasts - rows
            return 1.3, False
        held_up = self.left < rows
        if held_up:
            self.left += self.lasts
        self.left -= rows
        return USUAL_S[rows] + MAKING_S * held_up, held_up


@dataclass
class Party:
    """Runs batches one after the other, and preparations once so many batches have passed since."""

    turns: Turns
    runtimes: list[Runtime]
    takes_batches: int = 0
    held_up: list[int] = field(default_factory=list)
    """Which batches were."""
    prepared_runs: int = 0
    batches: int = 0
    _due: list[tuple[int, int]] = field(default_factory=list)
    _prepared_since: Counter[int] = field(default_factory=Counter)

    def serve(self, rows: int, more_cpu_s: float = 0.0) -> int:
        """One batch; where it ran."""
        index = self.turns.take(rows)
        self._prepared_since[index] = 0
        cpu_s, held_up = self.runtimes[index].run(rows)
        self.turns.ran(index, rows, cpu_s + more_cpu_s)
        if held_up:
            self.held_up.append(self.batches)
        self.batches += 1
        if (due := self.turns.due()) is not None:
            self._due.append((due, self.batches + self.takes_batches))
        while self._due and self._due[0][1] <= self.batches:
            self.prepare(self._due.pop(0)[0])
        return index

    def prepare(self, index: int) -> None:
        stocked = False
        for _ in range(MOST_PREPARING_RUNS):
            self.turns.prepare(index)
            cpu_s, _ = self.runtimes[index].run(LARGEST)
            self.prepared_runs += 1
            self._prepared_since[index] += 1
            assert self._prepared_since[index] <= MOST_PREPARING_RUNS, "the other party would refuse it"
            stocked = self.turns.ran(index, LARGEST, cpu_s)
            if stocked:
                break
        self.turns.prepared(index, stocked=stocked)


def party(lasts: float, count: int = 2, takes_batches: int = 0) -> Party:
    return Party(Turns(count, LARGEST), [Runtime(lasts) for _ in range(count)], takes_batches)


@pytest.mark.parametrize("lasts", [1288.0, 1280.0, 1279.0, 500.5])
@pytest.mark.parametrize("sizes", [(32,), (1,), (1, 8, 32)])
def test_only_the_first_batch_that_finds_too_little_left_is_held_up(
    lasts: float, sizes: tuple[int, ...]
) -> None:
    random.seed(7)
    here = party(lasts, takes_batches=4)
    for _ in range(20_000):
        here.serve(random.choice(sizes))
    assert len(here.held_up) == 1, here.held_up
    assert here.prepared_runs > 0


def test_preparation_uses_up_little_of_what_it_makes() -> None:
    here = party(1288.0)
    for _ in range(10_000):
        here.serve(LARGEST)
    assert here.prepared_runs < here.batches / 10


def test_one_runtime_has_every_turn() -> None:
    here = party(1288.0, count=1)
    assert {here.serve(LARGEST) for _ in range(500)} == {0}
    assert len(here.held_up) == 12
    assert here.prepared_runs == 0


def test_a_stock_that_lasts_a_few_batches_is_left_alone() -> None:
    here = party(5.0 * LARGEST)
    assert {here.serve(LARGEST) for _ in range(500)} == {0}
    assert here.prepared_runs == 0


def test_a_runtime_that_is_not_ready_in_time_is_not_waited_for() -> None:
    here = party(1288.0, takes_batches=60)
    for _ in range(2_000):
        here.serve(LARGEST)
    assert 1 < len(here.held_up) < 2_000 / 40


def test_batches_that_are_still_to_run_count() -> None:
    turns = Turns(2, LARGEST)
    turns.take(1)
    turns.ran(0, 1, 1.3)
    for _ in range(50):
        turns.take(LARGEST)
        turns.ran(0, LARGEST, 0.05)
    turns.take(LARGEST)
    turns.ran(0, LARGEST, 0.5)
    assert turns.due() == 1
    turns.prepare(1)
    assert turns.ran(1, LARGEST, 1.3)
    turns.prepared(1, stocked=True)
    taken = [turns.take(LARGEST) for _ in range(60)]
    assert taken.index(1) < 50, "nothing ran, and yet the other runtime's turn has come"
    assert turns.due() is None, "it still has batches to run"
    for index in taken:
        turns.ran(index, LARGEST, 0.05)
    assert turns.due() == 0


@pytest.mark.parametrize("at", [100, 300, 310, 700])
def test_a_run_that_was_long_for_another_reason_is_soon_forgotten(at: int) -> None:
    here = party(1288.0)
    for batch in range(4_000):
        here.serve(LARGEST, more_cpu_s=5.0 if batch == at else 0.0)
    assert len(here.held_up) <= 4
    assert here.prepared_runs < here.batches / 15
