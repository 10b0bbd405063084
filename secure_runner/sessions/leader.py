"""The leader of a lane: agrees on one session after the other with all its members."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from secure_runner.config import SLOTS, Cluster
from secure_runner.errors import SecureRunnerError
from secure_runner.sessions.lane import LaneState
from secure_runner.sessions.limits import BatchLimits
from secure_runner.sessions.member import Member, SessionOrder

__all__ = ["LaneLeader"]

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class LaneLeader:
    """Keeps one lane in session: when a session ends, for whatever reason, it starts the next."""

    def __init__(
        self, cluster: Cluster, members: Sequence[Member], lane: int = 0, limits: BatchLimits | None = None
    ) -> None:
        self._cluster = cluster
        self._limits = limits
        self._members = members
        self._run_id = secrets.token_hex(4)
        self.state = LaneState(lane)

    async def run(self) -> None:
        """Serve sessions until cancelled; then end everything."""
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                try:
                    reason = await self._session()
                    pause_s = _FIRST_PAUSE_S
                except (SecureRunnerError, asyncio.TimeoutError) as error:
                    reason = f"could not start: {error}" if str(error) else "could not start in time"
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                self.state.recovers(reason)
        finally:
            await asyncio.gather(*(member.close() for member in self._members), return_exceptions=True)

    async def _session(self) -> str:
        """One session from start to end; why it ended."""
        await asyncio.gather(*(member.warm() for member in self._members))
        self.state.epoch += 1
        epoch, lane = self.state.epoch, self.state.lane
        order = SessionOrder(
            session_id=f"{self._cluster.name}-{self._run_id}-{lane}-{epoch}",
            epoch=epoch,
            lane=lane,
            slot=epoch % SLOTS,
            terms=None if self._limits is None else self._limits.terms(),
        )
        try:
            starts = asyncio.gather(*(member.start(order) for member in self._members))
            await asyncio.wait_for(starts, self._cluster.timeouts.connect_timeout_s)
            self.state.begins_serving()
            return await self._first_end()
        finally:
            self.state.ends_serving()
            await asyncio.gather(*(member.end() for member in self._members))

    async def _first_end(self) -> str:
        waits = {asyncio.create_task(member.ended()): member for member in self._members}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        first = done.pop()
        return f"{waits[first].party}: {first.result()}"
