"""SEMI2K on a dealer between bare SPU parties: record, register, configure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.spu_parties import RelayedJob, runtime_config
from secure_runner.dealer import (
    DealerClient,
    Grant,
    Registration,
    TlsFiles,
    Transcript,
    beaver_config,
    recording_dealer,
)

__all__ = ["SEMI2K", "configs", "dealt", "record", "register", "relayed"]

SEMI2K: dict[str, Any] = {
    "protocol": "SEMI2K",
    "field": "FM64",
    "fxp_fraction_bits": 18,
    "fxp_exp_mode": "EXP_PADE",
}
"""Runtime configuration without a source of randomness."""


def dealt(base: Mapping[str, Any], beaver: Mapping[str, Any]) -> dict[str, Any]:
    """A runtime configuration with a dealer."""
    return {**base, "beaver_type": "TrustedThirdParty", "ttp_beaver_config": dict(beaver)}


def record(
    compiled: tuple[bytes, int],
    inputs: Sequence[npt.NDArray[Any]],
    base: Mapping[str, Any],
    *,
    parties: int = 2,
    adjust_rank: int = 1,
) -> Transcript:
    """The transcript of one run, from a simulation in this process."""
    import spu
    from spu.utils.simulation import Simulator

    executable = spu.Executable()
    executable.ParseFromString(compiled[0])
    with recording_dealer() as recorder:
        config = runtime_config(dealt(base, recorder.beaver_config(adjust_rank)))
        Simulator(parties, config)(executable, *[np.zeros_like(x) for x in inputs])
        return recorder.take()


def register(
    address: str,
    identity: str,
    job: str,
    transcript: Transcript,
    *,
    names: Sequence[str] = ("model-owner", "data-owner"),
    adjust_rank: int = 1,
    tls: Sequence[TlsFiles] | None = None,
    server_name: str | None = None,
) -> list[Grant]:
    """Register a job for all parties at once; each party's grant."""

    def one(rank: int) -> Grant:
        own_tls = None if tls is None else tls[rank]
        with DealerClient(address, identity, tls=own_tls, server_name=server_name) as client:
            registration = Registration(
                job=job,
                parties=tuple(names),
                rank=rank,
                adjust_rank=adjust_rank,
                transcript_sha256=transcript.digest,
                wait_s=20,
            )
            return client.register(registration, transcript)

    with ThreadPoolExecutor(len(names)) as pool:
        return list(pool.map(one, range(len(names))))


def configs(
    address: str,
    grants: Sequence[Grant],
    base: Mapping[str, Any],
    tls: Sequence[TlsFiles] | None = None,
) -> list[dict[str, Any]]:
    """Each party's runtime configuration, from its own grant."""
    return [
        dealt(
            base,
            beaver_config(
                address, grant.adjust_rank, grant.public_key, tls=None if tls is None else tls[rank]
            ),
        )
        for rank, grant in enumerate(grants)
    ]


def relayed(
    address: str,
    identity: str,
    grant: Grant,
    transcript: Transcript,
    *,
    tls: TlsFiles | None = None,
    server_name: str | None = None,
) -> dict[int, RelayedJob]:
    """That the adjusting party's process fetches its corrections ahead, as a served party does."""
    client = functools.partial(DealerClient, address, identity, tls=tls, server_name=server_name)
    return {grant.adjust_rank: RelayedJob(client, grant.handle, transcript)}
