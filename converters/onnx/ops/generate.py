"""Values made from shapes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from converters.onnx.dtypes import canonical, canonical_dtype, numpy_dtype
from converters.onnx.ops.layout import ints
from converters.onnx.ops.public import public_fractions
from converters.onnx.registry import op

Array = Any
Static = Any


@op(since=9, static=("input",))
def ConstantOfShape(input: Static, *, value: Any = None) -> Array:
    fill = np.zeros((), np.float32) if value is None else canonical(np.asarray(value)).reshape(())
    return jnp.full(ints(input), fill, fill.dtype)


@op(since=11, static=("start", "limit", "delta"))
def Range(start: Static, limit: Static, delta: Static) -> Array:
    values = np.arange(start.reshape(()), limit.reshape(()), delta.reshape(()))
    return jnp.arange(len(values)).astype(canonical_dtype(start.dtype)) * delta.item() + start.item()


@op(since=9)
def EyeLike(input: Array, *, dtype: int | None = None, k: int = 0) -> Array:
    return jnp.eye(
        input.shape[0], input.shape[1], k=k, dtype=input.dtype if dtype is None else numpy_dtype(dtype)
    )


def _window(size: Static, periodic: int, output_datatype: int, weights: tuple[float, ...]) -> Array:
    """Sum of cosines. A periodic window is a symmetric one without its last sample."""
    count = int(size)
    steps = np.arange(count) / (count if periodic else max(count - 1, 1))
    window = sum(w * np.cos(2 * np.pi * i * steps) for i, w in enumerate(weights))
    return public_fractions(np.asarray(window)).astype(numpy_dtype(output_datatype))


@op(since=17, static=("size",))
def HannWindow(size: Static, *, output_datatype: int = 1, periodic: int = 1) -> Array:
    return _window(size, periodic, output_datatype, (0.5, -0.5))


@op(since=17, static=("size",))
def HammingWindow(size: Static, *, output_datatype: int = 1, periodic: int = 1) -> Array:
    return _window(size, periodic, output_datatype, (25 / 46, -21 / 46))


@op(since=17, static=("size",))
def BlackmanWindow(size: Static, *, output_datatype: int = 1, periodic: int = 1) -> Array:
    return _window(size, periodic, output_datatype, (0.42, -0.5, 0.08))
