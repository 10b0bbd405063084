"""The batching queue: every request gets the answer of its own rows, or an error, whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_runner.errors import (
    DeadlineError,
    InputError,
    OverloadedError,
    SecureRunnerError,
    UnavailableError,
)
from secure_runner.runner.ladder import Ladder
from secure_runner.runner.queue import BatchQueue

LADDER = (1, 4, 16)


class FakeRun:
    """Answers ``2 x`` and the sum of each row of ``x`` after a while; remembers every batch."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[np.ndarray] = []
        self.failures: list[Exception | None] = []
        self.at_once = 0
        self.most_at_once = 0
        self.gate: asyncio.Event | None = None

    async def __call__(self, batch_size: int, arrays: Any, parts: Any) -> tuple[dict[str, np.ndarray], float]:
        assert set(arrays) == {"x"}
        assert len(arrays["x"]) == batch_size
        assert batch_size in LADDER
        assert 0 < sum(part.rows for part in parts) <= batch_size
        assert all(part.waited_s >= 0 for part in parts)
        self.batches.append(arrays["x"].copy())
        failure = self.failures.pop(0) if self.failures else None
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        if failure is not None:
            raise failure
        return {"double": 2 * arrays["x"], "sum": arrays["x"].sum(axis=1)}, self.seconds


def _rows(*firsts: float) -> dict[str, np.ndarray]:
    return {"x": np.array([[first, first + 0.5] for first in firsts], np.float32)}


def _is_right(asked: dict[str, np.ndarray], answer: dict[str, np.ndarray]) -> bool:
    return np.array_equal(answer["double"], 2 * asked["x"]) and np.array_equal(
        answer["sum"], asked["x"].sum(axis=1)
    )


def _with_queue(
    test: Callable[[BatchQueue], Awaitable[Any]],
    run: FakeRun,
    session: Callable[[], Awaitable[object]] | None = None,
    **options: Any,
) -> Any:
    async def always() -> None:
        return

    async def main() -> Any:
        queue = BatchQueue(Ladder(LADDER), run, session or always, **options)
        dispatching = asyncio.create_task(queue.dispatch())
        try:
            return await asyncio.wait_for(test(queue), 20)
        finally:
            queue.stop()
            dispatching.cancel()
            await asyncio.gather(dispatching, return_exceptions=True)

    return asyncio.run(main())


def test_requests_that_arrive_during_a_run_share_the_next_one():
    """Ten clients wait for one batch, not for ten."""
    run = FakeRun(0.01)

    async def test(queue: BatchQueue) -> None:
        asked = [_rows(n) for n in range(11)]
        first = asyncio.create_task(queue.submit(asked[0]))
        await asyncio.sleep(0.002)
        answers = await asyncio.gather(first, *(queue.submit(rows) for rows in asked[1:]))
        assert all(map(_is_right, asked, answers))

    _with_queue(test, run)
    assert [len(batch) for batch in run.batches] == [1, 16]


def test_a_batch_is_filled_up_with_zeros():
    """No other request's rows and no leftovers stand in the padding."""
    run = FakeRun()

    async def test(queue: BatchQueue) -> dict[str, np.ndarray]:
        return await queue.submit(_rows(1, 2, 3))

    answer = _with_queue(test, run)
    assert _is_right(_rows(1, 2, 3), answer)
    (batch,) = run.batches
    assert batch.shape == (4, 2)
    assert not batch[3].any()


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 50])
def test_a_request_larger_than_the_ladder_is_split_and_put_together_in_order(rows):
    """Its client sees one answer with its rows in its order."""
    run = FakeRun()
    asked = _rows(*range(rows))
    assert _is_right(asked, _with_queue(lambda queue: queue.submit(asked), run))
    assert max(len(batch) for batch in run.batches) <= max(LADDER)


