"""Repeated requests are computed once; nobody gets the answer of another request."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from secure_runner.errors import DeadlineError, InputError, UnavailableError
from secure_runner.runner.dedup import RecentRequests

KEY = ("client", "r-1")


class Compute:
    """Doubles its rows after a while; counts."""

    def __init__(self, failure: Exception | None = None, seconds: float = 0.01) -> None:
        self.calls = 0
        self.cancelled = 0
        self.failure = failure
        self.seconds = seconds

    def of(self, value: float):
        async def compute():
            self.calls += 1
            try:
                await asyncio.sleep(self.seconds)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            return {"y": np.array([2 * value])}

        return compute


def _x(value: float) -> dict:
    return {"x": np.array([value], np.float32)}


def test_under_way_and_done_it_is_computed_once():
    """Ten at once and one later get one answer."""

    async def main():
        recent, compute = RecentRequests(), Compute()
        at_once = await asyncio.gather(*(recent.once(KEY, _x(3), compute.of(3)) for _ in range(10)))
        later = await recent.once(KEY, _x(3), compute.of(3))
        assert compute.calls == 1
        assert [answer["y"][0] for answer, _ in (*at_once, later)] == [6] * 11
        assert [repeated for _, repeated in at_once] == [False] + [True] * 9

    asyncio.run(main())


def test_what_cannot_come_again_is_not_kept():
    """Without a key, each is computed, and nothing of it stays."""

    async def main():
        recent, compute = RecentRequests(), Compute()
        answers = [await recent.once(None, _x(3), compute.of(value)) for value in (3, 4)]
        assert [(answer["y"][0], repeated) for answer, repeated in answers] == [(6, False), (8, False)]
        assert not recent._entries

    asyncio.run(main())


@pytest.mark.parametrize("key", [KEY, None])
def test_who_is_about_to_be_answered_is_let_go_first(key):
    """At the end, those under way take their answers."""

    async def main():
        recent = RecentRequests()
        answered = asyncio.create_task(recent.once(key, _x(3), Compute(seconds=0.05).of(3)))
        await asyncio.sleep(0)
        await recent.drained()
        # Its task goes on as this one does.
        await asyncio.sleep(0)
        assert answered.done()
        await RecentRequests().drained()

    asyncio.run(main())


@pytest.mark.parametrize(
    "other",
    [{"x": np.array([4], np.float32)}, {"x": np.array([3], np.float64)}, {"z": np.array([3], np.float32)}],
)
def test_other_inputs_under_the_same_id_are_refused(other):
    """For one of the two would get the wrong answer."""

    async def main():
        recent, compute = RecentRequests(), Compute()
        await recent.once(KEY, _x(3), compute.of(3))
        with pytest.raises(InputError) as refused:
            await recent.once(KEY, other, compute.of(4))
        assert (refused.value.code, refused.value.http_status) == ("request_id_reused", 422)

    asyncio.run(main())


def test_ids_are_each_clients_own():
    """Two clients may choose the same."""

    async def main():
        recent, compute = RecentRequests(), Compute()
        one, _ = await recent.once(("one", "r"), _x(1), compute.of(1))
        two, _ = await recent.once(("two", "r"), _x(2), compute.of(2))
        assert (one["y"][0], two["y"][0]) == (2, 4)

    asyncio.run(main())


def test_a_failure_is_not_kept():
    """The next try computes anew, also with other inputs."""

    async def main():
        recent, compute = RecentRequests(), Compute(UnavailableError("gone"))
        with pytest.raises(UnavailableError):
            await recent.once(KEY, _x(3), compute.of(3))
        answer, repeated = await recent.once(KEY, _x(4), compute.of(4))
        assert (answer["y"][0], repeated) == (8, False)

    asyncio.run(main())


def test_another_requests_deadline_is_not_ones_own():
    """Whoever joined a request whose deadline passes computes anew."""

    async def main():
        recent, compute = RecentRequests(), Compute(DeadlineError("late"))
        first = asyncio.create_task(recent.once(KEY, _x(3), compute.of(3)))
        await asyncio.sleep(0)
        second, _ = await recent.once(KEY, _x(3), compute.of(3))
        assert second["y"][0] == 6
        with pytest.raises(DeadlineError):
            await first

    asyncio.run(main())


def test_who_gives_up_ends_it_only_if_nobody_else_waits():
    """A client that hangs up costs the others nothing, and the last one frees the queue."""

    async def main():
        recent, compute = RecentRequests(), Compute(seconds=0.05)
        tasks = [asyncio.create_task(recent.once(KEY, _x(3), compute.of(3))) for _ in range(2)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        answer, _ = await tasks[1]
        assert answer["y"][0] == 6
        lonely = asyncio.create_task(recent.once(("c", "2"), _x(3), compute.of(3)))
        await asyncio.sleep(0.01)
        lonely.cancel()
        await asyncio.gather(lonely, return_exceptions=True)
        await asyncio.sleep(0.01)
        assert compute.cancelled == 1

    asyncio.run(main())


def test_memory_is_bounded():
    """Old answers go, and the oldest of too many or too large ones."""

    async def main():
        now = [0.0]
        recent = RecentRequests(max_requests=5, max_bytes=1000, clock_s=lambda: now[0])
        compute = Compute(seconds=0)
        for n in range(20):
            await recent.once(("c", str(n)), _x(n), compute.of(n))
        assert len(recent._entries) <= 6
        now[0] = 61.0
        await recent.once(("c", "new"), _x(0), compute.of(0))
        assert list(recent._entries) == [("c", "new")]
        assert recent._bytes == 8

    asyncio.run(main())
