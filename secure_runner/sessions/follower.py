"""A party that does not lead: it joins the sessions that the model owner's runner orders."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from secure_runner.config import PartySettings
from secure_runner.errors import AgreementError, SecureRunnerError
from secure_runner.sessions.channel import Peer
from secure_runner.sessions.coordination import connect_coordination
from secure_runner.sessions.lane import LaneState
from secure_runner.sessions.member import LocalMember, SessionOrder
from secure_runner.sessions.messages import CoordinationError, End, Ended, Hello, Ready, Start, Warm

__all__ = ["Follower", "FollowerLane"]

_log = logging.getLogger(__name__)
_DISAGREEMENT_PAUSE_S = 5.0


class FollowerLane:
    """One lane at this party."""

    def __init__(self, member: LocalMember, lane: int) -> None:
        self.member = member
        self.state = LaneState(lane)
        self._orders: asyncio.Queue[Start] = asyncio.Queue(maxsize=1)
        self._told_to_end = asyncio.Event()

    def take(self, message: Start | End) -> None:
        """An order of the leader about this lane."""
        if isinstance(message, End):
            if message.epoch == self.state.epoch:
                self._told_to_end.set()
        elif self._orders.empty():
            self._orders.put_nowait(message)

    async def follow(self, peer: Peer) -> None:
        """Join one session after the other, until the connection is over."""
        self._orders = asyncio.Queue(maxsize=1)
        try:
            while True:
                await self.member.warm()
                await peer.send(Warm(lane=self.state.lane))
                start = await self._orders.get()
                reason = await self._session(peer, start)
                self.state.recovers(reason)
        except CoordinationError:
            return

    async def _session(self, peer: Peer, start: Start) -> str:
        self.state.epoch = start.epoch
        self._told_to_end.clear()
        order = SessionOrder(start.session_id, start.epoch, start.lane, start.slot, start.terms)
        told = asyncio.create_task(self._told_to_end.wait())
        own = asyncio.create_task(self._own_part(peer, order))
        try:
            await asyncio.wait({told, own}, return_when=asyncio.FIRST_COMPLETED)
            if not own.done():
                return "the leader ended it"
            reason = own.result()
            await peer.send(Ended(epoch=start.epoch, lane=start.lane, reason=reason))
            return f"own part: {reason}"
        finally:
            self.state.ends_serving()
            for task in (told, own):
                task.cancel()
            await asyncio.gather(told, own, return_exceptions=True)
            await self.member.end()

    async def _own_part(self, peer: Peer, order: SessionOrder) -> str:
        """Start this party's process and wait for its end; why it ended."""
        try:
            await self.member.start(order)
        except SecureRunnerError as error:
            return error.code
        await peer.send(Ready(epoch=order.epoch, lane=order.lane))
        self.state.begins_serving()
        return await self.member.ended()


class Follower:
    """Keeps this party connected to the leader's runner, and its lanes in the leader's sessions."""

    def __init__(self, settings: PartySettings, hello: Hello, lanes: Sequence[FollowerLane]) -> None:
        self._settings = settings
        self._leader = settings.cluster.party_with("model_owner")
        self._hello = hello
        self._lanes = {lane.state.lane: lane for lane in lanes}

    async def run(self) -> None:
        """Follow until cancelled; then end everything."""
        try:
            while True:
                try:
                    await self._connection()
                    self._note(f"the connection to {self._leader} is over; connecting again")
                except AgreementError as error:
                    # It may be mended at the other side; nothing is served meanwhile.
                    _log.error("%s", error)
                    self._note(str(error))
                    await asyncio.sleep(_DISAGREEMENT_PAUSE_S)
        finally:
            await asyncio.gather(*(lane.member.close() for lane in self._lanes.values()))

    async def _connection(self) -> None:
        connecting = connect_coordination(self._settings, self._leader, self._hello, self._note)
        async with connecting as peer:
            self._note(f"connected to {self._leader}; warming up")
            following = [asyncio.create_task(lane.follow(peer)) for lane in self._lanes.values()]
            try:
                async for message in peer:
                    if isinstance(message, (Start, End)) and message.lane in self._lanes:
                        self._lanes[message.lane].take(message)
            finally:
                for task in following:
                    task.cancel()
                await asyncio.gather(*following, return_exceptions=True)

    def _note(self, sentence: str) -> None:
        for lane in self._lanes.values():
            if not lane.state.serving.is_set():
                lane.state.waits(sentence)
