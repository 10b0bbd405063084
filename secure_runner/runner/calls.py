"""Calls over a Unix socket: many at a time on one connection, bytes in, bytes out.

Carries predictions between an API service and its runner. BentoML's own hop pickles each request, wraps it in
HTTP and logs and traces it a second time: some 3 ms, against 0.05 ms here. A message on the stream is::

    length u64 | call number u64 | body

Both numbers are little-endian. The socket lies in a directory that only this user may enter.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import struct
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from secure_runner.errors import UnavailableError

__all__ = ["CallClient", "CallServer"]

_HEAD = struct.Struct("<QQ")
_MAX_BODY_BYTES = 2 << 30

Answer = Callable[[bytes], Awaitable[bytes]]


class _Stream(asyncio.Protocol):
    """One end of a connection."""

    def __init__(self, take: Callable[[_Stream, int, bytes], None], lost: Callable[[_Stream], None]) -> None:
        self._take = take
        self._lost = lost
        self._received = bytearray()
        self._unsent: list[bytes] = []
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of classes of their own.
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= _HEAD.size:
            length, number = _HEAD.unpack_from(self._received)
            if length > _MAX_BODY_BYTES:
                self.close()
                return
            end = _HEAD.size + length
            if len(self._received) < end:
                return
            body = bytes(memoryview(self._received)[_HEAD.size : end])
            del self._received[:end]
            self._take(self, number, body)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(self)

    def send(self, number: int, body: bytes) -> None:
        """Send one message, with those that are sent a moment later; if the other end is gone, do nothing.

        The answers to a batch come all at once, and each write is a system call.
        """
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent += (_HEAD.pack(len(body), number), body)

    def close(self) -> None:
        """End the connection at once; what was sent before goes out, as far as the other end takes it."""
        if self._transport is not None:
            self._flush()
            self._transport.abort()

    def _flush(self) -> None:
        assert self._transport is not None, "only what is connected sends"
        unsent, self._unsent = self._unsent, []
        if unsent and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))


class CallServer:
    """Answers calls; several connections, and many calls of each at a time.

    Args:
        answer: computes one call; must not raise.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._running: dict[_Stream, set[asyncio.Task[None]]] = {}
        self._directory: Path | None = None
        self._server: asyncio.Server | None = None

    async def open(self) -> Path:
        """Listen; returns where."""
        self._directory = Path(tempfile.mkdtemp(prefix="secure-runner-"))
        path = self._directory / "calls"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Stream(self._take, self._forget), path)
        return path

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for stream in list(self._running):
            stream.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _take(self, stream: _Stream, number: int, body: bytes) -> None:
        tasks = self._running.setdefault(stream, set())
        task = asyncio.get_running_loop().create_task(self._reply(stream, number, body))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _reply(self, stream: _Stream, number: int, body: bytes) -> None:
        stream.send(number, await self._answer(body))

    def _forget(self, stream: _Stream) -> None:
        """Nobody waits for these answers any more."""
        for task in self._running.pop(stream, set()):
            task.cancel()


class CallClient:
    """Makes calls over one connection, opened when it is first needed and again when it was lost.

    Args:
        locate: asks the server's process where it listens; a process that was started anew listens elsewhere.
    """

    def __init__(self, locate: Callable[[], Awaitable[str]]) -> None:
        self._locate = locate
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._stream: _Stream | None = None
        self._connecting: asyncio.Task[_Stream] | None = None

    async def call(self, body: bytes) -> bytes:
        """One call; where the server goes away before it answers, once more to the one that takes its place.

        Raises:
            UnavailableError: the server is not there, or went away twice.
        """
        try:
            return await self._call(body)
        except UnavailableError:
            return await self._call(body)

    async def _call(self, body: bytes) -> bytes:
        stream = self._stream or await self._connect()
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            stream.send(number, body)
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def _connect(self) -> _Stream:
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._open())
            self._connecting.add_done_callback(self._connected)
        # Those who wait share one attempt, and one of them giving up does not end it for the others.
        return await asyncio.shield(self._connecting)

    def _connected(self, attempt: asyncio.Task[_Stream]) -> None:
        self._connecting = None
        # Whoever waits sees a failure; nobody waiting any more is no error.
        if not attempt.cancelled():
            attempt.exception()

    async def _open(self) -> _Stream:
        try:
            path = await self._locate()
            loop = asyncio.get_running_loop()
            _, stream = await loop.create_unix_connection(lambda: _Stream(self._take, self._lose), path)
        except Exception as error:
            raise UnavailableError(
                f"the runner's process cannot be reached ({type(error).__name__})", code="runner_unreachable"
            ) from error
        self._stream = stream
        return stream

    def _take(self, _: _Stream, number: int, body: bytes) -> None:
        answer = self._waiting.get(number)
        if answer is not None and not answer.done():
            answer.set_result(body)

    def _lose(self, stream: _Stream) -> None:
        if self._stream is stream:
            self._stream = None
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(
                    UnavailableError("the runner's process ended; it is starting again", code="runner_ended")
                )