def test_a_large_request_does_not_hold_up_a_small_one():
    """A client with one row is answered after the next batch, not after another client's hundreds."""
    run = FakeRun(0.001)
    done: list[str] = []

    async def ask(queue: BatchQueue, client: str, count: int) -> None:
        asked = _rows(*range(count))
        assert _is_right(asked, await queue.submit(asked, client=client))
        done.append(client)

    async def test(queue: BatchQueue) -> None:
        large = asyncio.create_task(ask(queue, "large", 320))
        await asyncio.sleep(0)
        await asyncio.gather(large, *(ask(queue, f"small-{n}", 1) for n in range(3)))

    _with_queue(test, run)
    assert done[-1] == "large"
    assert len(run.batches) >= 20


def test_clients_take_turns():
    """A client that keeps many requests waiting gets no more of a batch than one that has a few."""
    run = FakeRun()
    order: list[str] = []

    async def ask(queue: BatchQueue, client: str) -> None:
        await queue.submit(_rows(*range(8)), client=client)
        order.append(client)

    async def test(queue: BatchQueue) -> None:
        greedy = [asyncio.create_task(ask(queue, "greedy")) for _ in range(10)]
        await asyncio.sleep(0)
        modest = [asyncio.create_task(ask(queue, "modest")) for _ in range(2)]
        await asyncio.gather(*greedy, *modest)

    _with_queue(test, run)
    # Two batches of the greedy client's requests had left before the other client came.
    assert order[4:8].count("modest") == 2


def test_the_first_to_come_is_not_overtaken_by_later_clients():
    """A stream of new requests starves nobody."""
    run = FakeRun()
    order: list[str] = []

    async def ask(queue: BatchQueue, client: str) -> None:
        await queue.submit(_rows(*range(16)), client=client)
        order.append(client)

    async def test(queue: BatchQueue) -> None:
        run.gate = asyncio.Event()
        asked = [asyncio.create_task(ask(queue, f"client-{n}")) for n in range(8)]
        await asyncio.sleep(0.005)
        run.gate.set()
        await asyncio.gather(*asked)

    _with_queue(test, run)
    assert order == [f"client-{n}" for n in range(8)]


def test_a_batch_whose_session_ended_is_run_again_in_the_next_one():
    """The client notices nothing but the time."""
    run = FakeRun()
    run.failures = [UnavailableError("ended", code="session_ended")]
    asked = _rows(1, 2)
    assert _is_right(asked, _with_queue(lambda queue: queue.submit(asked), run))
    assert len(run.batches) == 2


def test_the_second_attempt_waits_for_the_next_session():
    """Rows are not spent on a session that is over: neither the failed ones nor those that waited."""
    run = FakeRun(0.001)
    run.failures = [UnavailableError("ended", code="session_ended")]
    serving = asyncio.Event()

    async def test(queue: BatchQueue) -> list[dict[str, np.ndarray]]:
        serving.set()
        run.gate = asyncio.Event()
        in_flight = asyncio.create_task(queue.submit(_rows(1)))
        await asyncio.sleep(0.005)
        waiting = asyncio.create_task(queue.submit(_rows(2)))
        await asyncio.sleep(0.005)
        serving.clear()
        run.gate.set()
        await asyncio.sleep(0.02)
        assert len(run.batches) == 1, "nothing ran while no session served"
        serving.set()
        return await asyncio.gather(in_flight, waiting)

    first, second = _with_queue(test, run, lambda: serving.wait())
    assert _is_right(_rows(1), first)
    assert _is_right(_rows(2), second)


def test_a_batch_that_fails_twice_is_given_up():
    """The client hears why, and nothing runs a third time."""
    run = FakeRun()
    run.failures = [
        UnavailableError("one", code="session_ended"),
        UnavailableError("two", code="session_ended"),
    ]

    async def test(queue: BatchQueue) -> None:
        with pytest.raises(UnavailableError, match="two"):
            await queue.submit(_rows(1))
        assert _is_right(_rows(3), await queue.submit(_rows(3)))

    _with_queue(test, run)
    assert len(run.batches) == 3


