"""Party processes that are started before it is known which session they will be in, or whether in any."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from secure_runner.config import Timeouts
from secure_runner.errors import UnavailableError
from secure_runner.sessions.process import PartyProcess

__all__ = ["Standby", "WarmProcesses"]

_log = logging.getLogger(__name__)
_PAUSE_S = 0.5


class Standby:
    """A process of a party that stands by, its imports done; another takes its place wherever it ends.

    Args:
        party: its name.
        timeouts: of the cluster.
        delay_s: how long to wait before the first process is started.
    """

    def __init__(self, party: str, timeouts: Timeouts, *, delay_s: float = 0.0) -> None:
        self._party = party
        self._timeouts = timeouts
        self._process: asyncio.Future[PartyProcess] = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.create_task(self._keep(delay_s))

    async def warm(self) -> None:
        """Wait until the process is warm.

        Raises:
            UnavailableError: it ended before; the next one is on its way.
        """
        await asyncio.shield(self._process)

    async def take(self) -> PartyProcess:
        """The process, once it is warm: the caller's from then on, and not replaced.

        Raises:
            UnavailableError: as :meth:`warm`.
        """
        process = await asyncio.shield(self._process)
        self._keeping.cancel()
        return process

    async def close(self) -> None:
        """Kill the process."""
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        if self._process.done():
            await self._process.result().kill()

    async def _keep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while True:
            try:
                process = await PartyProcess.spawn_warm(self._party, self._timeouts)
            except UnavailableError as error:
                _log.warning("party %s: a process that was to stand by is gone: %s", self._party, error)
                ended, self._process = self._process, asyncio.get_running_loop().create_future()
                ended.set_exception(error)
                # Whoever waits sees it; nobody waiting is no error.
                ended.exception()
                await asyncio.sleep(_PAUSE_S)
                continue
            self._process.set_result(process)
            await process.ended()
            self._process = asyncio.get_running_loop().create_future()


class WarmProcesses:
    """Processes that stand by for a runner that may have to take over at any moment."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Standby]] = {}

    def keep(self, parties: Iterable[str], timeouts: Timeouts) -> None:
        """Have one process stand by for each of ``parties``."""
        for party in parties:
            self._waiting.setdefault(party, []).append(Standby(party, timeouts))

    def take(self, party: str) -> Standby | None:
        """One that stands by for a party; None where none is left. It is the caller's now."""
        waiting = self._waiting.get(party)
        return waiting.pop() if waiting else None
