"""A server that seems far away: a forwarder on loopback that holds every byte back for a while."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["far_away"]


@contextmanager
def far_away(address: str, way_ms: float) -> Iterator[str]:
    """An address that leads to the other one, ``way_ms`` later in each direction."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="far-away", daemon=True)
    thread.start()
    host, _, port = address.rpartition(":")

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(_carry(reader, back, way_ms / 1000), _carry(there, writer, way_ms / 1000))

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(forward, "127.0.0.1", 0)

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way_s: float) -> None:
    """Everything in order, each piece as long after it came as the way takes."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            loop.call_later(way_s, writer.write, data)
    loop.call_later(way_s, writer.close)