@pytest.mark.parametrize("failure", [InputError("refused"), KeyError("planted-31415")])
def test_other_failures_are_answered_and_not_tried_again(failure, caplog):
    """A fault that nobody foresaw becomes an error without its message; the queue goes on."""
    run = FakeRun()
    run.failures = [failure]

    async def test(queue: BatchQueue) -> None:
        with pytest.raises(SecureRunnerError) as caught:
            await queue.submit(_rows(1))
        assert "31415" not in str(caught.value)
        assert _is_right(_rows(2), await queue.submit(_rows(2)))

    _with_queue(test, run)
    assert len(run.batches) == 2
    assert "31415" not in caplog.text


def test_a_run_that_answers_another_number_of_rows_is_an_error():
    """Rows are never matched by guess."""

    async def short(batch_size: int, arrays: Any) -> tuple[dict[str, np.ndarray], float]:
        return {"sum": arrays["x"].sum(axis=1)[:-1]}, 0.0

    async def test(queue: BatchQueue) -> None:
        with pytest.raises(SecureRunnerError):
            await queue.submit(_rows(1, 2, 3, 4))

    _with_queue(test, short)  # type: ignore[arg-type]


def test_a_deadline_ends_the_wait_and_the_rows_are_dropped():
    """Nobody computes what nobody waits for."""
    run = FakeRun()

    async def test(queue: BatchQueue) -> None:
        run.gate = asyncio.Event()
        in_flight = asyncio.create_task(queue.submit(_rows(1)))
        await asyncio.sleep(0.005)
        with pytest.raises(DeadlineError):
            await queue.submit(_rows(77), deadline_s=0.01)
        run.gate.set()
        await in_flight
        await queue.submit(_rows(3))
        assert queue.waiting_rows == 0

    _with_queue(test, run)
    assert not any((batch == 77).any() for batch in run.batches)


def test_a_deadline_holds_without_a_session():
    """A request does not outlive its client because the parties are away."""

    async def test(queue: BatchQueue) -> None:
        with pytest.raises(DeadlineError):
            await queue.submit(_rows(1), deadline_s=0.01)

    _with_queue(test, FakeRun(), lambda: asyncio.Event().wait())


def test_a_full_queue_refuses_and_says_when_to_come_back():
    """Memory is bounded; what was accepted is still answered."""
    run = FakeRun()

    async def test(queue: BatchQueue) -> None:
        run.gate = asyncio.Event()
        accepted = [asyncio.create_task(queue.submit(_rows(0)))]
        await asyncio.sleep(0.005)
        accepted += [asyncio.create_task(queue.submit(_rows(n))) for n in range(1, 9)]
        await asyncio.sleep(0.005)
        with pytest.raises(OverloadedError) as caught:
            await queue.submit(_rows(*range(30)))
        assert caught.value.retry_after_s > 0
        run.gate.set()
        answers = await asyncio.gather(*accepted)
        assert all(_is_right(_rows(n), answer) for n, answer in enumerate(answers))
        await queue.submit(_rows(1))

    _with_queue(test, run, max_rows=20)


def test_cancelled_clients_leave_no_rows_behind():
    """A client that hangs up frees its place."""
    run = FakeRun()

    async def test(queue: BatchQueue) -> None:
        run.gate = asyncio.Event()
        first = asyncio.create_task(queue.submit(_rows(1)))
        await asyncio.sleep(0.005)
        gone = [asyncio.create_task(queue.submit(_rows(99), client="gone")) for _ in range(5)]
        await asyncio.sleep(0.005)
        for task in gone:
            task.cancel()
        run.gate.set()
        assert _is_right(_rows(1), await first)
        assert _is_right(_rows(5), await queue.submit(_rows(5), client="gone"))
        assert queue.waiting_rows == 0

    _with_queue(test, run)
    assert not any((batch == 99).any() for batch in run.batches)


def test_each_lane_takes_one_full_batch_ahead():
    """Its shares travel while the one before runs; there is no third."""
    run = FakeRun(0.005)

    async def test(queue: BatchQueue) -> None:
        await asyncio.gather(*(queue.submit(_rows(*range(16))) for _ in range(15)))

    _with_queue(test, run, lanes=3)
    assert run.most_at_once == 6


