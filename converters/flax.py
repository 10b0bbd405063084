"""Flax modules -> `ConvertedModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters.errors import InputSpecError
from converters.model import ConversionReport, ConvertedModel, TensorSpec

__all__ = ["from_flax"]

_SEPARATOR = "/"
_PROBE_BATCHES = (2, 3)


def from_flax(module: Any, variables: Mapping[str, Any], *example_inputs: Any) -> ConvertedModel:
    """Convert a Flax linen module.

    Args:
        module: the module; called as ``module.apply(variables, *inputs)``.
        variables: its variable collections (``params``, ``batch_stats``); all of them become secret params.
        example_inputs: one array for each input; dimension 0 is the batch.

    Raises:
        InputSpecError: no example input was given.
    """
    if not example_inputs:
        raise InputSpecError("from_flax needs an example of each input, to learn shapes and dtypes.")
    params = _flatten(variables)
    inputs = tuple(
        TensorSpec(f"input_{index}", _dtype(value), (None, *np.shape(value)[1:]))
        for index, value in enumerate(example_inputs)
    )

    def private_predict(flat: Mapping[str, Any], *arrays: Any) -> tuple[Any, ...]:
        result = module.apply(_unflatten(flat), *arrays)
        return tuple(jax.tree_util.tree_leaves(result))

    shapes = [
        jax.eval_shape(
            private_predict,
            params,
            *(jax.ShapeDtypeStruct(spec.with_batch(batch), spec.dtype) for spec in inputs),
        )
        for batch in _PROBE_BATCHES
    ]
    outputs = tuple(
        TensorSpec(
            f"output_{index}",
            str(np.dtype(first.dtype)),
            tuple(a if a == b else None for a, b in zip(first.shape, second.shape, strict=True)),
        )
        for index, (first, second) in enumerate(zip(*shapes, strict=True))
    )
    return ConvertedModel(
        params=params,
        inputs=inputs,
        outputs=outputs,
        private_inputs=inputs,
        private_outputs=outputs,
        private_predict=private_predict,
        report=ConversionReport(),
    )


def _flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in variables.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}{_SEPARATOR}{name}": leaf for name, leaf in _flatten(value).items()})
        else:
            flat[key] = np.asarray(value)
    return flat


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split(_SEPARATOR)
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = leaf
    return tree


def _dtype(value: Any) -> str:
    return str(jnp.asarray(value).dtype)
