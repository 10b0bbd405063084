"""The MPC protocols on offer: one table, the only place that knows them.

All are semi-honest: parties follow the protocol but may study all they receive. `SPU protocols
<https://www.secretflow.org.cn/docs/spu>`_: CHEETAH (Huang et al., USENIX Security 2022), SEMI2K (the
semi-honest part of SPDZ2k, Cramer et al., CRYPTO 2018), ABY3 (Mohassel and Rindal, CCS 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from secure_runner.errors import ConfigError

__all__ = ["PROTOCOLS", "Protocol", "ProtocolName", "Role", "computing_roles", "protocol"]

Role = Literal["model_owner", "data_owner", "helper", "dealer"]
ProtocolName = Literal["cheetah", "semi2k", "aby3"]


@dataclass(frozen=True)
class Protocol:
    """What one protocol needs and promises."""

    name: ProtocolName
    roles: tuple[Role, ...]
    """Roles that hold shares, in rank order. The dealer holds none and has no rank."""
    spu_name: str
    """SPU's name of the protocol in ``RuntimeConfig``."""
    trust: str
    """Who must not collude, in a sentence for people."""
    link_without_sequence_ids: bool
    """Whether the link runs without message sequence ids: a quarter faster, and not possible with cheetah."""
    inputs_stay_with_owner: bool
    """Whether features and params enter the computation as private values of their owner, not as shares.

    The other parties then hold nothing of them, and products with shares need half the messages: cheetah
    halves its run time. With semi2k and aby3 nothing is gained.
    """
    homomorphic_products: bool
    """Whether matrix products are homomorphic, their answers packed or not."""
    stocks_transfers: bool
    """Whether runs use up a stock of oblivious transfers, and hold still while the next one is made."""
    batch_sizes: tuple[int, ...]
    """The ladder of a program that is given none. A batch of 64 takes semi2k and aby3 little longer than one
    of 32; cheetah, which is bound by computing, nearly twice as long."""


PROTOCOLS: dict[ProtocolName, Protocol] = {
    "cheetah": Protocol(
        name="cheetah",
        roles=("model_owner", "data_owner"),
        spu_name="CHEETAH",
        trust="Two parties and nobody else: neither needs to trust a third.",
        link_without_sequence_ids=False,
        inputs_stay_with_owner=True,
        homomorphic_products=True,
        stocks_transfers=True,
        batch_sizes=(1, 8, 32),
    ),
    "semi2k": Protocol(
        name="semi2k",
        roles=("model_owner", "data_owner"),
        spu_name="SEMI2K",
        trust="A dealer hands out randomness; it must not collude with either party.",
        link_without_sequence_ids=True,
        inputs_stay_with_owner=False,
        homomorphic_products=False,
        stocks_transfers=False,
        batch_sizes=(1, 8, 32, 64),
    ),
    "aby3": Protocol(
        name="aby3",
        roles=("model_owner", "data_owner", "helper"),
        spu_name="ABY3",
        trust="Three computing parties, of which no two may collude.",
        link_without_sequence_ids=True,
        inputs_stay_with_owner=False,
        homomorphic_products=False,
        stocks_transfers=False,
        batch_sizes=(1, 8, 32, 64),
    ),
}


def protocol(name: str) -> Protocol:
    """Look a protocol up by its name.

    Raises:
        ConfigError: there is none of that name.
    """
    for known in get_args(ProtocolName):
        if name == known:
            return PROTOCOLS[known]
    raise ConfigError(f"protocol {name!r} is not known; choose one of {', '.join(PROTOCOLS)}")


def computing_roles(name: str) -> tuple[Role, ...]:
    """Roles that hold shares under the protocol, in rank order."""
    return protocol(name).roles
