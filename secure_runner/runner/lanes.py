"""Which lane takes the next batch: of those that serve, the one with the fewest."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from secure_runner.sessions.keeper import Lane
from secure_runner.sessions.process import PartyProcess

__all__ = ["BATCHES_A_LANE", "LanePool"]

BATCHES_A_LANE = 2
"""One runs, and the shares of the next one travel meanwhile."""

_NOTICE_S = 0.01


class LanePool:
    """The data owner's processes of all lanes.

    A lane takes a second batch while it runs one: while a batch runs, the shares of the next one travel and
    the outputs of the one before are put together.
    """

    def __init__(self, lanes: Sequence[Lane], data_owner: str) -> None:
        self._lanes = lanes
        self._members = [next(m for m in lane.members if m.party == data_owner) for lane in lanes]
        self._batches = [0] * len(lanes)
        self._freed = asyncio.Event()

    def any_serving(self) -> bool:
        """Whether at least one lane serves."""
        return any(lane.state.serving.is_set() for lane in self._lanes)

    async def wait_for_session(self) -> None:
        """Wait until a lane serves."""
        # Nearly always one does: no tasks for finding that out before each batch.
        if not self.any_serving():
            await self._first_of([lane.state.serving for lane in self._lanes])

    @contextlib.asynccontextmanager
    async def process(self) -> AsyncIterator[PartyProcess]:
        """A serving process for one batch; waits for one."""
        index, process = await self._take()
        try:
            yield process
        finally:
            self._batches[index] -= 1
            self._freed.set()

    async def _take(self) -> tuple[int, PartyProcess]:
        while True:
            serving = [index for index, lane in enumerate(self._lanes) if lane.state.serving.is_set()]
            processes = {index: self._members[index].process for index in serving}
            for index, process in sorted(processes.items(), key=lambda item: self._batches[item[0]]):
                if self._batches[index] < BATCHES_A_LANE and process is not None and process.alive:
                    self._batches[index] += 1
                    return index, process
            if not all(process is not None and process.alive for process in processes.values()):
                # One has just died, and its lane is about to notice: rows sent to it would be lost.
                await asyncio.sleep(_NOTICE_S)
                continue
            self._freed.clear()
            waited = [lane.state.serving for lane in self._lanes if not lane.state.serving.is_set()]
            await self._first_of([*waited, self._freed])

    @staticmethod
    async def _first_of(events: Sequence[asyncio.Event]) -> None:
        tasks = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
