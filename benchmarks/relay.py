"""A long line: TCP connections are passed on, each byte a fixed time later, in order and at full rate.

The kernel's own delay (netem) is missing on many machines. Tests use it too. ``python relay.py``
reads one JSON object a line from standard input and answers each: first the lines, then new delays. It ends
with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Line", "Relay", "on_loopback"]

_LOOPBACK = "127.0.0.1"
_PIECE_BYTES = 1 << 18
_UNDER_WAY = 1 << 10
"""Pieces of one direction that are under way at most."""


@dataclass(frozen=True)
class Line:
    """Where connections come in, and where they go on to."""

    host: str
    port: int
    to_host: str
    to_port: int


class Relay:
    """The relay's process, seen from who started it.

    Args:
        lines: what it passes on.
        prefix: command that runs another on the relay's host.
    """

    def __init__(self, lines: Sequence[Line], prefix: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*prefix, sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines = lines
        self._ask({"lines": [[line.host, line.port, line.to_host, line.to_port] for line in lines]})

    def set_round_trip(self, round_trip_s: float) -> None:
        """How long a byte and its answer are under way from now on, in seconds."""
        self._ask({"delay_s": round_trip_s / 2})

    def carried_bytes(self) -> dict[Line, int]:
        """Line → bytes that have crossed it, both ways together."""
        return dict(zip(self._lines, self._ask({})["bytes"], strict=True))

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def on_loopback(targets: Mapping[int, int]) -> list[Line]:
    """Lines of this machine: port that is listened on → port that it stands for."""
    return [Line(_LOOPBACK, port, _LOOPBACK, target) for port, target in targets.items()]


class _Lines:
    """All lines, in the relay's process."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.carried: list[int] = []
        self._servers: list[asyncio.AbstractServer] = []

    async def listen(self, host: str, port: int, to_host: str, to_port: int) -> None:
        index = len(self.carried)
        self.carried.append(0)

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers = [writer]
            try:
                onward_reader, onward_writer = await asyncio.open_connection(to_host, to_port)
                writers.append(onward_writer)
                ways = (reader, onward_writer), (onward_reader, writer)
                await asyncio.gather(*(self._carry(index, *way) for way in ways))
            except OSError:
                # Nobody listens there, or one end is gone: so much is told to the other.
                for each in writers:
                    each.transport.abort()
            finally:
                for each in writers:
                    each.close()

        self._servers.append(await asyncio.start_server(accept, host, port, backlog=1024))

    async def _carry(self, index: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one direction until its end, which arrives as late as everything else."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)

        async def arrive() -> None:
            while True:
                due_s, piece = await under_way.get()
                if (wait_s := due_s - loop.time()) > 0:
                    await asyncio.sleep(wait_s)
                if not piece:
                    break
                writer.write(piece)
                await writer.drain()
            if not writer.transport.is_closing() and writer.can_write_eof():
                writer.write_eof()

        arriving = asyncio.create_task(arrive())
        try:
            piece = b"-"
            while piece and not arriving.done():
                with contextlib.suppress(ConnectionError):
                    piece = b""
                    piece = await reader.read(_PIECE_BYTES)
                self.carried[index] += len(piece)
                await under_way.put((loop.time() + self.delay_s, piece))
            await arriving
        finally:
            arriving.cancel()


async def main() -> None:
    """Answer commands until standard input ends."""
    lines = _Lines()
    while command := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(command)
        for line in asked.get("lines", []):
            await lines.listen(*line)
        lines.delay_s = asked.get("delay_s", lines.delay_s)
        sys.stdout.write(json.dumps({"bytes": lines.carried}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    import uvloop

    uvloop.install()
    asyncio.run(main())
