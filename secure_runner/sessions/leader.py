"""The leader of a lane: agrees with all its members on one session after the other, and on one in reserve."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence

from secure_runner.config import SLOTS, Cluster
from secure_runner.errors import SecureRunnerError, UnavailableError
from secure_runner.sessions.lane import LaneState
from secure_runner.sessions.limits import BatchLimits
from secure_runner.sessions.member import Member, SessionOrder

__all__ = ["LaneLeader"]

_log = logging.getLogger(__name__)
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class LaneLeader:
    """Keeps one lane in session, and the session after it formed in the lane's other slot.

    When a session ends, for whatever reason, the one in reserve takes over, or else the next that can be
    formed. After :meth:`renew` the reserve is formed anew and takes over while the present session still
    serves.
    """

    def __init__(
        self, cluster: Cluster, members: Sequence[Member], lane: int = 0, limits: BatchLimits | None = None
    ) -> None:
        self._cluster = cluster
        self._limits = limits
        self._members = members
        self._run_id = secrets.token_hex(4)
        self._latest_epoch = 0
        self._renewal = asyncio.Event()
        self.state = LaneState(lane)

    def renew(self) -> None:
        """Have a new session, which reads certificates afresh, take the place of the present one."""
        self._renewal.set()

    async def run(self) -> None:
        """Serve sessions until cancelled; then end everything."""
        try:
            present = await self._formed(slot=0)
            self._take_over(present)
            while True:
                present = await self._serve(present)
        finally:
            await asyncio.gather(*(member.close() for member in self._members), return_exceptions=True)

    async def _serve(self, present: SessionOrder) -> SessionOrder:
        """Serve a session until it is over; the one that has taken over."""
        over = asyncio.create_task(self._first_end(present))
        successor = asyncio.create_task(self._successor((present.slot + 1) % SLOTS, over))
        try:
            await asyncio.wait({over, successor}, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                self.state.ends_serving()
                self.state.recovers(over.result())
            else:
                self._take_over(successor.result())
                # The data owner ends the present session as soon as all that it has asked there is answered.
                await asyncio.wait({over}, timeout=self._cluster.timeouts.run_timeout_s)
            # It ends while the next is still being formed, in the other slot.
            ending = asyncio.create_task(self._end(present))
            try:
                following = await successor
                self._take_over(following)
            finally:
                await ending
            return following
        finally:
            over.cancel()
            successor.cancel()
            await asyncio.gather(over, successor, return_exceptions=True)

    async def _successor(self, slot: int, over: asyncio.Task[str]) -> SessionOrder:
        """Keep a session in reserve; returns it when it is time for it to take over."""
        while True:
            if not self._cluster.reserve:
                await self._until_wanted(over)
            relieves = self._renewal.is_set()
            session = await self._formed(slot, relieves=relieves)
            if relieves:
                self._renewal.clear()
                return session
            ended = asyncio.create_task(self._first_end(session))
            renewal = asyncio.create_task(self._renewal.wait())
            try:
                await asyncio.wait({over, ended, renewal}, return_when=asyncio.FIRST_COMPLETED)
                if over.done() and not ended.done():
                    return session
            finally:
                ended.cancel()
                renewal.cancel()
                await asyncio.gather(ended, renewal, return_exceptions=True)
            await self._end(session)

    async def _until_wanted(self, over: asyncio.Task[str]) -> None:
        """Wait until the present session is over, or is to be renewed."""
        renewal = asyncio.create_task(self._renewal.wait())
        try:
            await asyncio.wait({over, renewal}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            renewal.cancel()

    async def _formed(self, slot: int, *, relieves: bool = False) -> SessionOrder:
        """Form a session, however often it takes."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._form(slot, relieves)
            except (SecureRunnerError, asyncio.TimeoutError) as error:
                reason = f"could not start: {error}" if str(error) else "could not start in time"
                self.state.fails(self._latest_epoch, reason)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _form(self, slot: int, relieves: bool) -> SessionOrder:
        await asyncio.gather(*(member.warm() for member in self._members))
        self._latest_epoch += 1
        epoch, lane = self._latest_epoch, self.state.lane
        order = SessionOrder(
            session_id=f"{self._cluster.name}-{self._run_id}-{lane}-{epoch}",
            epoch=epoch,
            lane=lane,
            slot=slot,
            relieves=relieves,
            terms=None if self._limits is None else self._limits.terms(),
        )
        try:
            await asyncio.wait_for(self._all_started(order), self._cluster.timeouts.connect_timeout_s)
        except BaseException:
            await self._end(order)
            raise
        return order

    async def _all_started(self, order: SessionOrder) -> None:
        """Have all members join; one that is gone again before the last one serves ends it for all.

        Those that wait for it in SPU would notice some seconds later.
        """
        starts = {asyncio.create_task(member.start(order)): member for member in self._members}
        ends: dict[asyncio.Task[str], Member] = {}
        try:
            while starts:
                done, _ = await asyncio.wait({*starts, *ends}, return_when=asyncio.FIRST_COMPLETED)
                for over in [task for task in ends if task in done]:
                    raise UnavailableError(f"{ends[over].party}: {over.result()}")
                for start in [task for task in starts if task in done]:
                    start.result()
                    member = starts.pop(start)
                    ends[asyncio.create_task(member.ended(order.epoch))] = member
        finally:
            for task in (*starts, *ends):
                task.cancel()
            await asyncio.gather(*starts, *ends, return_exceptions=True)

    def _take_over(self, session: SessionOrder) -> None:
        for member in self._members:
            member.use(session.epoch)
        self.state.begins_serving(session.epoch)

    async def _end(self, session: SessionOrder) -> None:
        await asyncio.gather(*(member.end(session.epoch) for member in self._members))

    async def _first_end(self, session: SessionOrder) -> str:
        waits = {asyncio.create_task(member.ended(session.epoch)): member for member in self._members}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        first = done.pop()
        return f"{waits[first].party}: {first.result()}"
