"""The result of a conversion: what a secure runner, a test or a notebook needs of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from converters.local_steps import LocalStep, apply_steps

__all__ = ["ConversionReport", "ConvertedModel", "LocalStep", "Numeric", "TensorSpec"]

PrivatePredict = Callable[..., tuple[Any, ...]]


class TensorSpec(NamedTuple):
    """Name, numpy dtype and shape of a tensor. ``None`` in the shape is the batch dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def with_batch(self, batch_size: int) -> tuple[int, ...]:
        """The shape with the batch dimension filled in."""
        return tuple(batch_size if dim is None else dim for dim in self.shape)


@dataclass(frozen=True)
class Numeric:
    """The ring that the model's values fit into, as calibration recommends it."""

    field: Literal["FM32", "FM64", "FM128"] = "FM64"
    fraction_bits: int = 18
    input_ranges: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """Closed interval per input of `ConvertedModel.inputs`; a service refuses what lies outside."""


@dataclass(frozen=True)
class ConversionReport:
    """What the conversion found and did."""

    ops: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """How often each operator is in the private part, after the rewrites."""
    rewrites: tuple[str, ...] = ()
    """Names of the rewrites that changed something."""
    warnings: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    """What the parties should know before they join, for example that a tree's topology is public."""
    public_constants: tuple[str, ...] = ()
    """Numbers of the file that become part of the public program, as ``name dtype[shape]``."""


@dataclass(frozen=True)
class ConvertedModel:
    """A pure JAX predict function, its secret weights and the steps around it.

    ``predict`` is ``decode(private_predict(params, *encode(inputs)))``. Only ``private_predict`` runs under
    MPC. ``encode`` and ``decode`` are computed by the data owner in the clear, on values that are its own.
    """

    params: Mapping[str, np.ndarray[Any, Any]] = dataclasses.field(repr=False)
    """Secret weights by stable name, deduplicated. They belong to the model owner alone."""
    inputs: tuple[TensorSpec, ...]
    """What a client sends."""
    outputs: tuple[TensorSpec, ...]
    """What a client receives, in the model's order."""
    private_inputs: tuple[TensorSpec, ...]
    """What is shared: ``inputs`` after ``encode``."""
    private_outputs: tuple[TensorSpec, ...]
    """What the data owner reconstructs: ``outputs`` before ``decode``."""
    private_predict: PrivatePredict = dataclasses.field(repr=False)
    """``private_predict(params, *private_inputs) -> tuple``: pure, traceable at any batch size."""
    encode: tuple[LocalStep, ...] = ()
    decode: tuple[LocalStep, ...] = ()
    numeric: Numeric = dataclasses.field(default_factory=Numeric)
    report: ConversionReport = dataclasses.field(default_factory=ConversionReport)

    def predict(self, params: Mapping[str, Any], *inputs: Any) -> tuple[Any, ...]:
        """The whole model in plain JAX.

        Args:
            params: as ``self.params``; any tree of the same names and shapes.
            inputs: one array for each of ``self.inputs``.

        Returns:
            One array for each of ``self.outputs``. Works under `jax.jit` unless an output holds strings.
        """
        if len(inputs) != len(self.inputs):
            names = ", ".join(spec.name for spec in self.inputs)
            raise TypeError(f"expected {len(self.inputs)} inputs ({names}), received {len(inputs)}")
        sent = {spec.name: _as_array(value) for spec, value in zip(self.inputs, inputs, strict=True)}
        shared = apply_steps(self.encode, sent)
        revealed = self.private_predict(params, *(shared[spec.name] for spec in self.private_inputs))
        names_to_values = {
            spec.name: value for spec, value in zip(self.private_outputs, revealed, strict=True)
        }
        received = apply_steps(self.decode, names_to_values)
        return tuple(received[spec.name] for spec in self.outputs)


def _as_array(value: Any) -> Any:
    return value if hasattr(value, "dtype") else np.asarray(value)
