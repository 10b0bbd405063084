"""Steps that the data owner computes in the clear: before sharing (encode) or after reconstruction (decode).

A step is data (it travels in the manifest as JSON), so the set of operators is small and closed. Each works
on numpy arrays, and on JAX arrays and tracers alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.errors import ConversionError

__all__ = ["LOCAL_OPS", "LocalStep", "apply_steps", "local_op"]

Values = Any
"""One array, numpy's or JAX's."""


@dataclass(frozen=True)
class LocalStep:
    """One local operator applied to named values."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON: numbers, strings, lists."""


LocalOp = Callable[..., Any]
LOCAL_OPS: dict[str, LocalOp] = {}


def local_op(function: LocalOp) -> LocalOp:
    """Register ``function(xp, *arrays, **attrs)`` under its name; ``xp`` is numpy or jax.numpy."""
    LOCAL_OPS[function.__name__] = function
    return function


def apply_steps(steps: Sequence[LocalStep], values: Mapping[str, Values]) -> dict[str, Values]:
    """Apply the steps in order.

    Args:
        steps: the ``encode`` or ``decode`` of a model or a manifest.
        values: arrays by name; numpy arrays give numpy arrays, JAX arrays give JAX arrays.

    Returns:
        ``values`` and every step's outputs. A step may overwrite a name.

    Raises:
        ConversionError: a step's operator is not known here, or an input's name is missing.
    """
    known = dict(values)
    for step in steps:
        function = LOCAL_OPS.get(step.op)
        if function is None:
            raise ConversionError(
                f"local step {step.op!r} is not known; known are {', '.join(sorted(LOCAL_OPS))}"
            )
        missing = [name for name in step.inputs if name not in known]
        if missing:
            raise ConversionError(f"local step {step.op!r} needs {missing}, which no step before it gives")
        arrays = [known[name] for name in step.inputs]
        result = function(_namespace(arrays), *arrays, **step.attrs)
        results = result if isinstance(result, tuple) else (result,)
        known.update(zip(step.outputs, results, strict=True))
    return known


def _namespace(arrays: Sequence[Values]) -> Any:
    if all(isinstance(array, np.ndarray | np.generic) for array in arrays):
        return np
    import jax.numpy as jnp

    return jnp


@local_op
def identity(xp: Any, x: Values) -> Values:
    """The value itself under another name."""
    return x


@local_op
def sigmoid(xp: Any, x: Values) -> Values:
    """1 / (1 + exp(-x)), without overflow."""
    small = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1 / (1 + small), small / (1 + small))


@local_op
def softmax(xp: Any, x: Values, axis: int = -1) -> Values:
    """exp(x) / sum(exp(x)) along ``axis``."""
    powers = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    return powers / xp.sum(powers, axis=axis, keepdims=True)


@local_op
def log_softmax(xp: Any, x: Values, axis: int = -1) -> Values:
    """x - log(sum(exp(x))) along ``axis``."""
    shifted = x - xp.max(x, axis=axis, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=axis, keepdims=True))


@local_op
def softplus(xp: Any, x: Values) -> Values:
    """log(1 + exp(x)), without overflow."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


@local_op
def elu(xp: Any, x: Values, alpha: float = 1.0, gamma: float = 1.0) -> Values:
    """``gamma * x`` above 0, ``gamma * alpha * (exp(x) - 1)`` below."""
    return (gamma * xp.where(x > 0, x, alpha * xp.expm1(xp.minimum(x, 0)))).astype("float32")


@local_op
def leaky_relu(xp: Any, x: Values, alpha: float = 0.01) -> Values:
    """``x`` above 0, ``alpha * x`` below."""
    return xp.where(x > 0, x, alpha * x).astype("float32")


@local_op
def tanh(xp: Any, x: Values) -> Values:
    """The hyperbolic tangent."""
    return xp.tanh(x)


@local_op
def exp(xp: Any, x: Values) -> Values:
    """The exponential."""
    return xp.exp(x)


@local_op
def scale(xp: Any, x: Values, factor: float | list[float] = 1.0, offset: float | list[float] = 0.0) -> Values:
    """``x * factor + offset``; lists are along the last axis. float32."""
    return x * xp.asarray(factor, dtype="float32") + xp.asarray(offset, dtype="float32")


@local_op
def complement(xp: Any, x: Values) -> Values:
    """The probabilities (1 - x, x) of two classes, (batch,) or (batch, 1) -> (batch, 2)."""
    column = x.reshape(-1, 1)
    return xp.concatenate([1 - column, column], axis=1)


@local_op
def concat(xp: Any, *x: Values, axis: int = 0) -> Values:
    """The arrays side by side along ``axis``."""
    return xp.concatenate(x, axis=axis)


@local_op
def take(xp: Any, x: Values, indices: list[int], axis: int = 0) -> Values:
    """The given positions along ``axis``."""
    return xp.take(x, xp.asarray(indices, dtype="int32"), axis=axis)


@local_op
def greater(xp: Any, x: Values, threshold: float = 0.0) -> Values:
    """Whether ``x`` is above ``threshold``, bool."""
    return x > threshold


@local_op
def transpose(xp: Any, x: Values, perm: list[int]) -> Values:
    """As numpy's transpose."""
    return xp.transpose(x, perm)


