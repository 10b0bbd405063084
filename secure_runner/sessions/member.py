"""A party's part in the sessions of one lane: what a leader can ask of it, and this machine's form of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from secure_runner.config import PartySettings
from secure_runner.party.about import AboutBatch
from secure_runner.party.spec import SessionSpec
from secure_runner.sessions.limits import Allowance, BatchLimits
from secure_runner.sessions.messages import Terms
from secure_runner.sessions.process import PartyProcess
from secure_runner.sessions.warm import Standby, WarmProcesses
from secure_runner.sessions.watch import PartyWatch, RunReport

__all__ = ["LocalMember", "Member", "SessionOrder"]

_STANDBY_DELAY_S = 0.5
"""A session that just began has first answers to give: they come before a standby's imports."""


@dataclass(frozen=True)
class SessionOrder:
    """The next session, as its leader announces it to all parties."""

    session_id: str
    epoch: int
    lane: int
    slot: int
    terms: Terms | None = None
    """The model owner's limits, for the data owner."""
    relieves: bool = False
    """Whether it takes the place of a session that still serves, as soon as it is ready."""


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

    def use(self, epoch: int) -> None:
        """Requests go to this session from now on."""
        ...

    async def ended(self, epoch: int) -> str:
        """Wait until the party's part in a session is over; why, as a code."""
        ...

    async def end(self, epoch: int) -> None:
        """End the party's part in a session, if it has one."""
        ...

    async def close(self) -> None:
        """End everything of this party."""
        ...


@dataclass
class _Part:
    """This party's part in one session."""

    process: PartyProcess
    started_at: float
    started: Mapping[str, Any] = field(default_factory=dict)
    """What the process said of its start."""


class LocalMember:
    """A party whose processes this runner looks after: up to two in session, and one standing by.

    Args:
        settings: of the party.
        program_dir: the program.
        params_file: the params, at the model owner.
        watch: keeps records of the party.
        limits: at the model owner, decides before each batch whether it may run.
        allowance: at the data owner, keeps to the terms of each session.
        warm_processes: started ahead, used before others are.
    """

    def __init__(
        self,
        settings: PartySettings,
        program_dir: Path,
        params_file: Path | None,
        watch: PartyWatch,
        limits: BatchLimits | None = None,
        allowance: Allowance | None = None,
        warm_processes: WarmProcesses | None = None,
    ) -> None:
        self._warm_processes = WarmProcesses() if warm_processes is None else warm_processes
        self._settings = settings
        self._program_dir = program_dir
        self._params_file = params_file
        self._watch = watch
        self._limits = limits
        self._allowance = allowance
        self._standby: Standby | None = None
        self._parts: dict[int, _Part] = {}
        self._used_epoch = 0
        self._relieving: set[asyncio.Task[None]] = set()

    @property
    def party(self) -> str:
        """The party's name."""
        return self._settings.party

    @property
    def process(self) -> PartyProcess | None:
        """The process in the session that requests go to, if there is one."""
        part = self._parts.get(self._used_epoch)
        return None if part is None else part.process

    @property
    def has_reserve(self) -> bool:
        """Whether a process of this party serves a session that requests do not go to yet."""
        return any(part.started for epoch, part in self._parts.items() if epoch > self._used_epoch)

    @property
    def started(self) -> Mapping[str, Any]:
        """What that process said of its start."""
        part = self._parts.get(self._used_epoch)
        return {} if part is None else part.started

    async def warm(self) -> None:
        """Wait until a warm process stands by.

        Raises:
            UnavailableError: it ended before; the next one is on its way.
        """
        if self._standby is None:
            self._standby = self._warm_processes.take(self.party) or self._next_standby(0.0)
        await self._standby.warm()

    async def start(self, order: SessionOrder) -> None:
        """Put the process that stands by into the session."""
        assert self._standby is not None, "a session starts with warm processes"
        process = await self._standby.take()
        self._standby = None
        self._parts[order.epoch] = part = _Part(process, time.monotonic())
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
        process.on_report = lambda report: self._watch.batch_ran(spec, report)
        process.admits = lambda _, about: self._admits(spec, about)
        part.started = await process.start(spec)
        for batch_size, run_s in part.started.get("run_s", {}).items():
            self._watch.batch_ran(spec, RunReport(0, AboutBatch(int(batch_size)), run_s=run_s))
        self._standby = self._next_standby(_STANDBY_DELAY_S)

    def use(self, epoch: int) -> None:
        """Have requests go to this session; the data owner's process in an earlier one ends once idle."""
        self._used_epoch = epoch
        if self._settings.role == "data_owner":
            for earlier, part in self._parts.items():
                if earlier < epoch:
                    task = asyncio.create_task(self._relieve(part.process))
                    self._relieving.add(task)
                    task.add_done_callback(self._relieving.discard)

    async def ended(self, epoch: int) -> str:
        """Wait for the end of the process in a session."""
        return await self._parts[epoch].process.ended()

    async def end(self, epoch: int) -> None:
        """Kill the process in a session."""
        part = self._parts.pop(epoch, None)
        if part is None:
            return
        reason = part.process.end_reason or "ended"
        await part.process.kill()
        if part.process.spec is not None:
            self._watch.session_ended(part.process.spec, reason, time.monotonic() - part.started_at)

    async def close(self) -> None:
        """Kill all processes."""
        await asyncio.gather(*(self.end(epoch) for epoch in list(self._parts)))
        # Their processes are killed by now, so that nothing is left to wait for.
        await asyncio.gather(*self._relieving, return_exceptions=True)
        standby, self._standby = self._standby, None
        if standby is not None:
            await standby.close()

    @staticmethod
    async def _relieve(process: PartyProcess) -> None:
        await process.idle()
        await process.kill("renewed")

    def _admits(self, spec: SessionSpec, about: AboutBatch) -> bool:
        reason = "" if self._limits is None else self._limits.take(about.batch_size)
        if reason:
            self._watch.batch_refused(spec, about, reason)
        return not reason

    def _next_standby(self, delay_s: float) -> Standby:
        return Standby(self.party, self._settings.cluster.timeouts, delay_s=delay_s)
