"""Checks of the way to each peer, and of what the model owner's runner has."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence

from secure_runner.config import SLOTS, Address, PartySettings
from secure_runner.config.tls import IdentityError, check_identity, client_context, read_tls
from secure_runner.doctor.findings import Finding, fault, good, note
from secure_runner.errors import AgreementError
from secure_runner.programs.manifest import RunCost
from secure_runner.sessions.agreement import compare_clocks, differences
from secure_runner.sessions.coordination import connect_reason, open_wire
from secure_runner.sessions.greeting import greet
from secure_runner.sessions.messages import CoordinationError, Hello
from secure_runner.sessions.probes import measure_bandwidth

__all__ = ["check_agreement", "check_peer"]

_FIREWALL = "have the firewalls between the two let this port through"


async def check_peer(settings: PartySettings, peer: str) -> list[Finding]:
    """Name resolution, ports and TLS identity of one peer. Stops at what makes the rest pointless."""
    party = settings.cluster.parties[peer]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(party.address, party.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        remedy = f"correct the address of {peer} in the cluster file, or this machine's name service"
        return [fault(f"{peer}: name", f"{party.address} cannot be resolved: {error.strerror}", remedy)]
    findings = [good(f"{peer}: name", f"{party.address} is {found[0][4][0]}")]
    service = _service_address(settings, peer)
    if service is not None:
        findings += await _check_service(settings, peer, service)
    if "dealer" not in (party.role, settings.role) and not _faulty(findings):
        findings.append(await _check_session_ports(settings, peer))
    return findings


async def check_agreement(
    settings: PartySettings, leader: str, mine: Hello, cost: RunCost | None = None
) -> list[Finding]:
    """Ask the model owner's runner what it has, and compare; measure round trip, clock and bandwidth.

    Args:
        settings: this party.
        leader: the model owner.
        mine: what this party has.
        cost: of a run under the cluster's protocol, to say how long it takes over this line.
    """
    try:
        wire = await open_wire(settings, leader)
    except (OSError, asyncio.TimeoutError) as error:
        remedy = f"see whether the runner of {leader} is still running"
        return [fault(f"{leader}: greeting", connect_reason(error), remedy)]
    try:
        peer = await greet(wire, settings, mine, leader=leader)
        findings = _compare(settings, mine, peer.hello)
        clocks, limit_s = peer.clock_difference_s, settings.cluster.timeouts.clock_difference_limit_s
        try:
            compare_clocks(mine.party, leader, clocks, limit_s)
            findings.append(good(f"{leader}: clock", f"{clocks:+.3f} s from ours"))
        except AgreementError as error:
            text = str(error).split("- clock: ")[1].split("; ")[0]
            findings.append(fault(f"{leader}: clock", text, "set both clocks by a time server"))
        bits_per_s = await measure_bandwidth(wire, settings, peer.round_trip_s)
        line = f"round trip {1000 * peer.round_trip_s:.1f} ms, {bits_per_s / 1e6:.0f} Mbit/s towards {leader}"
        findings.append(good(f"{leader}: line", line))
        if cost is not None:
            findings.append(_estimated(cost, peer.round_trip_s, bits_per_s))
    except (CoordinationError, IdentityError, asyncio.TimeoutError) as error:
        text = str(error) or "it did not answer in time"
        remedy = f"read the log of {leader}'s runner: it says what it has against this party"
        findings = [fault(f"{leader}: greeting", text, remedy)]
    finally:
        wire.abort()
    return findings


def _estimated(cost: RunCost, round_trip_s: float, bits_per_s: float) -> Finding:
    seconds = cost.seconds(round_trip_s, bits_per_s / 8)
    what = (
        f"{cost.rounds} rounds, {cost.sent_bytes / 1000:.0f} kB, {1000 * cost.compute_s:.0f} ms of computing"
    )
    text = f"about {1000 * seconds:.0f} ms for a batch of {cost.batch_size} over this line: {what}"
    return good("estimated latency", text)


def _compare(settings: PartySettings, mine: Hello, theirs: Hello) -> list[Finding]:
    leader = theirs.party
    has_program = mine.program_digest is not None
    found = differences(
        mine,
        theirs,
        both_compute=has_program,
        pinned_program_digest=settings.program_digest,
    )
    findings = []
    for difference in found:
        what, _, rest = difference.partition(": ")
        detail, _, remedy = rest.partition("; ")
        findings.append(fault(f"{leader}: {what}", detail, remedy))
    if not findings:
        compared = "cluster, program, protocol and versions" if has_program else "cluster and versions"
        findings.append(good(f"{leader}: agreement", f"the same {compared} as here"))
    if not has_program and settings.role != "dealer":
        text = f"{leader} serves {theirs.program_name}, digest {theirs.program_digest}"
        pinned = settings.program_digest
        if pinned not in (None, theirs.program_digest):
            remedy = "audit the new program and pin it, or have the audited one served"
            findings.append(fault(f"{leader}: program", f"{text}, but {pinned} is pinned here", remedy))
        else:
            findings.append(note(f"{leader}: program", text, "give --program to compare it with ours"))
    return findings


def _service_address(settings: PartySettings, peer: str) -> Address | None:
    """What the peer's runner listens on whether or not there is a session."""
    role = settings.cluster.parties[peer].role
    if role == "model_owner" and settings.role != "dealer":
        return settings.cluster.coordination(peer)
    return settings.cluster.dealing() if role == "dealer" else None


