"""Messages about sessions that repeat, skip back or are of nothing known: they change nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_runner.sessions.follower import FollowerLane
from secure_runner.sessions.member import SessionOrder
from secure_runner.sessions.messages import End, Ended, Ready, Start, Warm
from secure_runner.sessions.remote import RemoteMember, attend


class Member:
    """A party whose processes take part without doing anything, and count what they were told."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.used: list[int] = []
        self.over: dict[int, asyncio.Future[str]] = {}

    async def warm(self) -> None: ...

    async def start(self, order: SessionOrder) -> None:
        assert len(self.over) < 2, "no more than the session that serves and the one in reserve"
        self.started.append(order.epoch)
        self.over[order.epoch] = asyncio.get_running_loop().create_future()

    def use(self, epoch: int) -> None:
        self.used.append(epoch)

    async def ended(self, epoch: int) -> str:
        return await asyncio.shield(self.over[epoch])

    async def end(self, epoch: int) -> None:
        self.over.pop(epoch, None)


class Peer:
    """The leader, which hears everything."""

    party = "data-owner"

    def __init__(self, messages: Any = ()) -> None:
        self.heard: list[Any] = []
        self._messages = list(messages)

    async def send(self, message: Any) -> None:
        self.heard.append(message)

    async def __aiter__(self) -> Any:
        for message in self._messages:
            yield message
            await _settle()


def _start(epoch: int, *, relieves: bool = False) -> Start:
    return Start(session_id=f"s-{epoch}", epoch=epoch, lane=0, slot=epoch % 2, relieves=relieves)


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def _follow(orders: list[Start | End]) -> tuple[list[int], list[int]]:
    """Epochs of the sessions that it joined, and of those that requests went to."""
    member, peer = Member(), Peer()
    lane = FollowerLane(member, 0)  # type: ignore[arg-type]
    following = asyncio.create_task(lane.follow(peer))  # type: ignore[arg-type]
    for order in orders:
        await _settle()
        lane.take(order)
    await _settle()
    used = list(member.used)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert not member.over, "what is followed no longer has ended"
    return member.started, used


@pytest.mark.parametrize(
    ("orders", "started", "used"),
    [
        ([_start(1), _start(2)], [1, 2], 1),
        ([_start(1), _start(2), End(epoch=1, lane=0)], [1, 2], 2),
        ([_start(1), _start(2, relieves=True)], [1, 2], 2),
        ([_start(2), _start(2), _start(1)], [2], 2),
        ([_start(1), _start(2), _start(3)], [1, 2], 1),
        ([_start(1), End(epoch=9, lane=0)], [1], 1),
    ],
    ids=["reserve", "takes over", "relieves", "repeated", "a third", "end of none"],
)
def test_a_follower_keeps_one_session_and_one_in_reserve(orders, started, used):
    """Which sessions it joins, and where its requests go at the end."""
    joined, went_to = asyncio.run(_follow(orders))
    assert joined == started
    assert went_to[-1] == used


_EPOCHS = st.integers(0, 5)
_ORDERS = st.one_of(
    st.builds(_start, _EPOCHS, relieves=st.booleans()), st.builds(lambda e: End(epoch=e, lane=0), _EPOCHS)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_ORDERS, max_size=12))
def test_any_orders_leave_a_follower_with_two_sessions_at_most(orders):
    """None is joined twice, none goes back, and all have ended at the end."""
    joined, _ = asyncio.run(_follow(orders))
    assert joined == sorted(set(joined))


_REPORTS = st.one_of(
    st.just(Warm(lane=0)),
    st.builds(lambda e: Ready(epoch=e, lane=0), _EPOCHS),
    st.builds(lambda e, lane: Ended(epoch=e, lane=lane, reason="died"), _EPOCHS, st.integers(0, 2)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_REPORTS, max_size=12))
def test_any_reports_of_a_member_count_for_their_own_session_alone(reports):
    """Session 3 is ready or over exactly if a report of session 3 says so; what comes first counts."""

    async def main() -> None:
        member = RemoteMember("data-owner", 0)
        member.connected(Peer())  # type: ignore[arg-type]
        starting = asyncio.create_task(member.start(SessionOrder("s-3", 3, 0, 1)))
        await _settle()
        await attend(Peer(reports), {("data-owner", 0): member}, lambda: None)  # type: ignore[arg-type]
        await _settle()
        about = [r for r in reports if not isinstance(r, Warm) and r.epoch == 3 and r.lane == 0]
        # The connection has ended with the messages, so the session is over in any case.
        assert starting.done()
        served = bool(about) and isinstance(about[0], Ready)
        assert (starting.exception() is None) == served

    asyncio.run(main())
