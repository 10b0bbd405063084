"""A long line: TCP connections are passed on, each byte a fixed time later, in order and at full rate.

The kernel's own delay (netem) is missing on many machines. Tests use it too. ``python relay.py``
reads one JSON object a line from standard input and answers each: first the lines, then new delays. It ends
with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import itertools
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

__all__ = ["Line", "Relay", "on_loopback"]

_LOOPBACK = "127.0.0.1"
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


class _Alarm:
    """Calls at a time, to some hundredths of a millisecond: event loops round to whole ones, or are slow."""

    _ABSOLUTE = 1

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "the kernel gave no timer")
        self._numbers = itertools.count()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        asyncio.get_running_loop().add_reader(self._timer, self._ring)

    def call_at(self, due_s: float, call: Callable[[], None]) -> None:
        """Call when ``time.monotonic()`` is ``due_s``."""
        heapq.heappush(self._calls, (due_s, next(self._numbers), call))
        if self._calls[0][0] == due_s:
            self._set(due_s)

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it may have been set anew since it rang
            os.read(self._timer, 8)
        while self._calls and self._calls[0][0] <= time.monotonic():
            heapq.heappop(self._calls)[2]()
        if self._calls:
            self._set(self._calls[0][0])

    def _set(self, due_s: float) -> None:
        whole, rest = divmod(due_s, 1)
        # struct itimerspec: how often from then on, and when, in seconds and nanoseconds.
        times = (ctypes.c_long * 4)(0, 0, int(whole), int(1e9 * rest))
        self._libc.timerfd_settime(self._timer, self._ABSOLUTE, times, None)


class _Lines:
    """All lines, in the relay's process."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.carried: list[int] = []
        self.alarm = _Alarm()
        self._servers: list[asyncio.AbstractServer] = []
        self._connecting: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int, to_host: str, to_port: int) -> None:
        index = len(self.carried)
        self.carried.append(0)

        def accept() -> _End:
            end, onward = _End(self, index), _End(self, index)
            end.other, onward.other = onward, end
            task = loop.create_task(_connect(end, onward, to_host, to_port))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
            return end

        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(accept, host, port, backlog=1024))


class _End(asyncio.Protocol):
    """One of the two connections of a line; what it receives goes to the other one, later."""

    other: _End

    def __init__(self, lines: _Lines, index: int) -> None:
        self._lines = lines
        self._index = index
        self._transport: asyncio.Transport | None = None
        self._under_way: deque[bytes] = deque()
        """Received here, not yet written there; the last piece, of no bytes, is the end."""
        self._due = 0
        """Pieces that have been under way long enough."""
        self._over = False
        """The other connection has been told the end of this one."""
        self._writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.other.deliver()

    def data_received(self, data: bytes) -> None:
        self._lines.carried[self._index] += len(data)
        self._send_off(data)
        self._read_or_wait()

    def eof_received(self) -> bool:
        """The other way stays open."""
        self._send_off(b"")
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self.other.abort()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self.other.deliver()

    def abort(self) -> None:
        """Drop the connection and all that is under way to it."""
        if self._transport is not None:
            self._transport.abort()

    def deliver(self) -> None:
        """Write what is due, if there is somebody to write to."""
        onward = self.other._transport
        while self._due and self.other._writable and onward is not None and not onward.is_closing():
            self._due -= 1
            if piece := self._under_way.popleft():
                onward.write(piece)
            else:
                self._end(onward)
        self._read_or_wait()

    def _send_off(self, piece: bytes) -> None:
        self._under_way.append(piece)
        # Whichever call is first takes the first piece, so that order holds when the delay changes.
        if self._lines.delay_s:
            self._lines.alarm.call_at(time.monotonic() + self._lines.delay_s, self._arrived)
        else:
            self._arrived()

    def _arrived(self) -> None:
        self._due += 1
        self.deliver()

    def _end(self, onward: asyncio.Transport) -> None:
        self._over = True
        if not self.other._over:
            onward.write_eof()
            return
        for transport in (onward, self._transport):
            if transport is not None:
                transport.close()

    def _read_or_wait(self) -> None:
        """Read no more while much is under way."""
        if self._transport is None or self._transport.is_closing():
            return
        if len(self._under_way) >= _UNDER_WAY:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


async def _connect(end: _End, onward: _End, host: str, port: int) -> None:
    try:
        await asyncio.get_running_loop().create_connection(lambda: onward, host, port)
    except OSError:
        # Nobody listens there: so much is told to who came.
        end.abort()


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
