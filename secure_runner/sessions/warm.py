"""Party processes that are started before it is known which session they will be in, or whether in any."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from secure_runner.config import Timeouts
from secure_runner.errors import UnavailableError
from secure_runner.sessions.process import PartyProcess

__all__ = ["WarmProcesses"]

_log = logging.getLogger(__name__)
_PAUSE_S = 1.0


class WarmProcesses:
    """Keeps processes with their imports done, for a runner that may have to take over at any moment."""

    def __init__(self) -> None:
        self._slots: dict[str, list[_Slot]] = {}

    def keep(self, parties: Iterable[str], timeouts: Timeouts) -> None:
        """Start one process for each of ``parties``, and another wherever one ends."""
        for party in parties:
            self._slots.setdefault(party, []).append(_Slot(party, timeouts))

    async def take(self, party: str) -> PartyProcess | None:
        """One of a party's processes, once it is warm; None where none is left. It is the caller's now."""
        slots = self._slots.get(party)
        return await slots.pop().take() if slots else None


class _Slot:
    """One process, or the next one in its place."""

    def __init__(self, party: str, timeouts: Timeouts) -> None:
        self._party = party
        self._timeouts = timeouts
        self._warm: asyncio.Future[PartyProcess] = asyncio.get_running_loop().create_future()
        self._keeping = asyncio.create_task(self._keep())

    async def take(self) -> PartyProcess:
        process = await asyncio.shield(self._warm)
        self._keeping.cancel()
        return process

    async def _keep(self) -> None:
        while True:
            try:
                process = await PartyProcess.spawn_warm(self._party, self._timeouts)
            except UnavailableError as error:
                _log.warning("party %s: a process that was to stand by is gone: %s", self._party, error)
                await asyncio.sleep(_PAUSE_S)
                continue
            self._warm.set_result(process)
            await process.ended()
            self._warm = asyncio.get_running_loop().create_future()
