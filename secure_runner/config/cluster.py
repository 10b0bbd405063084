"""``cluster.yaml``: what all parties of a deployment hold byte for byte, and agree on by digest.

Nothing secret and nothing private belongs in it: which party a process is, and where its key lies, is
:class:`secure_runner.config.party.PartySettings`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from pydantic import Field, model_validator

from secure_runner.config.settings import (
    LARGEST_PORT,
    Address,
    FrozenSettings,
    LaneAddresses,
    Limits,
    Party,
    PartyName,
    Retries,
    Timeouts,
    Tls,
)
from secure_runner.errors import ConfigError
from secure_runner.protocols import PROTOCOLS, ProtocolName, Role

__all__ = ["SLOTS", "Cluster"]

SLOTS = 2
"""Port slots of a lane: the next session warms up in one while the present one runs in the other."""

_PORTS_PER_SLOT = 2
_ROLES: tuple[Role, ...] = ("model_owner", "data_owner", "helper", "dealer")


class Cluster(FrozenSettings):
    """The whole of ``cluster.yaml``."""

    name: PartyName
    """Name of the deployment, used in logs and in session names."""
    protocol: ProtocolName
    """``cheetah``, ``semi2k`` or ``aby3``."""
    insecure: bool = False
    """Admits semi2k without a dealer and connections without TLS, both on loopback only. For trials."""
    embedded: bool = False
    """Set by a runner that starts all parties itself; not allowed in a file."""
    parties: dict[PartyName, Party]
    """Party name to party. A party's certificate bears its name."""
    tls: Tls | None = None
    """Trust between the parties; may be missing only on loopback."""
    lanes: Annotated[int, Field(ge=1, le=64)] = 1
    """Sessions that run side by side, each with ports of its own."""
    reserve: bool = True
    """Whether each lane keeps its next session formed: it takes over at once where a party dies, and holds
    the shares of the params a second time. Without it the next session is formed when one has ended."""
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _is_consistent(self) -> Cluster:
        problems = [*self._role_problems(), *self._security_problems(), *self._port_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _role_problems(self) -> list[str]:
        needed = set(PROTOCOLS[self.protocol].roles)
        if self.protocol == "semi2k" and not self.insecure:
            needed.add("dealer")
        admitted = needed | ({"dealer"} if self.protocol == "semi2k" else set())
        problems = []
        for role in _ROLES:
            names = sorted(name for name, party in self.parties.items() if party.role == role)
            if role in needed and not names:
                problems.append(f"parties: {self.protocol} needs a party with role {role}; there is none")
            elif role not in admitted and names:
                problems.append(
                    f"parties: {self.protocol} has no role {role}; it is given to {', '.join(names)}"
                )
            elif len(names) > 1:
                problems.append(f"parties: one party has role {role}; it is given to {', '.join(names)}")
        if "dealer" in needed and not self._has("dealer"):
            problems.append(
                "without a dealer, semi2k lets the model owner unmask the features; "
                "insecure: true admits that on loopback, for trials"
            )
        return problems

    def _security_problems(self) -> list[str]:
        problems = []
        remote = sorted(name for name, party in self.parties.items() if not party.stays_on_loopback)
        if self.insecure and remote:
            problems.append(f"insecure: true is for loopback addresses only; not so for {', '.join(remote)}")
        if self.tls is None:
            if remote:
                problems.append(f"tls: missing, although {', '.join(remote)} is not on loopback")
            elif not (self.insecure or self.embedded):
                problems.append("tls: missing; on loopback it may be, with insecure: true")
            return problems
        pinned = {name for name, party in self.parties.items() if party.certificate_file is not None}
        if self.tls.ca_file is None and len(pinned) < len(self.parties):
            unpinned = ", ".join(sorted(set(self.parties) - pinned))
            problems.append(f"tls.ca_file: missing, and no certificate_file for {unpinned}")
        if self.tls.ca_file is not None and pinned:
            problems.append(
                f"tls.ca_file: given beside certificate_file of {', '.join(sorted(pinned))}; use one of them"
            )
        return problems

    def _port_problems(self) -> list[str]:
        problems = []
        taken: dict[tuple[str, int], str] = {}
        for name, party in self.parties.items():
            for field, first in (("port", party.port), ("listen_port", party.listen.port)):
                if first + self.port_count - 1 > LARGEST_PORT:
                    problems.append(
                        f"parties.{name}.{field}: lanes: {self.lanes} take {self.port_count} ports from "
                        f"{first} up, which passes {LARGEST_PORT}"
                    )
            for port in range(party.port, party.port + self.port_count):
                other = taken.setdefault((party.address, port), name)
                if other != name:
                    problems.append(
                        f"parties.{name}.port: its range overlaps that of {other} on {party.address}"
                    )
                    break
        return problems

    def _has(self, role: Role) -> bool:
        return any(party.role == role for party in self.parties.values())

    # Parties ---------------------------------------------------------------------------------------------

    def party_with(self, role: Role) -> str:
        """Name of the party that has the role.

        Raises:
            ConfigError: none has it.
        """
        for name, party in self.parties.items():
            if party.role == role:
                return name
        raise ConfigError(f"cluster {self.name} has no party with role {role}")

    @property
    def ranked_parties(self) -> tuple[str, ...]:
        """Names of the parties that hold shares, in rank order (the dealer holds none)."""
        return tuple(self.party_with(role) for role in PROTOCOLS[self.protocol].roles)

    @property
    def dealer(self) -> str | None:
        """Name of the dealer, if the cluster has one."""
        return self.party_with("dealer") if self._has("dealer") else None

    # Ports -----------------------------------------------------------------------------------------------

    @property
    def port_count(self) -> int:
        """Ports that each party needs, from its ``port`` upward."""
        return 1 + self.lanes * SLOTS * _PORTS_PER_SLOT

    def coordination(self, party: str, *, listen: bool = False) -> Address:
        """Where the party's runner is reached, or listens, for the other runners: first port of the range."""
        return self._address(party, 0, listen=listen)

    def dealing(self, *, listen: bool = False) -> Address:
        """Where the dealer is reached, or listens, for requests of the parties: second port of its range."""
        return self._address(self.party_with("dealer"), 1, listen=listen)

    def addresses(self, party: str, lane: int, slot: int, *, listen: bool = False) -> LaneAddresses:
        """Control channel and SPU link of a party in a slot of a lane.

        ``lane`` counts from 0 to ``lanes - 1`` and ``slot`` is 0 or 1.
        """
        if not 0 <= lane < self.lanes or not 0 <= slot < SLOTS:
            raise ConfigError(f"lane {lane} slot {slot} is outside the {self.lanes} lanes of {SLOTS} slots")
        offset = 1 + (lane * SLOTS + slot) * _PORTS_PER_SLOT
        return LaneAddresses(
            self._address(party, offset, listen=listen), self._address(party, offset + 1, listen=listen)
        )

    def ports(self, party: str, lane: int, slot: int) -> tuple[int, int]:
        """Public control and link port of a party in a slot of a lane."""
        control, link = self.addresses(party, lane, slot)
        return control.port, link.port

    def _address(self, party: str, offset: int, *, listen: bool) -> Address:
        if party not in self.parties:
            raise ConfigError(f"cluster {self.name} has no party {party!r}, only {', '.join(self.parties)}")
        settings = self.parties[party]
        first = settings.listen if listen else Address(settings.address, settings.port)
        return Address(first.host, first.port + offset)

    # Digest ----------------------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all settings, defaults included, as canonical JSON: sorted keys, no spaces."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