def test_a_batch_that_is_not_full_waits_for_a_free_lane():
    """More rows may still come and share it."""
    run = FakeRun(0.005)

    async def test(queue: BatchQueue) -> None:
        await asyncio.gather(*(queue.submit(_rows(*range(9))) for _ in range(2)))

    _with_queue(test, run)
    assert run.most_at_once == 1


def test_stopping_answers_everybody():
    """Requests that wait and requests that run end at once with UnavailableError; none hangs."""

    async def main() -> list[Any]:
        run = FakeRun()
        run.gate = asyncio.Event()

        async def always() -> None:
            return

        queue = BatchQueue(Ladder(LADDER), run, always)
        dispatching = asyncio.create_task(queue.dispatch())
        asked = [asyncio.create_task(queue.submit(_rows(*range(10)))) for _ in range(5)]
        await asyncio.sleep(0.01)
        queue.stop()
        dispatching.cancel()
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)

    outcomes = asyncio.run(main())
    assert all(isinstance(outcome, UnavailableError) for outcome in outcomes)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lanes=st.integers(1, 3), failing=st.sampled_from([0.0, 0.2, 0.6]))
def test_no_row_is_lost_or_mixed_up_in_any_interleaving(seed, lanes, failing):
    """Random clients, sizes, deadlines, hang-ups, session ends: each outcome is right or an honest error."""
    dice = random.Random(seed)
    run = FakeRun(0.0005)
    run.failures = [
        UnavailableError("ended", code="session_ended") if dice.random() < failing else None
        for _ in range(200)
    ]
    planned = list(run.failures)
    serving = asyncio.Event()
    requests = [_rows(*(1000 * n + row for row in range(dice.randint(1, 40)))) for n in range(25)]

    async def sessions() -> None:
        while True:
            serving.set()
            await asyncio.sleep(dice.random() * 0.004)
            serving.clear()
            await asyncio.sleep(dice.random() * 0.001)

    async def ask(queue: BatchQueue, number: int) -> str:
        await asyncio.sleep(dice.random() * 0.01)
        client = dice.choice([None, "a", "b"])
        deadline_s = dice.choice([None, None, None, 0.002])
        asking = asyncio.create_task(queue.submit(requests[number], client=client, deadline_s=deadline_s))
        if dice.random() < 0.15:
            await asyncio.sleep(dice.random() * 0.004)
            asking.cancel()
        try:
            answer = await asking
        except asyncio.CancelledError:
            return "cancelled"
        except (UnavailableError, DeadlineError, OverloadedError) as error:
            return error.code
        assert _is_right(requests[number], answer)
        return "right"

    async def test(queue: BatchQueue) -> list[str]:
        restarting = asyncio.create_task(sessions())
        try:
            outcomes = await asyncio.gather(*(ask(queue, number) for number in range(len(requests))))
            serving.set()
            restarting.cancel()
            run.failures.clear()
            await queue.submit(_rows(500_000))
        finally:
            restarting.cancel()
        assert queue.waiting_rows == 0
        return outcomes

    outcomes = _with_queue(test, run, lambda: serving.wait(), lanes=lanes, max_rows=300)
    if not any(planned):
        assert "session_ended" not in outcomes
    attempts: dict[float, int] = {}
    for batch in run.batches:
        for first in batch[batch.any(axis=1), 0]:
            attempts[float(first)] = attempts.get(float(first), 0) + 1
    assert max(attempts.values()) <= 2


def test_rows_whose_session_ends_during_the_stop_are_refused():
    """A batch whose session is ended by the stop is not put back into a queue that nobody serves any more."""
    run = FakeRun()
    run.failures = [UnavailableError("the session ended")]

    async def test(queue: BatchQueue) -> None:
        run.gate = asyncio.Event()
        asked = asyncio.create_task(queue.submit(_rows(1)))
        while not run.batches:
            await asyncio.sleep(0)
        queue.stop()
        run.gate.set()
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(asked, 2)
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(queue.submit(_rows(2)), 2)

    _with_queue(test, run)
