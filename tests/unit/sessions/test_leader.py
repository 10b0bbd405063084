"""The leader of a lane: how many sessions it keeps formed, and when the next takes over."""

from __future__ import annotations

import asyncio

import pytest

from secure_runner.config import embedded_cluster
from secure_runner.sessions.leader import LaneLeader
from secure_runner.sessions.member import SessionOrder


class Member:
    """A party whose part in a session lasts until somebody ends it."""

    def __init__(self, party: str) -> None:
        self.party = party
        self.used = 0
        self.parts: dict[int, asyncio.Future[str]] = {}

    async def warm(self) -> None: ...

    async def start(self, order: SessionOrder) -> None:
        self.parts[order.epoch] = asyncio.get_running_loop().create_future()

    def use(self, epoch: int) -> None:
        self.used = epoch

    async def ended(self, epoch: int) -> str:
        return await asyncio.shield(self.parts[epoch])

    async def end(self, epoch: int) -> None:
        self.parts.pop(epoch, None)

    async def close(self) -> None:
        self.parts.clear()


@pytest.mark.parametrize(("reserve", "formed"), [(True, 2), (False, 1)])
def test_a_lane_keeps_as_many_sessions_as_it_is_told(reserve: bool, formed: int) -> None:
    """With a reserve the next session is there when one ends; without it, it is formed only then."""
    cluster = embedded_cluster("cheetah").model_copy(update={"reserve": reserve})
    members = [Member("model-owner"), Member("data-owner")]

    async def settle() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    async def main() -> None:
        leader = LaneLeader(cluster, members)
        leading = asyncio.create_task(leader.run())
        await settle()
        for epoch in (1, 2, 3):
            assert [member.used for member in members] == [epoch, epoch]
            assert [len(member.parts) for member in members] == [formed, formed]
            members[1].parts[epoch].set_result("died")
            await settle()
        leader.renew()
        await settle()
        assert members[0].used > 4, "a renewal takes over without anybody's end"
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 10))


def test_a_session_is_given_up_when_one_that_is_ready_is_gone() -> None:
    """The other one may wait for it for seconds; the next session is not kept waiting for that."""
    members = [Member("model-owner"), _Slow("data-owner")]

    async def main() -> None:
        leader = LaneLeader(embedded_cluster("cheetah"), members)
        leading = asyncio.create_task(leader.run())
        await asyncio.sleep(0.05)
        assert set(members[0].parts) == {1}
        members[0].parts[1].set_result("died")
        while 2 not in members[0].parts:
            await asyncio.sleep(0.01)
        assert 1 not in members[1].parts
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 10))


class _Slow(Member):
    """A party that never gets ready."""

    async def start(self, order: SessionOrder) -> None:
        await super().start(order)
        await asyncio.Event().wait()
