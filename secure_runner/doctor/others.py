"""What the model owner's side can say of agreement: it listens, so the others' runners come to it."""

from __future__ import annotations

import asyncio
import contextlib
import re

from secure_runner.config import PartySettings
from secure_runner.config.tls import IdentityError
from secure_runner.doctor.findings import Finding, fault, good, note
from secure_runner.sessions.channel import Peer
from secure_runner.sessions.coordination import connect_reason, open_wire, serve_coordination
from secure_runner.sessions.greeting import greet
from secure_runner.sessions.messages import CoordinationError, Hello, Known

__all__ = ["ask_own_runner", "await_others"]

_DISAGREEMENT = re.compile(r"^\s*- (?P<what>[^:]*): (?P<detail>[^;]*)(; (?P<remedy>.*))?$", re.MULTILINE)
_PARTY = re.compile(r"and (?P<party>\S+) do not agree")


async def ask_own_runner(settings: PartySettings, mine: Hello) -> list[Finding]:
    """Ask this party's running runner which of the others are connected, and what it has against them."""
    try:
        wire = await open_wire(settings, settings.party)
    except (OSError, asyncio.TimeoutError) as error:
        return [fault("own runner", connect_reason(error), "see its log; start it again")]
    try:
        await greet(wire, settings, mine, leader=settings.party)
        known = await asyncio.wait_for(wire.receive_greeting(), settings.cluster.timeouts.handshake_timeout_s)
    except (CoordinationError, IdentityError, asyncio.TimeoutError) as error:
        text = str(error) or "it did not answer in time"
        return [fault("own runner", text, "see its log; start it again")]
    finally:
        wire.abort()
    if not isinstance(known, Known):
        return [fault("own runner", "it did not say which others it knows", "start it again")]
    return _findings(settings, known)


async def await_others(settings: PartySettings, mine: Hello) -> list[Finding]:
    """Listen for a while in the place of this party's runner, which does not run, and compare as it would."""
    others, came = set(_others(settings)), set[str]()
    all_came = asyncio.Event()

    async def meet(peer: Peer) -> None:
        came.add(peer.party)
        if came == others:
            all_came.set()

    # A runner that waits for this one tries again within the longest pause.
    patience_s = settings.cluster.retries.longest_interval_s + settings.cluster.timeouts.handshake_timeout_s
    async with serve_coordination(settings, mine, meet) as server:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(all_came.wait(), patience_s)
        known = server.known(settings.cluster.limits.coordination_message_bytes)
    return _findings(settings, known.model_copy(update={"connected": sorted(came)}))


def _others(settings: PartySettings) -> list[str]:
    """Those whose runners connect; a dealer's does not."""
    return [party for party in settings.cluster.ranked_parties if party != settings.party]


def _findings(settings: PartySettings, known: Known) -> list[Finding]:
    missing = [party for party in _others(settings) if party not in known.connected]
    findings = [
        good(f"{party}: agreement", f"its runner came, and has the same as {settings.party}")
        for party in _others(settings)
        if party not in missing
    ]
    if not missing:
        return findings
    refused = [fault_ for reason in known.refused for fault_ in _refusal(reason, missing)]
    findings += refused
    told = {finding.subject.partition(":")[0] for finding in refused}
    findings += [
        note(
            f"{party}: agreement",
            "its runner has not connected",
            f"start it, or see what doctor says at {party}",
        )
        for party in missing
        if party not in told
    ]
    return findings


def _refusal(reason: str, missing: list[str]) -> list[Finding]:
    """A refusal as faults of the party that it is about; nothing if that party is connected by now."""
    named = _PARTY.search(reason)
    if named is None:
        party = missing[0] if len(missing) == 1 else "another runner"
        return [fault(f"{party}: refused", reason, f"see what doctor says at {' or '.join(missing)}")]
    if named["party"] not in missing:
        return []
    return [
        fault(f"{named['party']}: {line['what']}", line["detail"], line["remedy"] or "make both the same")
        for line in _DISAGREEMENT.finditer(reason)
    ]
