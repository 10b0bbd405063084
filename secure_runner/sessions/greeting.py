"""The first messages on a connection between runners: who is there, what each has, and what time it is."""

from __future__ import annotations

import asyncio
import contextlib
import time

from secure_runner.config import PartySettings
from secure_runner.config.tls import IdentityError, check_identity, read_tls
from secure_runner.errors import AgreementError
from secure_runner.sessions.agreement import compare_clocks, compare_hello
from secure_runner.sessions.channel import Peer, Wire
from secure_runner.sessions.messages import ClockReply, ClockRequest, CoordinationError, Goodbye, Hello

__all__ = ["greet"]


async def greet(wire: Wire, settings: PartySettings, mine: Hello, *, leader: str | None) -> Peer:
    """Check the other side's identity, swap hellos and clocks, and compare what both have.

    Nothing is compared where the connecting side only checks.

    Args:
        wire: a connection.
        settings: this party.
        mine: what this party has.
        leader: the party expected where we connected; None where we listen.

    Raises:
        IdentityError: the other side is not the party it says it is, or not the one expected.
        AgreementError: it does not hold the same.
        CoordinationError: it closed the connection, or sent something else.
        asyncio.TimeoutError: it did not greet within ``handshake_timeout_s``.
    """
    timeouts = settings.cluster.timeouts
    return await asyncio.wait_for(_greeting(wire, settings, mine, leader), timeouts.handshake_timeout_s)


async def _greeting(wire: Wire, settings: PartySettings, mine: Hello, leader: str | None) -> Peer:
    timeouts = settings.cluster.timeouts
    try:
        if leader is not None:
            _check_peer(wire, settings, leader, checking=mine.checking)
            await wire.send(mine)
        theirs = await wire.receive_greeting()
        if not isinstance(theirs, Hello) or (leader is not None and theirs.party != leader):
            raise CoordinationError("the other side did not say hello in its own name")
        if leader is None:
            _check_peer(wire, settings, theirs.party, checking=theirs.checking)
            await wire.send(mine)
        # The connecting side measures first; the listening side answers, then measures.
        if leader is None:
            await _answer_clock(wire)
        round_trip_s, difference_s = await _measure_clock(wire)
        if leader is not None:
            await _answer_clock(wire)
        # Who listens admits no peer that only checks; who connects must not be told to skip anything.
        if (theirs if leader is None else mine).checking:
            return Peer(wire, theirs, timeouts, round_trip_s, difference_s)
        roles = {settings.role, settings.cluster.parties[theirs.party].role}
        compare_hello(
            mine,
            theirs,
            both_compute="dealer" not in roles,
            pinned_program_digest=settings.program_digest,
        )
        compare_clocks(mine.party, theirs.party, difference_s, timeouts.clock_difference_limit_s)
    except (AgreementError, IdentityError) as error:
        with contextlib.suppress(CoordinationError):
            await wire.send(Goodbye(reason=error.code))
        raise
    return Peer(wire, theirs, timeouts, round_trip_s, difference_s)


def _check_peer(wire: Wire, settings: PartySettings, party: str, *, checking: bool) -> None:
    """Check that the other side is that party: another one or, to look whether all is well, our own."""
    if party not in settings.peers and not (checking and party == settings.party):
        raise IdentityError(f"the other side says it is {party!r}, which is no other party of this cluster")
    material = read_tls(settings)
    if material is None:
        return
    certificate = wire.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    if certificate is None:
        raise IdentityError(f"the other side says it is {party}, but shows no certificate")
    check_identity(material, certificate, party)


async def _measure_clock(wire: Wire) -> tuple[float, float]:
    """Round-trip time and how far the other clock is ahead, both in seconds."""
    sent_s = time.monotonic()
    await wire.send(ClockRequest())
    reply = await wire.receive_greeting()
    round_trip_s = time.monotonic() - sent_s
    if not isinstance(reply, ClockReply):
        raise CoordinationError("the other side did not say its time when asked")
    # Its clock was read half a round trip ago.
    return round_trip_s, reply.clock_s + round_trip_s / 2 - time.time()


async def _answer_clock(wire: Wire) -> None:
    if not isinstance(await wire.receive_greeting(), ClockRequest):
        raise CoordinationError("the other side did not ask for the time when it should")
    await wire.send(ClockReply(clock_s=time.time()))
