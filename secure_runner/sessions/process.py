"""One party process, seen from its runner."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from secure_runner.errors import UnavailableError
from secure_runner.frames import (
    Array,
    Frame,
    FrameError,
    Kind,
    array_parts,
    arrays_of,
    encode_for_stream,
    read_frame,
)
from secure_runner.lifetime import StopClock
from secure_runner.party.about import AboutBatch
from secure_runner.sessions.environment import party_environment
from secure_runner.sessions.watch import RunReport

if TYPE_CHECKING:
    from secure_runner.config import Timeouts
    from secure_runner.party.spec import SessionSpec

__all__ = ["BatchResult", "PartyProcess"]

_log = logging.getLogger(__name__)
_PING_INTERVAL_S = 0.25
_STARTING_PATIENCE = 4
"""While a session starts, a process may be silent for this many freeze timeouts: libraries load meanwhile."""
_IMPORTING_PATIENCE = 24
"""Before that, while it imports, for this many: a machine that starts all its parties at once is slow."""
_STREAM_LIMIT = 1 << 24
_REPORT_EVERY_S = 0.25
"""Batches are told of together. Told of one by one, between the requests of a lone client, they take it a
millisecond of each: with cold caches and on the cores that run the next batch."""
_REPORTED = tuple(field.name for field in fields(RunReport) if field.default == 0)


@dataclass(frozen=True)
class BatchResult:
    """Revealed private outputs of one batch, and where its time went."""

    arrays: dict[str, Array]
    report: RunReport


class PartyProcess:
    """A party process: warm, then in one session, then ended. Never reused.

    Its death is seen as the end of its pipe, at once. A process that is stopped is killed after
    ``stopped_timeout_s``, and one that does not answer for another reason after ``freeze_timeout_s``.
    """

    def __init__(
        self, party: str, popen: subprocess.Popen[bytes], sock: socket.socket, timeouts: Timeouts
    ) -> None:
        self.party = party
        self.pid = popen.pid
        self.spec: SessionSpec | None = None
        """The session it was put into."""
        self.on_report: Callable[[RunReport], None] = lambda _: None
        """Told of each batch, up to a quarter of a second later."""
        self.admits: Callable[[int, AboutBatch], bool] = lambda _run_id, _about: True
        """Asked before each batch, where the session says so."""
        self._popen = popen
        self._sock = sock
        self._timeouts = timeouts
        self._warm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._runs: dict[int, asyncio.Future[Frame]] = {}
        self._run_ids = itertools.count(1)
        self._silence_s = 0.0
        self._unreported: list[RunReport] = []
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def spawn(cls, party: str, timeouts: Timeouts) -> PartyProcess:
        """Start a process for ``party``. It becomes warm on its own.

        Call from a thread that lives as long as the process: the kernel ends the child with it.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            popen = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "secure_runner.party", party, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=party_environment(),
                # Signals of a terminal are for the server; the runner ends its parties itself.
                start_new_session=True,
            )
        process = cls(party, popen, ours, timeouts)
        await process._attach()
        return process

    @classmethod
    async def spawn_warm(cls, party: str, timeouts: Timeouts) -> PartyProcess:
        """Start a process for ``party`` and wait until its imports are done.

        Raises:
            UnavailableError: the process ended before.
        """
        process = await cls.spawn(party, timeouts)
        try:
            await process.warm()
        except BaseException:
            await process.kill()
            raise
        return process

    async def warm(self) -> None:
        """Wait until imports are done.

        Raises:
            UnavailableError: the process ended before.
        """
        await asyncio.shield(self._warm)

    async def start(self, spec: SessionSpec) -> Mapping[str, Any]:
        """Put the process into a session and wait until it serves. Returns what it says of its start.

        Raises:
            UnavailableError: the process ended before.
        """
        self.spec = spec
        self._send(Frame(Kind.START, meta=spec.model_dump(mode="json")))
        return await asyncio.shield(self._ready)

    async def run(self, about: AboutBatch, arrays: Mapping[str, Array]) -> BatchResult:
        """Run one batch of private inputs (data owner's process only).

        Args:
            about: its size, of the ladder, and what the other parties are told of it.
            arrays: private input name → array, padded to ``batch_size`` rows.

        Raises:
            UnavailableError: the process ended before it answered; nothing is known of the result.
        """
        if self._ended.done():
            raise _gone(self._ended.result())
        run_id, started = next(self._run_ids), time.monotonic()
        specs, parts = array_parts(arrays)
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._runs[run_id] = answer
        try:
            self._send(Frame(Kind.RUN, run_id, about.as_meta() | {"arrays": specs}, parts))
            frame = await answer
        except BaseException as error:
            code = getattr(error, "code", "cancelled")
            self.on_report(RunReport(run_id, about, outcome=code, run_s=time.monotonic() - started))
            raise
        else:
            result = BatchResult(arrays_of(frame.meta["arrays"], frame.parts), _report_of(frame, about))
            self._report(result.report)
            return result
        finally:
            self._runs.pop(run_id, None)

    async def idle(self) -> None:
        """Wait until every batch that it was given is answered."""
        while self._runs:
            await asyncio.wait(self._runs.values())

    async def ended(self) -> str:
        """Wait for the end; why, as a code: one of this runner's, as ``died``, or what the party said."""
        return await asyncio.shield(self._ended)

    @property
    def end_reason(self) -> str:
        """Why it ended, as :meth:`ended` says; nothing while it lives."""
        return self._ended.result() if self._ended.done() else ""

    @property
    def alive(self) -> bool:
        """Whether the process has not ended, as far as this runner knows."""
        return not self._ended.done()

    async def kill(self, reason: str = "ended") -> None:
        """End the process at once and wait until it is gone."""
        self._end(reason)
        self._popen.kill()
        while self._popen.poll() is None:
            await asyncio.sleep(0.01)

    # --------------------------------------------------------------------------------------------------------

    async def _attach(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._sock, limit=_STREAM_LIMIT)
        self._tasks += [asyncio.create_task(self._read(reader)), asyncio.create_task(self._watch())]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._take(await read_frame(reader))
        except (asyncio.IncompleteReadError, FrameError, OSError):
            await self.kill("died")

    def _take(self, frame: Frame) -> None:
        self._silence_s = 0.0
        if frame.kind is Kind.WARM and not self._warm.done():
            self._warm.set_result(None)
        elif frame.kind is Kind.READY and not self._ready.done():
            self._ready.set_result(frame.meta)
        elif frame.kind is Kind.FAILED:
            self._end(str(frame.meta.get("code", "failed")))
        elif frame.kind is Kind.RESULT and frame.parts:
            answer = self._runs.get(frame.id)
            if answer is not None and not answer.done():
                answer.set_result(frame)
        elif frame.kind is Kind.RESULT:
            self._report(_report_of(frame, _about_of(frame)))
        elif frame.kind is Kind.ADMIT:
            admitted = self.admits(frame.id, _about_of(frame))
            self._send(Frame(Kind.ADMIT, frame.id, {"admitted": admitted}))

    @property
    def _patience(self) -> int:
        if not self._warm.done():
            return _IMPORTING_PATIENCE
        return _STARTING_PATIENCE if self.spec is not None and not self._ready.done() else 1

    def _report(self, report: RunReport) -> None:
        """Tell of a batch with those that come a moment later; at the latest when the process ends."""
        if not self._unreported:
            asyncio.get_running_loop().call_later(_REPORT_EVERY_S, self._tell)
        self._unreported.append(report)

    def _tell(self) -> None:
        reports, self._unreported = self._unreported, []
        for report in reports:
            self.on_report(report)

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        stopped = StopClock(self.pid)
        self._silence_s = 0.0
        while self.alive:
            self._send(Frame(Kind.PING))
            before_s = clock()
            await asyncio.sleep(_PING_INTERVAL_S)
            # A pause of this very process is no silence of the other: its answers may lie unread.
            self._silence_s += min(clock() - before_s, 2 * _PING_INTERVAL_S)
            silent = self._silence_s > self._patience * self._timeouts.freeze_timeout_s
            if silent or stopped.look() >= self._timeouts.stopped_timeout_s:
                await self.kill("frozen")

    def _send(self, frame: Frame) -> None:
        if not self._writer.is_closing():
            self._writer.writelines(encode_for_stream(frame))

    def _end(self, reason: str) -> None:
        if self._ended.done():
            return
        self._tell()
        self._ended.set_result(reason)
        pending: list[asyncio.Future[Any]] = [self._warm, self._ready, *self._runs.values()]
        for waiting in pending:
            if not waiting.done():
                waiting.set_exception(_gone(reason))
                # Whoever waits sees it; nobody waiting is no error.
                waiting.exception()
        self._writer.close()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        level = logging.INFO if reason in ("ended", "renewed") else logging.WARNING
        _log.log(level, "party %s: process %d ended (%s)", self.party, self.pid, reason)


def _gone(reason: str) -> UnavailableError:
    return UnavailableError(f"the session ended ({reason}); the next one is starting", code="session_ended")


def _about_of(frame: Frame) -> AboutBatch:
    batch_size: Any = frame.meta.get("batch_size")
    return AboutBatch.of_meta(frame.meta, (batch_size,))


def _report_of(frame: Frame, about: AboutBatch) -> RunReport:
    return RunReport(frame.id, about, **{name: frame.meta[name] for name in _REPORTED if name in frame.meta})
