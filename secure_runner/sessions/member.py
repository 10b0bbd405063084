"""A party's part in the sessions of one lane: what a leader can ask of it, and this machine's form of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from secure_runner.config import PartySettings
from secure_runner.party.about import AboutBatch
from secure_runner.party.spec import SessionSpec
from secure_runner.sessions.limits import Allowance, BatchLimits
from secure_runner.sessions.messages import Terms
from secure_runner.sessions.process import PartyProcess
from secure_runner.sessions.watch import PartyWatch, RunReport

__all__ = ["LocalMember", "Member", "SessionOrder"]

_log = logging.getLogger(__name__)
_STANDBY_DELAY_S = 0.5


@dataclass(frozen=True)
class SessionOrder:
    """The next session, as its leader announces it to all parties."""

    session_id: str
    epoch: int
    lane: int
    slot: int
    terms: Terms | None = None
    """The model owner's limits, for the data owner."""


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
    """A party whose processes this runner looks after: one in session, one standing by.

    Args:
        settings: of the party.
        program_dir: the program.
        params_file: the params, at the model owner.
        watch: keeps records of the party.
        limits: at the model owner, decides before each batch whether it may run.
        allowance: at the data owner, keeps to the terms of each session.
    """

    def __init__(
        self,
        settings: PartySettings,
        program_dir: Path,
        params_file: Path | None,
        watch: PartyWatch,
        limits: BatchLimits | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        self._settings = settings
        self._program_dir = program_dir
        self._params_file = params_file
        self._watch = watch
        self._limits = limits
        self._allowance = allowance
        self._started_at = 0.0
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
            self._standby = asyncio.create_task(self._spawn(0.0))
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
        spec = SessionSpec(
            settings=self._settings,
            session_id=order.session_id,
            epoch=order.epoch,
            lane=order.lane,
            slot=order.slot,
            program_dir=self._program_dir,
            params_file=self._params_file,
            ask_before_runs=self._limits is not None,
        )
        if self._allowance is not None:
            self._allowance.update(order.terms)
        self._watch.session_started(spec)
        self._started_at = time.monotonic()
        process.on_report = lambda report: self._watch.batch_ran(spec, report)
        process.admits = lambda _, about: self._admits(spec, about)
        self.started = await process.start(spec)
        for batch_size, run_s in self.started.get("run_s", {}).items():
            self._watch.batch_ran(spec, RunReport(0, AboutBatch(int(batch_size)), run_s=run_s))
        self._standby = asyncio.create_task(self._spawn(_STANDBY_DELAY_S))

    async def ended(self) -> str:
        """Wait for the end of the process in session."""
        assert self.process is not None
        return await self.process.ended()

    async def end(self) -> None:
        """Kill the process in session."""
        process, self.process = self.process, None
        if process is None:
            return
        reason = process.end_reason or "ended"
        await process.kill()
        if process.spec is not None:
            self._watch.session_ended(process.spec, reason, time.monotonic() - self._started_at)

    async def close(self) -> None:
        """Kill both processes."""
        await self.end()
        standby, self._standby = self._standby, None
        if standby is not None:
            standby.cancel()
            done = (await asyncio.gather(standby, return_exceptions=True))[0]
            if isinstance(done, PartyProcess):
                await done.kill()

    def _admits(self, spec: SessionSpec, about: AboutBatch) -> bool:
        reason = "" if self._limits is None else self._limits.take(about.batch_size)
        if reason:
            self._watch.batch_refused(spec, about, reason)
        return not reason

    async def _spawn(self, delay_s: float) -> PartyProcess:
        # The session that just began has first answers to give: they come before a standby's imports.
        await asyncio.sleep(delay_s)
        timeouts = self._settings.cluster.timeouts
        process = await PartyProcess.spawn(self.party, freeze_timeout_s=timeouts.freeze_timeout_s)
        try:
            await process.warm()
        except BaseException:
            await process.kill()
            raise
        process.when_ended(lambda: self._replace(process))
        return process

    def _replace(self, process: PartyProcess) -> None:
        """A process has ended. If it only stood by, start another now, and not when it is needed."""
        standby = self._standby
        if standby is not None and standby.done() and standby.result() is process:
            self._standby = asyncio.create_task(self._spawn(0.0))
