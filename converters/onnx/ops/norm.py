"""Normalisations: one reciprocal square root for each group, then products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from converters.errors import NodeError
from converters.onnx.registry import op

Array = Any


def _mean(x: Array, axes: Sequence[int]) -> Array:
    count = int(np.prod([x.shape[axis] for axis in axes]))
    return jnp.sum(x, axis=tuple(axes), keepdims=True) * np.float32(1 / count)


def _standardized(x: Array, axes: Sequence[int], epsilon: float) -> tuple[Array, Array, Array]:
    """(x - mean) / sqrt(variance + epsilon) along the axes, the mean and the reciprocal of the root."""
    mean = _mean(x, axes)
    centred = x - mean
    inverse = lax.rsqrt(_mean(centred * centred, axes) + np.float32(epsilon))
    return centred * inverse, mean, inverse


def _channels(v: Array, rank: int) -> Array:
    """(C,) -> (C, 1, …) that broadcasts against (N, C, spatial…)."""
    return v.reshape((-1,) + (1,) * (rank - 2))


@op()
def BatchNormalization(
    X: Array,
    scale: Array,
    B: Array,
    input_mean: Array,
    input_var: Array,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
    is_test: int = 1,
    consumed_inputs: Any = None,
    output_count: int,
) -> Any:
    if not spatial:
        raise NodeError(
            "statistics for every position (spatial=0) are not supported.", "export it with opset 9."
        )
    if training_mode:
        axes = [axis for axis in range(X.ndim) if axis != 1]
        normal, mean, _ = _standardized(X, axes, epsilon)
        variance = _mean((X - mean) ** 2, axes)
        result = normal * _channels(scale, X.ndim) + _channels(B, X.ndim)
        running_mean = input_mean * momentum + mean.reshape(-1) * (1 - momentum)
        running_var = input_var * momentum + variance.reshape(-1) * (1 - momentum)
        return (result, running_mean, running_var)[:output_count]
    factor = scale * lax.rsqrt(input_var + np.float32(epsilon))
    shift = B - input_mean * factor
    return X * _channels(factor, X.ndim) + _channels(shift, X.ndim)


@op()
def InstanceNormalization(
    input: Array, scale: Array, B: Array, *, epsilon: float = 1e-5, consumed_inputs: Any = None
) -> Array:
    normal, _, _ = _standardized(input, range(2, input.ndim), epsilon)
    return normal * _channels(scale, input.ndim) + _channels(B, input.ndim)


@op(since=17)
def LayerNormalization(
    X: Array,
    Scale: Array,
    B: Array = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
    output_count: int,
) -> Any:
    normal, mean, inverse = _standardized(X, range(axis % X.ndim, X.ndim), epsilon)
    result = normal * Scale if B is None else normal * Scale + B
    return (result, mean, inverse)[:output_count]


@op(since=23)
def RMSNormalization(
    X: Array, scale: Array, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Array:
    return X * lax.rsqrt(_mean(X * X, range(axis % X.ndim, X.ndim)) + np.float32(epsilon)) * scale


def _group_normal(X: Array, groups: int, epsilon: float) -> Array:
    grouped = X.reshape((X.shape[0], groups, -1))
    return _standardized(grouped, (2,), epsilon)[0]


@op(name="GroupNormalization", since=18)
def GroupNormalization_18(
    X: Array, scale: Array, bias: Array, *, epsilon: float = 1e-5, num_groups: int
) -> Array:
    normal = _group_normal(X, num_groups, epsilon)
    return (normal * scale[:, None] + bias[:, None]).reshape(X.shape)


@op(since=21)
def GroupNormalization(
    X: Array, scale: Array, bias: Array, *, epsilon: float = 1e-5, num_groups: int, stash_type: int = 1
) -> Array:
    normal = _group_normal(X, num_groups, epsilon).reshape(X.shape)
    return normal * _channels(scale, X.ndim) + _channels(bias, X.ndim)


@op()
def LpNormalization(input: Array, *, axis: int = -1, p: int = 2) -> Array:
    if p == 1:
        size = jnp.sum(jnp.abs(input), axis=axis, keepdims=True)
    else:
        size = jnp.sqrt(jnp.sum(input * input, axis=axis, keepdims=True))
    # A vector of zeros stays one, as the standard says from opset 22 on.
    return input * (1 / jnp.where(size == 0, 1, size))


@op()
def MeanVarianceNormalization(X: Array, *, axes: Sequence[int] = (0, 2, 3)) -> Array:
    return _standardized(X, [axis % X.ndim for axis in axes], 1e-9)[0]


@op()
def LRN(X: Array, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int) -> Array:
    before, after = (size - 1) // 2, size // 2
    squares = jnp.pad(X * X, [(0, 0), (before, after)] + [(0, 0)] * (X.ndim - 2))
    total = sum(squares[:, step : step + X.shape[1]] for step in range(size))
    base = bias + (alpha / size) * total
    if beta == 0.75:
        root = jnp.sqrt(base)
        return X * lax.rsqrt(base) * lax.rsqrt(root)
    return X * (lax.rsqrt(base) if beta == 0.5 else jnp.power(base, -beta))
