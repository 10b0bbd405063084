"""A follower that is stopped ends, whatever it is doing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from secure_runner.sessions import follower as module
from secure_runner.sessions.lane import LaneState


class _Member:
    closed = False

    async def close(self) -> None:
        self.closed = True


class _Lane:
    """A lane whose session takes its time to end."""

    def __init__(self) -> None:
        self.state, self.member, self.ending = LaneState(0), _Member(), asyncio.Event()

    async def follow(self, _peer: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.ending.set()
            await asyncio.sleep(0.05)


class _EndingPeer:
    """A connection that ends once its lanes have begun to follow."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        await asyncio.sleep(0)
        return
        yield


@pytest.mark.timeout(30)
def test_stopped_while_the_last_session_is_being_ended(
    monkeypatch: pytest.MonkeyPatch, tls_cluster: Callable[..., Any]
) -> None:
    """Just after the leader's end of the connection: the follower does not connect again, but ends."""

    @contextlib.asynccontextmanager
    async def connect(*_: Any) -> AsyncIterator[_EndingPeer]:
        yield _EndingPeer()

    monkeypatch.setattr(module, "connect_coordination", connect)
    settings = next(s for s in tls_cluster("cheetah").settings.values() if s.role == "data_owner")

    async def stop_it() -> bool:
        lane: Any = _Lane()
        task = asyncio.create_task(module.Follower(settings, None, [lane]).run())  # type: ignore[arg-type]
        await lane.ending.wait()
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled(), "it must have ended"
        return bool(lane.member.closed)

    assert asyncio.run(stop_it())
