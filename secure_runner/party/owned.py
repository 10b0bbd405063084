"""Values that enter the computation as their owner's, where a protocol gains by it.

SPU knows secret values that are shares at all parties, and private ones, which one party holds and the others
do not. SecretFlow's own way from a PYU to an SPU makes the former only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import secretflow.distributed as sfd
import spu
from secretflow.device import SPUIO, PYUObject

from secure_runner.protocols import protocol

if TYPE_CHECKING:
    from secretflow.device import SPU

    from secure_runner.party.spec import SessionSpec
    from secure_runner.protocols import Role

__all__ = ["owner_rank", "to_device"]

_NOBODY = -1


def owner_rank(spec: SessionSpec, role: Role) -> int:
    """Rank of the party whose values stay private to it; -1 where the protocol shares them."""
    stays = protocol(spec.settings.cluster.protocol).inputs_stay_with_owner
    return spec.rank_of(role) if stays else _NOBODY


def to_device(values: PYUObject, device: SPU, owner: int) -> list[Any]:
    """What SecretFlow's ``values.to(device)`` does, for values with an owner too.

    Not an ``SPUObject``: its ``meta`` would keep the shares of all parties in memory at the values' party.

    Args:
        values: a tree of arrays at the party that has them.
        device: the SPU.
        owner: from :func:`owner_rank`.

    Returns:
        For each party of the device, by rank, a reference to what its actor's ``infeed_share`` returns.
    """
    count = sfd.get(values.device(_chunk_count)(values, device.conf, device.world_size).data)
    _, io_info, *chunks = values.device(_split, num_returns=2 + count * device.world_size)(
        values, device.conf, device.world_size, owner
    )
    return list(device.infeed_shares(io_info.data, [chunk.data for chunk in chunks]))


class _OwnedIo(SPUIO):  # type: ignore[misc]
    """SecretFlow's way to make shares, for the values of one party."""

    def __init__(self, config: spu.RuntimeConfig, world_size: int, owner: int) -> None:
        super().__init__(config, world_size)
        self.io: Any = _Io(spu.Io(world_size, config), owner)


class _Io:
    def __init__(self, io: spu.Io, owner: int) -> None:
        self._io, self._owner = io, owner

    def make_shares(self, array: Any, visibility: spu.Visibility) -> list[Any]:
        """One share a party."""
        return list(self._io.make_shares(array, visibility, self._owner))


def _chunk_count(values: Any, config: spu.RuntimeConfig, world_size: int) -> int:
    return int(SPUIO(config, world_size).get_shares_chunk_count(values, spu.Visibility.VIS_SECRET))


def _split(values: Any, config: spu.RuntimeConfig, world_size: int, owner: int) -> Any:
    return _OwnedIo(config, world_size, owner).make_shares(values, spu.Visibility.VIS_SECRET)
