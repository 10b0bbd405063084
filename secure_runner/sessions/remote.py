"""A member of a session that another runner looks after, reached over the coordination channel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from secure_runner.errors import UnavailableError
from secure_runner.sessions.channel import Peer
from secure_runner.sessions.member import SessionOrder
from secure_runner.sessions.messages import CoordinationError, End, Ended, Ready, SessionMessage, Start, Warm

__all__ = ["RemoteMember", "attend"]


class RemoteMember:
    """A party of one lane at another runner, which comes and goes."""

    def __init__(self, party: str, lane: int, *, is_data_owner: bool = False) -> None:
        self._party = party
        self._is_data_owner = is_data_owner
        self._lane = lane
        self._peer: Peer | None = None
        self._warm = asyncio.Event()
        self._epoch = 0
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

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
        self._epoch, self._ready, self._over = order.epoch, loop.create_future(), loop.create_future()
        if peer is None:
            raise UnavailableError(f"{self._party} is not connected")
        try:
            await peer.send(
                Start(
                    session_id=order.session_id,
                    epoch=order.epoch,
                    lane=order.lane,
                    slot=order.slot,
                    terms=order.terms if self._is_data_owner else None,
                )
            )
        except CoordinationError as error:
            raise UnavailableError(str(error)) from error
        waits: list[asyncio.Future[Any]] = [self._ready, self._over]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if self._over.done():
            raise UnavailableError(f"{self._party}: {self._over.result()}")

    async def ended(self) -> str:
        """Wait until the party says that its part is over, or is gone."""
        return await asyncio.shield(self._over)

    async def end(self) -> None:
        """Have the party end its part, if it can be told. If it cannot, it ends by itself: so it is built."""
        if self._peer is not None and self._epoch and not self._over.done():
            with contextlib.suppress(CoordinationError):
                await self._peer.send(End(epoch=self._epoch, lane=self._lane))

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
            self._finish("disconnected")

    def take(self, message: SessionMessage) -> None:
        """A message of the party about this lane. What is of another epoch is too late and ignored."""
        if isinstance(message, Warm):
            self._warm.set()
        elif isinstance(message, Ready) and message.epoch == self._epoch and not self._ready.done():
            self._ready.set_result(None)
        elif isinstance(message, Ended) and message.epoch == self._epoch:
            self._finish(message.reason)

    def _finish(self, reason: str) -> None:
        if not self._over.done():
            self._over.set_result(reason)


async def attend(peer: Peer, members: Mapping[tuple[str, int], RemoteMember]) -> None:
    """Pass a peer's messages on to its members until it is gone.

    Args:
        peer: a party's runner.
        members: by party and lane.
    """
    own = {lane: member for (party, lane), member in members.items() if party == peer.party}
    for member in own.values():
        member.connected(peer)
    try:
        async for message in peer:
            lane = getattr(message, "lane", None)
            if isinstance(message, (Warm, Ready, Ended)) and lane in own:
                own[lane].take(message)
    finally:
        for member in own.values():
            member.disconnected(peer)
