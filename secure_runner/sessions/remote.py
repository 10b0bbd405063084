"""A member of a session that another runner looks after, reached over the coordination channel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from secure_runner.errors import UnavailableError
from secure_runner.sessions.channel import Peer
from secure_runner.sessions.member import SessionOrder
from secure_runner.sessions.messages import (
    CoordinationError,
    End,
    Ended,
    Ready,
    Renew,
    SessionMessage,
    Start,
    Warm,
)

__all__ = ["RemoteMember", "attend"]


@dataclass(frozen=True)
class _Part:
    """Its part in one session."""

    ready: asyncio.Future[None]
    over: asyncio.Future[str]


class RemoteMember:
    """A party of one lane at another runner, which comes and goes."""

    def __init__(self, party: str, lane: int, *, is_data_owner: bool = False) -> None:
        self._party = party
        self._is_data_owner = is_data_owner
        self._lane = lane
        self._peer: Peer | None = None
        self._warm = asyncio.Event()
        self._parts: dict[int, _Part] = {}

    @property
    def party(self) -> str:
        """The party's name."""
        return self._party

    async def warm(self) -> None:
        """Wait until the party is connected and has a warm process."""
        await self._warm.wait()

    async def start(self, order: SessionOrder) -> None:
        """Order the party into the session; returns when it serves."""
        peer = self._peer
        self._warm.clear()
        loop = asyncio.get_running_loop()
        self._parts[order.epoch] = part = _Part(loop.create_future(), loop.create_future())
        if peer is None:
            raise UnavailableError(f"{self._party} is not connected")
        try:
            await peer.send(
                Start(
                    session_id=order.session_id,
                    epoch=order.epoch,
                    lane=order.lane,
                    slot=order.slot,
                    relieves=order.relieves,
                    terms=order.terms if self._is_data_owner else None,
                )
            )
        except CoordinationError as error:
            raise UnavailableError(str(error)) from error
        waits: list[asyncio.Future[Any]] = [part.ready, part.over]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if part.over.done():
            raise UnavailableError(f"{self._party}: {part.over.result()}")

    def use(self, epoch: int) -> None:
        """Nothing to do: its runner follows by itself."""

    async def ended(self, epoch: int) -> str:
        """Wait until the party says that its part is over, or is gone."""
        return await asyncio.shield(self._parts[epoch].over)

    async def end(self, epoch: int) -> None:
        """Have the party end its part, if it can be told. If it cannot, it ends by itself: so it is built."""
        part = self._parts.pop(epoch, None)
        if self._peer is not None and part is not None and not part.over.done():
            with contextlib.suppress(CoordinationError):
                await self._peer.send(End(epoch=epoch, lane=self._lane))

    async def close(self) -> None:
        """Nothing to do: the closing connection ends the party's part."""

    def connected(self, peer: Peer) -> None:
        """The party's runner is there."""
        self._peer = peer

    def disconnected(self, peer: Peer) -> None:
        """The party's runner is gone, and with it its part of the session."""
        if self._peer is peer:
            self._peer = None
            self._warm.clear()
            for part in self._parts.values():
                _finish(part, "disconnected")

    def take(self, message: SessionMessage) -> None:
        """A message of the party about this lane. What is of another session is too late and ignored."""
        if isinstance(message, Warm):
            self._warm.set()
            return
        part = self._parts.get(message.epoch) if isinstance(message, (Ready, Ended)) else None
        if part is not None and isinstance(message, Ended):
            _finish(part, message.reason)
        elif part is not None and not part.ready.done():
            part.ready.set_result(None)


def _finish(part: _Part, reason: str) -> None:
    if not part.over.done():
        part.over.set_result(reason)


async def attend(
    peer: Peer, members: Mapping[tuple[str, int], RemoteMember], renew: Callable[[], None]
) -> None:
    """Pass a peer's messages on to its members until it is gone.

    Args:
        peer: a party's runner.
        members: by party and lane.
        renew: called when the party asks for new sessions.
    """
    own = {lane: member for (party, lane), member in members.items() if party == peer.party}
    for member in own.values():
        member.connected(peer)
    try:
        async for message in peer:
            lane = getattr(message, "lane", None)
            if isinstance(message, Renew):
                renew()
            elif isinstance(message, (Warm, Ready, Ended)) and lane in own:
                own[lane].take(message)
    finally:
        for member in own.values():
            member.disconnected(peer)