async def _check_service(settings: PartySettings, peer: str, address: Address) -> list[Finding]:
    subject = f"{peer}: port {address.port}"
    try:
        await _knock(settings, address)
    except asyncio.TimeoutError:
        return [fault(subject, f"no answer from {address} in time", _FIREWALL)]
    except OSError as error:
        remedy = f"start the runner of {peer}, or correct its address and port in the cluster file"
        return [fault(subject, f"cannot connect to {address}: {connect_reason(error)}", remedy)]
    return [good(subject, f"{address} takes connections"), await _check_identity(settings, peer, address)]


async def _check_identity(settings: PartySettings, peer: str, address: Address) -> Finding:
    subject = f"{peer}: TLS identity"
    material = read_tls(settings)
    if material is None:
        return note(subject, "not proved: the cluster uses no TLS")
    limit_s = settings.cluster.timeouts.handshake_timeout_s
    connecting = asyncio.open_connection(
        *address, ssl=client_context(material, peer), server_hostname=peer, ssl_handshake_timeout=limit_s
    )
    try:
        _, writer = await asyncio.wait_for(connecting, 2 * limit_s)
    except ssl.SSLCertVerificationError as error:
        text = f"the certificate at {address} is not that of {peer}: {error.verify_message}"
        return fault(subject, text, f"have {peer} use its own certificate, or correct the trust file here")
    except (OSError, asyncio.TimeoutError) as error:
        text = f"no TLS at {address} ({connect_reason(error)})"
        return fault(subject, text, "another program listens there: correct the address or port")
    try:
        check_identity(material, writer.get_extra_info("ssl_object").getpeercert(binary_form=True), peer)
    except IdentityError as error:
        return fault(subject, str(error), f"have {peer} use its own certificate, or pin its new one")
    finally:
        writer.transport.abort()
    return good(subject, f"{address} shows the certificate of {peer}")


async def _check_session_ports(settings: PartySettings, peer: str) -> Finding:
    """Ports of sessions listen only while there is one: a refusal shows at least that the way is open."""
    cluster = settings.cluster
    addresses = [
        address
        for lane in range(cluster.lanes)
        for slot in range(SLOTS)
        for address in cluster.addresses(peer, lane, slot)
    ]
    results = await asyncio.gather(*(_knock(settings, each) for each in addresses), return_exceptions=True)
    blocked = [
        (address, result)
        for address, result in zip(addresses, results, strict=True)
        if isinstance(result, BaseException) and not isinstance(result, ConnectionRefusedError)
    ]
    subject = f"{peer}: session ports"
    if blocked:
        address, error = blocked[0]
        reason = connect_reason(error) if isinstance(error, Exception) else type(error).__name__
        text = f"{len(blocked)} of {len(addresses)} cannot be reached, such as {address}: {reason}"
        return fault(subject, text, _FIREWALL)
    listening = sum(result is None for result in results)
    first, last = addresses[0].port, addresses[-1].port
    return good(subject, f"{first} to {last} can be reached; {listening} are listening now")


async def _knock(settings: PartySettings, address: Address) -> None:
    connecting = asyncio.open_connection(*address)
    _, writer = await asyncio.wait_for(connecting, settings.cluster.timeouts.handshake_timeout_s)
    writer.transport.abort()


def _faulty(findings: Sequence[Finding]) -> bool:
    return any(finding.level == "fault" for finding in findings)
