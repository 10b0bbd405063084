"""How a runner's lanes end."""

import asyncio
import contextlib

import pytest

from secure_runner.sessions.keeper import Keeper


def test_every_lane_cleans_up_to_its_end_when_the_runner_stops():
    """Also the lanes that take longer than the first."""
    cleaned = []

    async def work(lane: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.02 * lane)
            cleaned.append(lane)

    async def stop() -> None:
        running = asyncio.create_task(Keeper([], [work(lane) for lane in range(3)]).run())
        await asyncio.sleep(0.01)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(stop())
    assert cleaned == [0, 1, 2]


def test_a_lane_that_fails_ends_the_others_and_is_told():
    ended = []

    async def fails() -> None:
        raise ValueError("gone")

    async def works() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(ValueError, match="gone"):
        asyncio.run(Keeper([], [works(), fails()]).run())
    assert ended == [True]
