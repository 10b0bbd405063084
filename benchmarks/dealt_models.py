"""Whole models under SEMI2K with a dealer: two party processes on a real link, and a dealer process."""

from __future__ import annotations

import itertools
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.dealt_parties import configs, record, register, relayed
from benchmarks.spu_parties import SpuParties
from secure_runner.dealer import DealerConfig, DealerLimits, DealerProcess
from secure_runner.programs.compiler import compile_here
from secure_runner.programs.lowering import lower
from secure_runner.programs.manifest import NumericSpec, TensorSpec
from secure_runner.spu_config import sharing_config_dict

if TYPE_CHECKING:
    from converters import ConvertedModel

__all__ = ["DealtModels"]

Array = npt.NDArray[Any]
_ADJUST_RANK = 0


class DealtModels:
    """Predicts with any model, as `secure_runner.testing.simulate` does, between real processes."""

    def __init__(self) -> None:
        # Nobody asks after the jobs here.
        self._dealer = DealerProcess(DealerConfig(limits=DealerLimits(lease_s=24 * 3600)))
        self._parties = SpuParties(2)
        self._names = (f"model-{index}" for index in itertools.count())

    def predict(self, model: ConvertedModel, *inputs: Array) -> tuple[Array, ...]:
        """``encode`` and ``decode`` in the clear, the private part in two runs of one pinned executable."""
        from converters import apply_steps

        sent = {
            spec.name: np.asarray(value).astype(spec.dtype)
            for spec, value in zip(model.inputs, inputs, strict=True)
        }
        shared = apply_steps(model.encode, sent)
        revealed = self._run(model, [np.asarray(shared[spec.name]) for spec in model.private_inputs])
        names = [spec.name for spec in model.private_outputs]
        received = apply_steps(model.decode, dict(zip(names, revealed, strict=True)))
        return tuple(np.asarray(received[spec.name]) for spec in model.outputs)

    def _run(self, model: ConvertedModel, arrays: list[Array]) -> list[Array]:
        params = {name: np.asarray(model.params[name]) for name in sorted(model.params)}
        names = [spec.name for spec in model.private_inputs]
        lowered = lower(
            model.private_predict,
            [TensorSpec(name=name, dtype=v.dtype.name, shape=v.shape) for name, v in model.params.items()],
            [
                TensorSpec(name=n, dtype=v.dtype.name, shape=v.shape)
                for n, v in zip(names, arrays, strict=True)
            ],
            1,
        )
        flat = [*params.values(), *arrays]
        outputs = [f"out{index}" for index in range(len(lowered.outputs))]
        executable = compile_here("dealt", lowered.hlo, lowered.input_names, outputs)
        executable.input_names = [f"in{index}" for index in range(len(flat))]
        compiled = (executable.SerializeToString(), len(outputs))
        numeric = NumericSpec(field=model.numeric.field, fraction_bits=model.numeric.fraction_bits)
        found = self._run_compiled(compiled, flat, sharing_config_dict("semi2k", numeric))
        return [
            value.astype(dtype, copy=False).reshape(shape)
            for value, (dtype, shape) in zip(found, lowered.outputs, strict=True)
        ]

    def _run_compiled(
        self, compiled: tuple[bytes, int], flat: list[Array], base: dict[str, Any]
    ) -> list[Array]:
        name, address, identity = next(self._names), self._dealer.address, self._dealer.public_key
        transcript = record(compiled, flat, base, adjust_rank=_ADJUST_RANK)
        grants = register(address, identity, name, transcript, adjust_rank=_ADJUST_RANK)
        relays = relayed(address, identity, grants[_ADJUST_RANK], transcript)
        self._parties.open(name, configs(address, grants, base), relays)
        outputs, _ = self._parties.run(name, compiled, flat, base, times=2)
        return outputs

    def close(self) -> None:
        """End all processes."""
        self._parties.close()
        self._dealer.close()

    def __enter__(self) -> DealtModels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
