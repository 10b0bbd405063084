"""How runners find each other: the model owner's listens, the others connect and keep trying."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from secure_runner.config import PartySettings
from secure_runner.config.tls import (
    IdentityError,
    client_context,
    read_tls,
    refreshing_server_context,
)
from secure_runner.errors import SecureRunnerError
from secure_runner.sessions.channel import Peer, Wire
from secure_runner.sessions.greeting import greet
from secure_runner.sessions.messages import (
    CoordinationError,
    Hello,
    Known,
)
from secure_runner.sessions.probes import answer_probes

__all__ = [
    "CoordinationServer",
    "connect_coordination",
    "connect_reason",
    "open_wire",
    "serve_coordination",
]

_log = logging.getLogger(__name__)
_LOG_INTERVAL_S = 5.0
_KEPT_REFUSALS = 32
_CONNECT_TIMEOUT_S = 2.0
"""For TCP alone: half a dozen of the longest round trips on Earth."""
_TOLD_REFUSALS = 4

Progress = Callable[[str], None]


@dataclass
class CoordinationServer:
    """The listening runner's view of the others."""

    peers: dict[str, Peer] = field(default_factory=dict)
    """Party to its present connection."""
    refusals: dict[str, str] = field(default_factory=dict)
    """Address to why its latest attempt was refused; the latest few."""

    def known(self, largest_message_bytes: int) -> Known:
        """What this party's own doctor is told."""
        latest = list(self.refusals.values())[-_TOLD_REFUSALS:]
        # In JSON a character takes six bytes at most.
        longest = min(largest_message_bytes // (8 * _TOLD_REFUSALS), 2**12)
        return Known(connected=sorted(self.peers), refused=[reason[:longest] for reason in latest])

    def note_refusal(self, source: str, reason: str) -> None:
        """Keep and log why a connection was refused."""
        self.refusals.pop(source, None)
        self.refusals[source] = reason
        while len(self.refusals) > _KEPT_REFUSALS:
            del self.refusals[next(iter(self.refusals))]
        _log.warning("refused a runner at %s: %s", source, reason)


@contextlib.asynccontextmanager
async def serve_coordination(
    settings: PartySettings, hello: Hello, on_peer: Callable[[Peer], Awaitable[None]]
) -> AsyncIterator[CoordinationServer]:
    """Listen for the other parties' runners while the context is open.

    Replaced certificates count from the next connection on.

    Args:
        settings: this party; it listens at its coordination address.
        hello: what this party has.
        on_peer: awaited for each peer that has proved its identity and agrees; the connection closes when it
            returns. A party that connects again replaces its older connection.

    Raises:
        ConfigError: this party's certificate, key or trust is wrong.
        OSError: the address cannot be listened on.
    """
    server = CoordinationServer()
    address = settings.cluster.coordination(settings.party, listen=True)
    tls_options: dict[str, Any] = {}
    if settings.cluster.tls is not None:
        tls_options["ssl"] = refreshing_server_context(settings)
        tls_options["ssl_handshake_timeout"] = settings.cluster.timeouts.handshake_timeout_s
    attended: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        attended.add(task)
        wire = Wire(reader, writer, settings.cluster.limits.coordination_message_bytes)
        try:
            peer = await greet(wire, settings, hello, leader=None)
            if peer.party == settings.party:
                await wire.send(server.known(settings.cluster.limits.coordination_message_bytes))
                return
            if peer.hello.checking:
                await answer_probes(wire, settings)
                return
            async with peer.attended():
                await _admit(server, peer, on_peer)
        except (SecureRunnerError, asyncio.TimeoutError) as error:
            source = (writer.get_extra_info("peername") or ["an unknown address"])[0]
            server.note_refusal(source, str(error) or "it did not greet in time")
        finally:
            wire.abort()
            attended.discard(task)

    listener = await asyncio.start_server(accept, address.host, address.port, **tls_options)
    try:
        yield server
    finally:
        listener.close()
        for task in attended:
            task.cancel()
        await asyncio.gather(*attended, return_exceptions=True)
        await listener.wait_closed()


@contextlib.asynccontextmanager
async def connect_coordination(
    settings: PartySettings, leader: str, hello: Hello, progress: Progress | None = None
) -> AsyncIterator[Peer]:
    """Connect to the listening party's runner; keeps trying until it is there and is who it should be.

    Args:
        settings: this party.
        leader: the party that listens.
        hello: what this party has.
        progress: called with a sentence after each failed attempt.

    Raises:
        AgreementError: it is there, but does not hold the same cluster, program or versions.
        ConfigError: this party's own certificate, key or trust is wrong.
    """
    retries = settings.cluster.retries
    address = settings.cluster.coordination(leader)
    pause_s, started_s, logged_s = retries.first_interval_s, time.monotonic(), 0.0
    while True:
        try:
            wire = await open_wire(settings, leader)
        except (OSError, asyncio.TimeoutError) as error:
            reason = connect_reason(error)
        else:
            try:
                peer = await greet(wire, settings, hello, leader=leader)
                break
            except (CoordinationError, IdentityError, asyncio.TimeoutError) as error:
                wire.abort()
                reason = str(error) or "it did not greet in time"
            except BaseException:
                wire.abort()
                raise
        now_s = time.monotonic()
        sentence = f"waiting for {leader} at {address} since {now_s - started_s:.0f} s: {reason}"
        if progress is not None:
            progress(sentence)
        if now_s - logged_s > _LOG_INTERVAL_S:
            _log.info("%s", sentence)
            logged_s = now_s
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, retries.longest_interval_s)
    async with peer.attended():
        yield peer


async def _admit(server: CoordinationServer, peer: Peer, on_peer: Callable[[Peer], Awaitable[None]]) -> None:
    older = server.peers.get(peer.party)
    if older is not None:
        older.end("it connected again")
    server.peers[peer.party] = peer
    try:
        await on_peer(peer)
    finally:
        if server.peers.get(peer.party) is peer:
            del server.peers[peer.party]


async def open_wire(settings: PartySettings, leader: str) -> Wire:
    """Connect to a listening runner once, with TLS where the cluster uses it; to our own, where it listens.

    Raises:
        OSError: it cannot be reached, or TLS failed. asyncio.TimeoutError: it does not answer.
        ConfigError: this party's own certificate, key or trust is wrong.
    """
    own = leader == settings.party
    address = settings.cluster.coordination(leader, listen=own)
    if own:
        address = address.from_here
    # Read anew for each attempt, so that a replaced certificate or key counts at once.
    material = read_tls(settings)
    options: dict[str, Any] = {}
    if material is not None:
        options = {"ssl": client_context(material, leader), "server_hostname": leader}
    timeout_s = settings.cluster.timeouts.handshake_timeout_s
    # After a cut, the kernel repeats an unanswered attempt ever more slowly: a new one is there sooner.
    connect_s = min(timeout_s, _CONNECT_TIMEOUT_S)
    sock = await asyncio.to_thread(socket.create_connection, (address.host, address.port), connect_s)
    sock.setblocking(False)
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(sock=sock, **options), timeout_s)
    except BaseException:
        sock.close()
        raise
    return Wire(reader, writer, settings.cluster.limits.coordination_message_bytes)


def connect_reason(error: Exception) -> str:
    """Why connecting failed, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not that party's: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "no answer in time" if isinstance(error, asyncio.TimeoutError) else "the connection was closed"
