"""An executable run with all parties in this process: the real protocol and ring, no network, no secrecy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secure_runner.protocols import ProtocolName, computing_roles
from secure_runner.spu_config import make_runtime_config

if TYPE_CHECKING:
    import spu

__all__ = ["run_in_process"]

Array = npt.NDArray[Any]


def run_in_process(
    executable: spu.Executable,
    config: Mapping[str, Any],
    protocol: ProtocolName,
    arrays: Sequence[Array],
    outputs: Sequence[tuple[str, tuple[int, ...]]],
) -> tuple[Array, ...]:
    """Share the arrays, run, and reconstruct. This process may die of an executable that SPU cannot run.

    Args:
        executable: of SPU's compiler.
        config: from `secure_runner.spu_config.runtime_config_dict`.
        protocol: which decides how many parties there are.
        arrays: one for each of the executable's inputs.
        outputs: dtype and shape of each of its outputs.
    """
    from spu.utils.simulation import Simulator

    simulator = Simulator(len(computing_roles(protocol)), make_runtime_config(config))
    results = simulator(executable, *arrays)
    return tuple(
        np.asarray(result).astype(dtype, copy=False).reshape(shape)
        for result, (dtype, shape) in zip(results, outputs, strict=True)
    )
