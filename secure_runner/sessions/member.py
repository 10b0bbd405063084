"""A party's part in the sessions of one lane: what a leader can ask of it, and this machine's form of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from secure_runner.config import PartySettings
from secure_runner.party.spec import SessionSpec
from secure_runner.sessions.process import PartyProcess

__all__ = ["LocalMember", "Member", "SessionOrder"]

_log = logging.getLogger(__name__)
_STANDBY_NICENESS = 10
_STANDBY_DELAY_S = 1.0


@dataclass(frozen=True)
class SessionOrder:
    """The next session, as its leader announces it to all parties."""

    session_id: str
    epoch: int
    lane: int
    slot: int


class Member(Protocol):
    """One party, from the viewpoint of the runner that leads the sessions of a lane."""

    @property
    def party(self) -> str:
        """The party's name."""
        ...

    async def warm(self) -> None:
        """Wait until the party has a warm process."""
        ...

    async def start(self, order: SessionOrder) -> None:
        """Have the party join the session; returns when it serves. Raises UnavailableError if it cannot."""
        ...

    async def ended(self) -> str:
        """Wait until the party's part in the present session is over; why, as a code."""
        ...

    async def end(self) -> None:
        """End the party's part in the present session, if there is one."""
        ...

    async def close(self) -> None:
        """End everything of this party."""
        ...


class LocalMember:
    """A party whose processes this runner looks after: one in session, one standing by."""

    def __init__(self, settings: PartySettings, program_dir: Path, params_file: Path | None) -> None:
        self._settings = settings
        self._program_dir = program_dir
        self._params_file = params_file
        self._standby: asyncio.Task[PartyProcess] | None = None
        self.process: PartyProcess | None = None
        """The process in session, if there is one."""
        self.started: Mapping[str, Any] = {}
        """What the process in session said of its start."""

    @property
    def party(self) -> str:
        """The party's name."""
        return self._settings.party

    async def warm(self) -> None:
        """Wait until a warm process stands by."""
        if self._standby is None:
            self._standby = asyncio.create_task(self._spawn(0.0, 0))
        try:
            await asyncio.shield(self._standby)
        except Exception:
            self._standby = None
            raise

    async def start(self, order: SessionOrder) -> None:
        """Put the standing-by process into the session."""
        assert self._standby is not None, "a session starts with warm processes"
        process = await self._standby
        self._standby, self.process = None, process
        self.started = await process.start(
            SessionSpec(
                settings=self._settings,
                session_id=order.session_id,
                epoch=order.epoch,
                lane=order.lane,
                slot=order.slot,
                program_dir=self._program_dir,
                params_file=self._params_file,
            )
        )
        self._standby = asyncio.create_task(self._spawn(_STANDBY_DELAY_S, _STANDBY_NICENESS))

    async def ended(self) -> str:
        """Wait for the end of the process in session."""
        assert self.process is not None
        return await self.process.ended()

    async def end(self) -> None:
        """Kill the process in session."""
        process, self.process = self.process, None
        if process is not None:
            await process.kill()

    async def close(self) -> None:
        """Kill both processes."""
        await self.end()
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.cancel()
            done = (await asyncio.gather(standby, return_exceptions=True))[0]
            if isinstance(done, PartyProcess):
                await done.kill()

    async def _spawn(self, delay_s: float, niceness: int) -> PartyProcess:
        # A standby is for the next fault, not for now: its imports must not slow the session that just began.
        await asyncio.sleep(delay_s)
        process = await PartyProcess.spawn(self.party, niceness=niceness)
        try:
            await process.warm()
        except BaseException:
            await process.kill()
            raise
        return process