@local_op
def pair_probabilities(xp: Any, x: Values) -> Values:
    """libsvm's probabilities of two classes from the logit of the second, (batch, 1) -> (batch, 2).

    libsvm couples even a single pair by its iteration for many, which stops within 0.0025 of the logistic
    function (Wu, Lin, Weng, JMLR 5, 2004, algorithm 2); for one pair it takes at most two rounds.
    """
    first = xp.clip(1 - sigmoid(xp, x[:, 0]), 1e-7, 1 - 1e-7)
    q11, q22, q12 = (1 - first) * (1 - first), first * first, first * (first - 1)
    p1 = p2 = xp.full_like(first, 0.5)
    for _ in range(3):
        a, b = q11 * p1 + q12 * p2, q12 * p1 + q22 * p2
        mean = p1 * a + p2 * b
        moving = xp.maximum(xp.abs(a - mean), xp.abs(b - mean)) >= 0.0025
        step = (mean - a) / q11
        mean = (mean + step * (step * q11 + 2 * a)) / (1 + step) / (1 + step)
        b = (b + step * q12) / (1 + step)
        last = (mean - b) / q22
        new1, new2 = (p1 + step) / (1 + step) / (1 + last), (p2 / (1 + step) + last) / (1 + last)
        p1, p2 = xp.where(moving, new1, p1), xp.where(moving, new2, p2)
    return xp.stack([p1, p2], axis=1).astype("float32")


@local_op
def argmin(xp: Any, x: Values, axis: int = -1, keepdims: bool = False) -> Values:
    """Index of the first smallest value along ``axis``, int32."""
    index = xp.argmin(x, axis=axis).astype("int32")
    return xp.expand_dims(index, axis) if keepdims else index


@local_op
def argmax(xp: Any, x: Values, axis: int = -1, keepdims: bool = False) -> Values:
    """Index of the first largest value along ``axis``, int32."""
    index = xp.argmax(x, axis=axis).astype("int32")
    return xp.expand_dims(index, axis) if keepdims else index


@local_op
def one_hot(xp: Any, x: Values, depth: int) -> Values:
    """Integers -> float32 one-hot rows along a new last axis; an integer outside the range gives zeros."""
    return (xp.expand_dims(x, -1) == xp.arange(depth)).astype("float32")


@local_op
def lookup(xp: Any, index: Values, table: list[Any]) -> Values:
    """Class labels for class indices: strings (numpy, outside `jax.jit`), integers or floats."""
    if table and isinstance(table[0], str):
        return np.asarray(table)[np.asarray(index).astype(np.int64)]
    dtype = "int32" if xp is not np else "int64"
    if any(isinstance(entry, float) for entry in table):
        dtype = "float32"
    return xp.asarray(np.asarray(table), dtype=dtype)[index.astype("int32")]


@local_op
def encode_labels(
    xp: Any, x: Values, keys: list[Any], values: list[int], default: int, dtype: str = "int32"
) -> Values:
    """Categories -> their integer codes; what is no category gives ``default``."""
    met = _met(xp, x, keys)
    codes = xp.asarray(values, dtype=dtype)[xp.argmax(met, axis=-1)]
    return xp.where(met.any(axis=-1), codes, xp.asarray(default, dtype=dtype))


@local_op
def one_hot_categories(xp: Any, x: Values, categories: list[Any], dtype: str = "float32") -> Values:
    """Categories -> rows of 0 and 1 along a new last axis; what is no category gives zeros."""
    return _met(xp, x, categories).astype(dtype)


def _met(xp: Any, x: Values, keys: list[Any]) -> Values:
    if keys and isinstance(keys[0], str):
        return np.asarray(x).astype(str)[..., None] == np.asarray(keys, dtype=str)
    return xp.expand_dims(x, -1) == xp.asarray(keys, dtype="int32" if x.dtype.kind in "iu" else "float32")


@local_op
def mark_missing(xp: Any, x: Values, replaced: float | None = None) -> tuple[Values, Values]:
    """0 for missing values, and where they were, int32; missing is NaN, or the number ``replaced``."""
    missing = xp.isnan(x) if replaced is None else x == replaced
    return xp.where(missing, xp.zeros_like(x), x), missing.astype("int32")


@local_op
def reshape(xp: Any, x: Values, shape: list[int]) -> Values:
    """As numpy's reshape; one entry may be -1."""
    return x.reshape(tuple(shape))


@local_op
def cast(xp: Any, x: Values, dtype: str) -> Values:
    """Another dtype; floats are cut towards zero for integers."""
    return x.astype(dtype)
