"""Quantised models, computed as they were meant: small integers in the ring, scales as secret floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from converters.onnx.dtypes import numpy_dtype
from converters.onnx.ops.conv import Conv
from converters.onnx.registry import op

Array = Any


def _spread(parameter: Array, x: Array, axis: int, block_size: int) -> Array:
    """A scale or zero point in a form that broadcasts against ``x``: one, one a channel, or one a block."""
    if parameter.ndim == 0 or (parameter.size == 1 and not block_size):
        return parameter.reshape(())
    axis = axis % x.ndim
    if block_size:
        blocks = jnp.repeat(parameter, block_size, axis=axis)
        return blocks[(slice(None),) * axis + (slice(0, x.shape[axis]),)]
    return parameter.reshape([-1 if a == axis else 1 for a in range(x.ndim)])


def _saturated(x: Array, dtype: Any) -> Array:
    limits = np.iinfo(dtype)
    return jnp.clip(x, limits.min, limits.max).astype(jnp.int32).astype(dtype)


@op(since=10)
def QuantizeLinear(
    x: Array,
    y_scale: Array,
    y_zero_point: Array = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Array:
    dtype = y_zero_point.dtype if y_zero_point is not None else numpy_dtype(output_dtype or 2)
    steps = jnp.round(x.astype(jnp.float32) / _spread(y_scale, x, axis, block_size))
    if y_zero_point is not None:
        steps = steps + _spread(y_zero_point, x, axis, block_size).astype(jnp.float32)
    return _saturated(steps, dtype)


@op(since=10)
def DequantizeLinear(
    x: Array,
    x_scale: Array,
    x_zero_point: Array = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Array:
    steps = x.astype(jnp.int32)
    if x_zero_point is not None:
        steps = steps - _spread(x_zero_point, x, axis, block_size).astype(jnp.int32)
    return steps.astype(jnp.float32) * _spread(x_scale, x, axis, block_size)


@op(since=11)
def DynamicQuantizeLinear(x: Array) -> tuple[Array, Array, Array]:
    low, high = jnp.minimum(jnp.min(x), 0), jnp.maximum(jnp.max(x), 0)
    scale = (high - low) * np.float32(1 / 255)
    zero_point = jnp.clip(jnp.round(-low / scale), 0, 255)
    steps = jnp.clip(jnp.round(x / scale) + zero_point, 0, 255)
    return steps.astype(jnp.uint8), scale, zero_point.astype(jnp.uint8)


def _centred(x: Array, zero_point: Array, axis: int) -> Array:
    x = x.astype(jnp.int32)
    if zero_point is None:
        return x
    offset = zero_point.astype(jnp.int32)
    if offset.ndim == 1 and offset.size > 1:
        offset = offset.reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])
    return x - (offset.reshape(()) if offset.size == 1 else offset)


@op(since=10)
def MatMulInteger(A: Array, B: Array, a_zero_point: Array = None, b_zero_point: Array = None) -> Array:
    return jnp.matmul(_centred(A, a_zero_point, -2), _centred(B, b_zero_point, -1))


@op(since=10)
def ConvInteger(
    x: Array,
    w: Array,
    x_zero_point: Array = None,
    w_zero_point: Array = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    return Conv(
        _centred(x, x_zero_point, 1),
        _centred(w, w_zero_point, 0),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        pads=pads,
        strides=strides,
    )


def _requantized(total: Array, weights: Array, inputs: Array, outputs: Array, zero_point: Array) -> Array:
    """Sums times ``weights * inputs / outputs``: in this order no factor is below the ring's resolution."""
    steps = jnp.round(total.astype(jnp.float32) * weights * (inputs / outputs))
    return _saturated(steps + zero_point.astype(jnp.float32), zero_point.dtype)


@op(since=10)
def QLinearMatMul(
    a: Array,
    a_scale: Array,
    a_zero_point: Array,
    b: Array,
    b_scale: Array,
    b_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
) -> Array:
    total = jnp.matmul(_centred(a, a_zero_point, -2), _centred(b, b_zero_point, -1))
    return _requantized(total, b_scale, a_scale, y_scale, y_zero_point)


@op(since=10)
def QLinearConv(
    x: Array,
    x_scale: Array,
    x_zero_point: Array,
    w: Array,
    w_scale: Array,
    w_zero_point: Array,
    y_scale: Array,
    y_zero_point: Array,
    B: Array = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    total = ConvInteger(
        x,
        w,
        x_zero_point,
        w_zero_point,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        pads=pads,
        strides=strides,
    )
    channels = (1, -1) + (1,) * (x.ndim - 2)
    total = total if B is None else total + B.astype(jnp.int32).reshape(channels)
    weights = w_scale.reshape(channels) if w_scale.size > 1 else w_scale
    return _requantized(total, weights, x_scale, y_scale, y_zero_point)
