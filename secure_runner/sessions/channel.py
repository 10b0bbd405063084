"""The connection between two runners: length-prefixed JSON over mutual TLS, with heartbeats.

The model owner's runner listens and the others connect, so a data owner behind a firewall needs no open port
for it. Each side checks that the other is the party it claims to be, then both compare what they have
(:mod:`secure_runner.sessions.agreement`), and only then do messages about sessions count. A peer that dies is
noticed by the closed connection at once; one that freezes or drops off the network by its silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from secure_runner.sessions.messages import (
    CoordinationError,
    Goodbye,
    Greeting,
    Heartbeat,
    SessionMessage,
    read_greeting,
    read_session_message,
)

if TYPE_CHECKING:
    from secure_runner.config import Timeouts
    from secure_runner.sessions.messages import Hello

__all__ = ["Peer", "Wire"]

_log = logging.getLogger(__name__)
_LENGTH = struct.Struct(">I")
_MAX_WAITING_MESSAGES = 256


class Wire:
    """One stream of messages, before anything is known of who is at its other end."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, largest_message_bytes: int
    ) -> None:
        self.reader = reader
        self.writer = writer
        self._largest_message_bytes = largest_message_bytes
        self._sending = asyncio.Lock()

    async def send(self, message: Greeting | SessionMessage) -> None:
        """Send one message.

        Raises:
            CoordinationError: the connection is gone.
        """
        body = message.model_dump_json().encode()
        assert len(body) <= self._largest_message_bytes, "our own messages are small"
        try:
            async with self._sending:
                self.writer.write(_LENGTH.pack(len(body)) + body)
                await self.writer.drain()
        except OSError as error:
            raise CoordinationError(f"the connection failed: {_reason(error)}") from error

    async def receive(self) -> bytes:
        """Receive the bytes of one message.

        Raises:
            CoordinationError: the connection ended, or the message is larger than the limit.
        """
        try:
            (length,) = _LENGTH.unpack(await self.reader.readexactly(_LENGTH.size))
            if length > self._largest_message_bytes:
                raise CoordinationError(
                    f"a message of {length} bytes came; at most {self._largest_message_bytes} are allowed"
                )
            return await self.reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise CoordinationError("the other side closed the connection") from error
        except OSError as error:
            raise CoordinationError(f"the connection failed: {_reason(error)}") from error

    async def receive_greeting(self) -> Greeting:
        """Receive a message of the greeting.

        Raises:
            CoordinationError: as ``receive``; also when the other side takes leave.
        """
        message = read_greeting(await self.receive())
        if isinstance(message, Goodbye):
            raise CoordinationError(f"the other side took leave: {message.reason}")
        return message

    def abort(self) -> None:
        """Close at once, without sending what is still waiting."""
        self.writer.transport.abort()


class Peer:
    """Another runner that has proved its identity and agrees with us.

    Iterate over it for its messages; iteration ends with the connection. ``closed`` is set then, and
    ``reason`` says why in a few words.
    """

    def __init__(
        self, wire: Wire, hello: Hello, timeouts: Timeouts, round_trip_s: float, clock_difference_s: float
    ) -> None:
        self.hello = hello
        """What it said it has."""
        self.round_trip_s = round_trip_s
        """Round-trip time of the greeting, in seconds."""
        self.clock_difference_s = clock_difference_s
        """How far its clock is ahead of ours, in seconds."""
        self.closed = asyncio.Event()
        """Set once the connection is over."""
        self.reason = ""
        """Why it is over."""
        self._wire = wire
        self._timeouts = timeouts
        self._silence_s = 0.0
        self._messages: asyncio.Queue[SessionMessage | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def party(self) -> str:
        """Its name."""
        return self.hello.party

    async def send(self, message: SessionMessage) -> None:
        """Send a message.

        Raises:
            CoordinationError: the connection is over.
        """
        if self.closed.is_set():
            raise CoordinationError(f"the connection to {self.party} is over: {self.reason}")
        await self._wire.send(message)

    async def __aiter__(self) -> AsyncIterator[SessionMessage]:
        while (message := await self._messages.get()) is not None:
            yield message

    @contextlib.asynccontextmanager
    async def attended(self) -> AsyncIterator[Peer]:
        """Keep reading, sending heartbeats and watching for silence meanwhile; take leave at the end."""
        self._tasks = [asyncio.create_task(work()) for work in (self._read, self._beat, self._watch)]
        try:
            yield self
        finally:
            await self._leave()

    async def _leave(self) -> None:
        if not self.closed.is_set():
            with contextlib.suppress(CoordinationError, asyncio.TimeoutError):
                goodbye = self._wire.send(Goodbye(reason="closing"))
                await asyncio.wait_for(goodbye, self._timeouts.heartbeat_interval_s)
            self.end("closed by us")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def end(self, reason: str) -> None:
        """End the connection, with the reason in a few words."""
        if self.closed.is_set():
            return
        self.reason = reason
        self.closed.set()
        self._messages.put_nowait(None)
        self._wire.writer.close()

    async def _read(self) -> None:
        try:
            while True:
                message = read_session_message(await self._wire.receive())
                self._silence_s = 0.0
                if isinstance(message, Goodbye):
                    return self.end(f"it took leave: {message.reason}")
                if self._messages.qsize() >= _MAX_WAITING_MESSAGES:
                    raise CoordinationError(f"more than {_MAX_WAITING_MESSAGES} messages wait to be read")
                if not isinstance(message, Heartbeat):
                    self._messages.put_nowait(message)
        except CoordinationError as error:
            _log.warning("connection to %s ends: %s", self.party, error)
            self.end(str(error))
            self._wire.abort()

    async def _beat(self) -> None:
        with contextlib.suppress(CoordinationError):
            while not self.closed.is_set():
                await self._wire.send(Heartbeat())
                await asyncio.sleep(self._timeouts.heartbeat_interval_s)

    async def _watch(self) -> None:
        step_s = self._timeouts.heartbeat_interval_s / 4
        while not self.closed.is_set():
            before_s = time.monotonic()
            await asyncio.sleep(step_s)
            # A pause of this very process is no silence of the peer: its heartbeats may lie unread.
            self._silence_s += min(time.monotonic() - before_s, 2 * step_s)
            if self._silence_s > self._timeouts.heartbeat_timeout_s - step_s:
                self.end(f"silent for {self._timeouts.heartbeat_timeout_s:g} s")
                self._wire.abort()


def _reason(error: OSError) -> str:
    """An error in words; for one of TLS, what the other side had against us."""
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
