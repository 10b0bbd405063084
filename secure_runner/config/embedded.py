"""The cluster that a runner makes for itself where none is configured: all parties on this machine."""

from __future__ import annotations

import random
import socket

from secure_runner.config.cluster import SLOTS, Cluster
from secure_runner.config.party import PartySettings
from secure_runner.config.settings import Party, Timeouts
from secure_runner.errors import ConfigError
from secure_runner.protocols import PROTOCOLS, ProtocolName, Role

__all__ = ["EMBEDDED_NAMES", "embedded_cluster", "embedded_settings"]

EMBEDDED_NAMES: dict[Role, str] = {
    "model_owner": "model-owner",
    "data_owner": "data-owner",
    "helper": "helper",
    "dealer": "dealer",
}
"""Party names of an embedded cluster."""

_LOOPBACK = "127.0.0.1"
# Below the ports that kernels hand out to outgoing connections, so that none of those takes one meanwhile.
_FIRST_PORT, _LAST_PORT = 15_000, 32_000
_ATTEMPTS = 200


def embedded_cluster(
    protocol: ProtocolName, *, insecure: bool = False, lanes: int = 1, timeouts: Timeouts | None = None
) -> Cluster:
    """A cluster of all roles on loopback, on free ports, without TLS.

    Args:
        protocol: the program's protocol.
        insecure: with semi2k, leave the dealer out: rank 0 could then unmask the features.
        lanes: sessions side by side.
        timeouts: other than the defaults.

    Raises:
        ConfigError: this machine has no free ports left.
    """
    roles = list(PROTOCOLS[protocol].roles)
    if protocol == "semi2k" and not insecure:
        roles.append("dealer")
    port_count = 1 + lanes * SLOTS * 2
    first = _free_ports(port_count * len(roles))
    return Cluster(
        name="embedded",
        protocol=protocol,
        insecure=insecure,
        embedded=True,
        parties={
            EMBEDDED_NAMES[role]: Party(role=role, address=_LOOPBACK, port=first + index * port_count)
            for index, role in enumerate(roles)
        },
        lanes=lanes,
        timeouts=Timeouts() if timeouts is None else timeouts,
    )


def embedded_settings(cluster: Cluster, dealer_key: str | None = None) -> dict[str, PartySettings]:
    """Settings of each party of an embedded cluster, by party name.

    Args:
        cluster: from :func:`embedded_cluster`.
        dealer_key: public identity key of the dealer that the runner starts, if the cluster has one.
    """
    return {
        name: PartySettings(cluster=cluster, party=name, dealer_key=dealer_key) for name in cluster.parties
    }


def _free_ports(count: int) -> int:
    """First of ``count`` consecutive free ports."""
    for _ in range(_ATTEMPTS):
        first = random.randrange(_FIRST_PORT, _LAST_PORT - count)  # noqa: S311
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise ConfigError(
        f"no {count} consecutive free ports on {_LOOPBACK} between {_FIRST_PORT} and {_LAST_PORT}"
    )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError:
            return False
    return True
