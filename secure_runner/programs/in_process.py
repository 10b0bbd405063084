"""An executable run with all parties in this process: the real protocol and ring, no network, no secrecy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secure_runner.protocols import PROTOCOLS, ProtocolName
from secure_runner.spu_config import make_runtime_config

if TYPE_CHECKING:
    import spu

__all__ = ["PartiesHere", "run_in_process"]

Array = npt.NDArray[Any]
_LOUD = ("enable_action_trace", "enable_hal_profile", "enable_pphlo_profile")
"""Settings that make SPU write; it is enough that the first party does."""


class PartiesHere:
    """All parties' SPU runtimes.

    Args:
        count: of parties.
        config: from `secure_runner.spu_config.runtime_config_dict`.
        link_id: names the parties' link; new for each, where several are made one after the other.
    """

    def __init__(self, count: int, config: Mapping[str, Any], link_id: str = "here") -> None:
        import spu

        description = spu.link.Desc()
        description.id = link_id
        for rank in range(count):
            description.add_party(f"party-{rank}", f"rank-{rank}")

        def runtime(rank: int) -> spu.Runtime:
            own = config if rank == 0 else {**config, **dict.fromkeys(_LOUD, False)}
            return spu.Runtime(spu.link.create_mem(description, rank), make_runtime_config(own))

        self._secret = spu.Visibility.VIS_SECRET
        self._io = spu.Io(count, make_runtime_config(config))
        self._runtimes: list[spu.Runtime] = _together(runtime, range(count))

    def share(self, name: str, array: Array, owner: int = -1) -> None:
        """Give each party its share of a secret array, or leave it private to the party of rank ``owner``."""
        # One array after the other: SPU's form of shares takes as much memory again as the shares do.
        shares = self._io.make_shares(array, self._secret, owner)
        for runtime, share in zip(self._runtimes, shares, strict=True):
            runtime.set_var(name, share)

    def run(self, executable: spu.Executable) -> None:
        """Run it at all parties at once."""
        _together(lambda runtime: runtime.run(executable), self._runtimes)

    def reveal(self, name: str) -> Array:
        """What the parties' shares of a value are together."""
        return np.asarray(self._io.reconstruct([runtime.get_var(name) for runtime in self._runtimes]))


def _together(call: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
    """What parties do at the same time, waiting for each other: one result each, or the first error."""
    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(call, arguments))


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
    from jax import dtypes

    chosen = PROTOCOLS[protocol]
    owners = [-1] * (len(params) + len(inputs))
    if chosen.inputs_stay_with_owner:
        owners = [chosen.roles.index("model_owner")] * len(params)
        owners += [chosen.roles.index("data_owner")] * len(inputs)
    parties = PartiesHere(len(chosen.roles), config)
    for name, array, owner in zip(executable.input_names, [*params, *inputs], owners, strict=True):
        value = np.asarray(array)
        # As JAX takes it in: the executable was lowered for that.
        parties.share(name, value.astype(dtypes.canonicalize_dtype(value.dtype), copy=False), owner)
    parties.run(executable)
    return tuple(
        parties.reveal(name).astype(dtype, copy=False).reshape(shape)
        for name, (dtype, shape) in zip(executable.output_names, outputs, strict=True)
    )
