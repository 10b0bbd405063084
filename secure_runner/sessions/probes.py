"""Measures the line to another runner, for ``secure-runner doctor``."""

from __future__ import annotations

import asyncio
import time

from secure_runner.config import PartySettings
from secure_runner.sessions.channel import Wire
from secure_runner.sessions.messages import CoordinationError, Goodbye, Probe, ProbeReply, read_greeting

__all__ = ["answer_probes", "measure_bandwidth"]

_TOTAL_BYTES = 1024 * 1024
_MAX_PROBES = 4096


async def measure_bandwidth(wire: Wire, settings: PartySettings, round_trip_s: float) -> float:
    """Send about a megabyte and wait until it has arrived; bits per second, from us to the other side.

    Raises:
        CoordinationError: the other side closed the connection or sent something else.
        asyncio.TimeoutError: the line takes longer than ``recv_timeout_s``.
    """
    size = settings.cluster.limits.coordination_message_bytes // 2
    probe, count = Probe(padding="x" * size), max(4, min(_MAX_PROBES, _TOTAL_BYTES // size))

    async def exchange() -> float:
        started_s = time.monotonic()
        sending = asyncio.create_task(_send_all(wire, probe, count))
        for _ in range(count):
            if not isinstance(await wire.receive_greeting(), ProbeReply):
                raise CoordinationError("the other side did not acknowledge a probe")
        await sending
        return time.monotonic() - started_s

    took_s = await asyncio.wait_for(exchange(), settings.cluster.timeouts.recv_timeout_s)
    await wire.send(Goodbye(reason="checked"))
    return 8 * count * size / max(took_s - round_trip_s, 1e-6)


async def answer_probes(wire: Wire, settings: PartySettings) -> None:
    """Acknowledge probes until the other side takes leave; bounded in number and time.

    Raises:
        CoordinationError: it sent something else, or too much.
        asyncio.TimeoutError: it stayed longer than it may.
    """

    async def answer() -> None:
        for _ in range(_MAX_PROBES):
            message = read_greeting(await wire.receive())
            if isinstance(message, Goodbye):
                return
            if not isinstance(message, Probe):
                raise CoordinationError("the other side sent something other than a probe")
            await wire.send(ProbeReply())

    await asyncio.wait_for(answer(), 2 * settings.cluster.timeouts.recv_timeout_s)


async def _send_all(wire: Wire, probe: Probe, count: int) -> None:
    for _ in range(count):
        await wire.send(probe)
