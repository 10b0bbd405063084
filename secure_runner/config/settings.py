"""The parts of ``cluster.yaml``: parties, timeouts, retries, limits and trust. Names carry their units."""

from __future__ import annotations

import ipaddress
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from secure_runner.protocols import Role

__all__ = [
    "LARGEST_PORT",
    "Address",
    "FrozenSettings",
    "LaneAddresses",
    "Limits",
    "Party",
    "PartyName",
    "Retries",
    "Timeouts",
    "Tls",
]

LARGEST_PORT = 65535

Port = Annotated[int, Field(ge=1, le=LARGEST_PORT)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
# gRPC counts in 32 bits.
MessageBytes = Annotated[int, Field(ge=1024, le=2**31 - 1)]
Bytes = Annotated[int, Field(ge=1024, le=2**50)]
PartyName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,253}$")]
FileName = Annotated[str, Field(min_length=1)]


class FrozenSettings(BaseModel):
    """Immutable, refuses settings it does not know, and converts nothing silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Address(NamedTuple):
    """Where a socket listens or is reached."""

    host: str
    port: int

    @property
    def from_here(self) -> Address:
        """How a program on the same machine reaches what listens here."""
        loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        return self._replace(host=loopback.get(self.host, self.host))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class LaneAddresses(NamedTuple):
    """The two sockets of a party in one slot of one lane."""

    control: Address
    link: Address


class Party(FrozenSettings):
    """One party: its role and where the others reach it."""

    role: Role
    """``model_owner``, ``data_owner``, ``helper`` (only with aby3) or ``dealer`` (only with semi2k)."""
    address: Host
    """Public host name or IP address: where the other parties reach this one."""
    port: Port
    """First of the party's port range, as the other parties reach it."""
    listen_host: Host | None = None
    """Where the party itself listens; by default every interface, or only loopback if ``address`` is."""
    listen_port: Port | None = None
    """First port the party itself listens on, where a NAT or container maps ports; by default ``port``."""
    certificate_file: FileName | None = None
    """Pins the party to the certificates in this PEM file (several while one is being replaced)."""

    @property
    def listen(self) -> Address:
        """Where the party listens for the first port of its range."""
        host = self.listen_host
        if host is None:
            host = self.address if _is_loopback(self.address) else "0.0.0.0"  # noqa: S104
        return Address(host, self.port if self.listen_port is None else self.listen_port)

    @property
    def stays_on_loopback(self) -> bool:
        """Whether the party is reached and listens on this machine only."""
        return _is_loopback(self.address) and _is_loopback(self.listen.host)


class Timeouts(FrozenSettings):
    """Every wait that involves another party, in seconds."""

    connect_timeout_s: Seconds = 60.0
    """How long a starting session waits until all its parties are connected."""
    recv_timeout_s: Seconds = 30.0
    """Longest wait for one message of another party, on the SPU link and on the control channel."""
    transfer_timeout_s: Seconds = 300.0
    """Longest time for one message on the control channel to cross the line; the largest are shares."""
    run_timeout_s: Seconds = 120.0
    """Longest time one batch may compute before the session is given up."""
    handshake_timeout_s: Seconds = 5.0
    """Longest time for a TLS handshake and the first message of a new connection."""
    heartbeat_interval_s: Seconds = 0.25
    """How often runners tell each other that they live; also keeps idle connections open in firewalls."""
    heartbeat_timeout_s: Seconds = 1.0
    """Silence after which another runner counts as dead."""
    freeze_timeout_s: Seconds = 2.5
    """Silence after which a runner kills its own party process, which hangs or is swapped out, and a party
    gives up a session whose dealer hangs."""
    stopped_timeout_s: Seconds = 1.0
    """How long any process of a party may be stopped (SIGSTOP) before it is killed and replaced."""
    clock_difference_limit_s: Seconds = 5.0
    """Largest difference between two parties' clocks; beyond it logs and expiry dates mislead."""

    @model_validator(mode="after")
    def _heartbeats_fit(self) -> Timeouts:
        if self.heartbeat_timeout_s < 2 * self.heartbeat_interval_s:
            raise ValueError(
                f"heartbeat_timeout_s must be at least twice heartbeat_interval_s, so that one late "
                f"heartbeat is no death; got {self.heartbeat_timeout_s} and {self.heartbeat_interval_s}"
            )
        return self


class Retries(FrozenSettings):
    """How connecting to a party that is not up yet is repeated."""

    first_interval_s: Seconds = 0.2
    """Wait after the first failed attempt; doubled after each further one."""
    longest_interval_s: Seconds = 1.0
    """The wait is never longer than this."""


class Limits(FrozenSettings):
    """How much is accepted from another party, in bytes."""

    control_message_bytes: MessageBytes = 256 * 1024 * 1024
    """One message on SecretFlow's control channel; the largest are shares of the params."""
    control_backlog_bytes: Bytes = 4 * 1024 * 1024 * 1024
    """All messages of one party on the control channel that nobody has asked for yet."""
    coordination_message_bytes: MessageBytes = 64 * 1024
    """One message between two runners."""


class Tls(FrozenSettings):
    """Whom the parties trust: one certificate authority, or each party's own pinned certificate."""

    ca_file: FileName | None = None
    """PEM file of the authority that signs all parties' certificates, relative to the cluster file.

    Left out where every party has a ``certificate_file``.
    """


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
