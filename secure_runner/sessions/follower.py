"""A party that does not lead: it joins the sessions that the model owner's runner orders."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from secure_runner.config import SLOTS, PartySettings
from secure_runner.errors import AgreementError, SecureRunnerError, UnavailableError
from secure_runner.sessions.channel import Peer
from secure_runner.sessions.coordination import connect_coordination
from secure_runner.sessions.lane import LaneState
from secure_runner.sessions.member import LocalMember, SessionOrder
from secure_runner.sessions.messages import CoordinationError, End, Ended, Hello, Ready, Renew, Start, Warm

__all__ = ["Follower", "FollowerLane"]

_log = logging.getLogger(__name__)
_DISAGREEMENT_PAUSE_S = 5.0


@dataclass
class _Session:
    """A session that this party has been ordered into."""

    start: Start
    ready: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it serves or has failed to."""
    told_to_end: asyncio.Event = field(default_factory=asyncio.Event)


class FollowerLane:
    """One lane at this party: the session that serves, and the one in reserve."""

    def __init__(self, member: LocalMember, lane: int) -> None:
        self.member = member
        self.state = LaneState(lane)
        self._orders: asyncio.Queue[Start] = asyncio.Queue(maxsize=1)
        self._sessions: dict[int, _Session] = {}
        self._latest_epoch = 0

    def take(self, message: Start | End) -> None:
        """An order of the leader about this lane. One that repeats or skips back changes nothing."""
        if isinstance(message, End):
            if message.epoch in self._sessions:
                self._sessions[message.epoch].told_to_end.set()
        elif message.epoch > self._latest_epoch and len(self._sessions) < SLOTS and self._orders.empty():
            self._latest_epoch = message.epoch
            self._orders.put_nowait(message)
        else:
            _log.warning("lane %d: an order into session %d is refused", self.state.lane, message.epoch)

    async def follow(self, peer: Peer) -> None:
        """Join the sessions that are ordered, until the connection is over."""
        self._orders, self._latest_epoch = asyncio.Queue(maxsize=1), 0
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._warm()
                await peer.send(Warm(lane=self.state.lane))
                session = _Session(await self._orders.get())
                self._sessions[session.start.epoch] = session
                task = asyncio.create_task(self._take_part(peer, session))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await session.settled.wait()
        except CoordinationError:
            return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _warm(self) -> None:
        """Wait until a process stands by, however often one dies before it does."""
        while True:
            with contextlib.suppress(UnavailableError):  # it is logged where it happens, and replaced
                return await self.member.warm()

    async def _take_part(self, peer: Peer, session: _Session) -> None:
        """This party's part in one session, from its start to its end."""
        epoch, reason = session.start.epoch, "the connection is over"
        told = asyncio.create_task(session.told_to_end.wait())
        own = asyncio.create_task(self._own_part(peer, session))
        try:
            await asyncio.wait({told, own}, return_when=asyncio.FIRST_COMPLETED)
            reason = f"own part: {own.result()}" if own.done() else "the leader ended it"
            if own.done():
                with contextlib.suppress(CoordinationError):
                    await peer.send(Ended(epoch=epoch, lane=self.state.lane, reason=own.result()))
        finally:
            del self._sessions[epoch]
            session.settled.set()
            if epoch == self.state.epoch:
                self.state.recovers(reason)
            self._choose()
            for task in (told, own):
                task.cancel()
            await asyncio.gather(told, own, return_exceptions=True)
            await self.member.end(epoch)

    async def _own_part(self, peer: Peer, session: _Session) -> str:
        """Start this party's process and wait for its end; why it ended."""
        start = session.start
        order = SessionOrder(
            start.session_id, start.epoch, start.lane, start.slot, start.terms, start.relieves
        )
        try:
            await self.member.start(order)
            await peer.send(Ready(epoch=start.epoch, lane=start.lane))
        except SecureRunnerError as error:
            return error.code
        session.ready = True
        session.settled.set()
        self._choose()
        return await self.member.ended(start.epoch)

    def _choose(self) -> None:
        """Serve the session that relieves the others, or else the oldest that is ready."""
        ready = [session.start for session in self._sessions.values() if session.ready]
        relieving = [start for start in ready if start.relieves]
        if not ready:
            self.state.ends_serving()
            return
        chosen = relieving[-1] if relieving else ready[0]
        self.member.use(chosen.epoch)
        self.state.begins_serving(chosen.epoch)


class Follower:
    """Keeps this party connected to the leader's runner, and its lanes in the leader's sessions."""

    def __init__(self, settings: PartySettings, hello: Hello, lanes: Sequence[FollowerLane]) -> None:
        self._settings = settings
        self._leader = settings.cluster.party_with("model_owner")
        self._hello = hello
        self._lanes = {lane.state.lane: lane for lane in lanes}
        self._renewal = asyncio.Event()

    def renew(self) -> None:
        """Ask the leader for new sessions; while it is away, as soon as it is there."""
        self._renewal.set()

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
            following.append(asyncio.create_task(self._ask_for_renewal(peer)))
            try:
                async for message in peer:
                    if isinstance(message, (Start, End)) and message.lane in self._lanes:
                        self._lanes[message.lane].take(message)
            finally:
                for task in following:
                    task.cancel()
                await asyncio.gather(*following, return_exceptions=True)

    async def _ask_for_renewal(self, peer: Peer) -> None:
        with contextlib.suppress(CoordinationError):
            while True:
                await self._renewal.wait()
                await peer.send(Renew())
                self._renewal.clear()

    def _note(self, sentence: str) -> None:
        for lane in self._lanes.values():
            if not lane.state.serving.is_set():
                lane.state.waits(sentence)
