"""Waiting for more rows: for clients that come back, as fast as they do, and while it is worth it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from secure_runner.runner import linger as linger_module
from secure_runner.runner.ladder import Ladder
from secure_runner.runner.linger import Linger
from secure_runner.runner.queue import BatchQueue


class Clock:
    """Time that passes when somebody sleeps; rows come at given times."""

    def __init__(self, linger: Linger, arrivals: Sequence[float]) -> None:
        self.now = 0.0
        self.rows = 0
        self._linger = linger
        self._arrivals = sorted(arrivals)

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self._arrivals and self._arrivals[0] <= until:
            self.now = self._arrivals.pop(0)
            self.rows += 1
            self._linger.arrived(1)
        self.now = until


def _waited(
    monkeypatch: pytest.MonkeyPatch,
    *,
    usual_gap_s: float,
    answered: int,
    arrivals: Sequence[float],
    run_s: float = 0.02,
    pause_s: float = 0.0,
    until_s: float = 0.001,
    spacing_s: float | None = None,
) -> tuple[float, int]:
    """Seconds waited from ``until_s`` on and rows then there, where ``answered`` clients were answered at 0.

    Before, one client came back 30 times after the usual gap, with ``spacing_s`` others after it, and once
    more after a pause.
    """
    ladder = Ladder((1, 8, 32, 64))
    for size in ladder.batch_sizes:
        ladder.measured(size, run_s)
    linger = Linger(ladder)
    clock = Clock(linger, [])
    monkeypatch.setattr(linger_module.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(linger_module.asyncio, "sleep", clock.sleep)
    for _ in range(30):
        linger.answered(1 if spacing_s is None else 4)
        clock.advance(usual_gap_s)
        linger.arrived(1)
        for _ in range(0 if spacing_s is None else 3):
            clock.advance(spacing_s or 0.0)
            linger.arrived(1)
    linger.answered(1)
    clock.advance(pause_s)
    linger.arrived(1)
    clock.now = 0.0
    linger.answered(answered)
    clock._arrivals = sorted(arrivals)
    clock.advance(until_s)
    began = clock.now
    asyncio.run(linger.wait(lambda: clock.rows))
    return clock.now - began, clock.rows


def test_clients_that_come_back_at_once_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen were answered and ask again within some milliseconds: all go together, at once then."""
    arrivals = [0.001 + 0.0005 * n for n in range(16)]
    waited_s, rows = _waited(monkeypatch, usual_gap_s=0.001, answered=16, arrivals=arrivals)
    assert rows == 16
    assert waited_s < 0.012


def test_nobody_waits_for_clients_that_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """They usually come back later than a run takes."""
    waited_s, rows = _waited(monkeypatch, usual_gap_s=0.5, answered=4, arrivals=[0.001, 0.4])
    assert (waited_s, rows) == (0.0, 1)


def test_nobody_waits_for_a_client_that_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """After twice the usual time it is not expected any more."""
    waited_s, rows = _waited(monkeypatch, usual_gap_s=0.002, answered=2, arrivals=[0.001])
    assert rows == 1
    assert waited_s < 0.008


def test_a_full_batch_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to gain."""
    waited_s, rows = _waited(monkeypatch, usual_gap_s=0.001, answered=128, arrivals=[0.001] * 64)
    assert (waited_s, rows) == (0.0, 64)


def test_a_wait_ends_where_it_costs_more_than_it_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that trickle in are waited for no longer than a run takes."""
    arrivals = [0.001 + 0.004 * n for n in range(32)]
    waited_s, rows = _waited(monkeypatch, usual_gap_s=0.003, answered=32, arrivals=arrivals, run_s=0.01)
    assert 1 < rows < 5
    assert waited_s < 0.012


def test_the_last_clients_of_a_batch_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six of 32 are late, behind the answers to another batch: padding would cost as much as they do."""
    arrivals = [0.001] * 26 + [0.009 + 0.0005 * n for n in range(6)]
    waited_s, rows = _waited(monkeypatch, usual_gap_s=0.009, answered=32, arrivals=arrivals, run_s=0.028)
    assert rows >= 31, "for one row alone it is not worth it"
    assert waited_s < 0.014


def test_the_last_of_many_are_waited_for_as_fast_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first comes late, behind all answers to the others; then one follows the other closely."""
    arrivals = [0.001] * 60 + [0.003, 0.004, 0.005, 0.006]
    waited_s, rows = _waited(
        monkeypatch, usual_gap_s=0.025, spacing_s=0.0003, answered=64, arrivals=arrivals, run_s=0.028
    )
    assert rows == 64
    assert waited_s < 0.01


def test_a_pause_of_all_clients_is_not_what_they_usually_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come back fast, but for a night: the next morning they are waited for as before."""
    arrivals = [0.001 + 0.0005 * n for n in range(16)]
    waited_s, rows = _waited(monkeypatch, usual_gap_s=0.001, pause_s=30_000.0, answered=16, arrivals=arrivals)
    assert rows == 16
    assert waited_s < 0.012


def test_nobody_waits_for_the_clients_of_an_hour_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four were answered then; one comes now."""
    waited_s, rows = _waited(monkeypatch, usual_gap_s=0.025, answered=64, arrivals=[3600.0], until_s=3600.0)
    assert (waited_s, rows) == (0.0, 1)


def test_two_clients_in_turn_are_merged() -> None:
    """Two closed loops share every batch, instead of each waiting for the other's."""

    async def main() -> list[int]:
        batches: list[int] = []

        async def run(batch_size: int, arrays: dict[str, np.ndarray], parts: Sequence[object]) -> object:
            batches.append(len(parts))
            await asyncio.sleep(0.02)
            return {"y": arrays["x"]}, 0.02

        async def always() -> None:
            return

        ladder = Ladder((1, 8))
        queue = BatchQueue(ladder, run, always)  # type: ignore[arg-type]
        dispatching = asyncio.create_task(queue.dispatch())

        async def client() -> None:
            for _ in range(25):
                await queue.submit({"x": np.zeros((1, 2), np.float32)})

        first = asyncio.create_task(client())
        await asyncio.sleep(0.01)
        await asyncio.gather(first, client())
        queue.stop()
        dispatching.cancel()
        return batches

    batches = asyncio.run(main())
    assert batches.count(2) >= 15
