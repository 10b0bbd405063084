"""An executable run with all parties in this process: the real protocol and ring, no network, no secrecy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secure_runner.protocols import PROTOCOLS, ProtocolName
from secure_runner.spu_config import make_runtime_config

if TYPE_CHECKING:
    import spu

__all__ = ["run_in_process"]

Array = npt.NDArray[Any]


def run_in_process(
    executable: spu.Executable,
    config: Mapping[str, Any],
    protocol: ProtocolName,
    params: Sequence[Array],
    inputs: Sequence[Array],
    outputs: Sequence[tuple[str, tuple[int, ...]]],
) -> tuple[Array, ...]:
    """Share the arrays, run, and reconstruct. This process may die of an executable that SPU cannot run.

    Args:
        executable: of SPU's compiler.
        config: from `secure_runner.spu_config.runtime_config_dict`.
        protocol: which decides how many parties there are, and whether arrays stay private to their owner.
        params: the model owner's arrays, the first of the executable's inputs.
        inputs: the data owner's, all others.
        outputs: dtype and shape of each of its outputs.
    """
    from spu.utils.simulation import Simulator

    chosen = PROTOCOLS[protocol]
    simulator = Simulator(len(chosen.roles), make_runtime_config(config))
    if chosen.inputs_stay_with_owner:
        owners = [chosen.roles.index("model_owner")] * len(params)
        owners += [chosen.roles.index("data_owner")] * len(inputs)
        simulator.io = _OwnedIo(simulator.io, owners)
    results = simulator(executable, *params, *inputs)
    return tuple(
        np.asarray(result).astype(dtype, copy=False).reshape(shape)
        for result, (dtype, shape) in zip(results, outputs, strict=True)
    )


class _OwnedIo:
    """SPU's ``Io`` for one run, whose inputs have an owner each, in order."""

    def __init__(self, io: spu.Io, owners: Sequence[int]) -> None:
        self._io, self._owners = io, iter(owners)

    def make_shares(self, array: Array, visibility: spu.Visibility) -> list[Any]:
        """One share a party."""
        return list(self._io.make_shares(array, visibility, next(self._owners)))

    def reconstruct(self, shares: Sequence[Any]) -> Any:
        """As ``Io`` does."""
        return self._io.reconstruct(list(shares))
