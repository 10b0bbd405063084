"""Arithmetic on elements, with numpy's broadcasting."""

from __future__ import annotations

from functools import reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from converters.errors import NodeError
from converters.onnx.registry import op

Array = Any


def _aligned(B: Array, A: Array, broadcast: int, axis: int | None) -> Array:
    """Opset 6: the second operand starts at ``axis`` of the first."""
    if broadcast and axis is not None and B.ndim:
        axis = axis % A.ndim
        return B.reshape(B.shape + (1,) * (A.ndim - axis - B.ndim))
    return B


@op(name="Add", since=1)
def Add_1(
    A: Array, B: Array, *, broadcast: int = 0, axis: int | None = None, consumed_inputs: Any = None
) -> Array:
    return A + _aligned(B, A, broadcast, axis)


@op(name="Sub", since=1)
def Sub_1(
    A: Array, B: Array, *, broadcast: int = 0, axis: int | None = None, consumed_inputs: Any = None
) -> Array:
    return A - _aligned(B, A, broadcast, axis)


@op(name="Mul", since=1)
def Mul_1(
    A: Array, B: Array, *, broadcast: int = 0, axis: int | None = None, consumed_inputs: Any = None
) -> Array:
    return A * _aligned(B, A, broadcast, axis)


@op(name="Div", since=1)
def Div_1(
    A: Array, B: Array, *, broadcast: int = 0, axis: int | None = None, consumed_inputs: Any = None
) -> Array:
    return Div(A, _aligned(B, A, broadcast, axis))


@op(since=7)
def Add(A: Array, B: Array) -> Array:
    return A + B


@op(since=7)
def Sub(A: Array, B: Array) -> Array:
    return A - B


@op(since=7)
def Mul(A: Array, B: Array) -> Array:
    return A * B


@op(since=7)
def Div(A: Array, B: Array) -> Array:
    if jnp.issubdtype(A.dtype, jnp.integer):
        return lax.div(*jnp.broadcast_arrays(A, B))  # towards zero, as C does
    return A / B


@op()
def Mod(A: Array, B: Array, *, fmod: int = 0) -> Array:
    return jnp.fmod(A, B) if fmod else jnp.remainder(A, B)


@op(prefers_static=("Y",))
def Pow(X: Array, Y: Array, *, broadcast: int = 0, axis: int | None = None) -> Array:
    if isinstance(Y, np.ndarray):
        if Y.size == 1:
            return _power(X, Y).astype(X.dtype)
        Y = jnp.asarray(Y.astype(np.float32) if Y.dtype.kind == "f" else Y.astype(np.int32))
    return jnp.power(X, _aligned(Y, X, broadcast, axis)).astype(X.dtype)


def _power(X: Array, Y: np.ndarray[Any, Any]) -> Array:
    """Products and roots in place of exp(y log x) wherever the exponent is known."""
    exponent = float(Y.reshape(()))
    X = X.reshape(np.broadcast_shapes(X.shape, Y.shape))
    if exponent == 0.5:
        return jnp.sqrt(X)
    if exponent == -0.5:
        return lax.rsqrt(X)
    if exponent == int(exponent) and 1 <= abs(exponent) <= 16:
        power = lax.integer_pow(X, int(abs(exponent)))
        return power if exponent > 0 else 1 / power
    return jnp.power(X, exponent)


@op()
def Sum(*data: Array, consumed_inputs: Any = None) -> Array:
    return reduce(jnp.add, data)


@op()
def Mean(*data: Array, consumed_inputs: Any = None) -> Array:
    return reduce(jnp.add, data) * np.float32(1 / len(data))


@op()
def Max(*data: Array, consumed_inputs: Any = None) -> Array:
    return reduce(jnp.maximum, data)


@op()
def Min(*data: Array, consumed_inputs: Any = None) -> Array:
    return reduce(jnp.minimum, data)


@op(name="Clip", since=1)
def Clip_1(
    input: Array, *, min: float | None = None, max: float | None = None, consumed_inputs: Any = None
) -> Array:
    lowest, highest = (None if v is None or abs(v) > 3e38 else np.float32(v) for v in (min, max))
    return Clip(input, lowest, highest)


@op(since=11, prefers_static=("min", "max"))
def Clip(input: Array, min: Array = None, max: Array = None) -> Array:
    # The order matters where min > max: the standard's reference gives max.
    if min is not None and not _beyond(min, -1):
        input = jnp.maximum(input, jnp.asarray(min, input.dtype))
    if max is not None and not _beyond(max, 1):
        input = jnp.minimum(input, jnp.asarray(max, input.dtype))
    return input


def _beyond(bound: Array, sign: int) -> bool:
    """Whether a known float bound is so far out that nothing is clipped: no comparison is spent on it."""
    return (
        isinstance(bound, np.ndarray | np.generic)
        and bound.dtype.kind == "f"
        and bool((bound.astype(np.float64) * sign >= 3e38).all())
    )


@op()
def Abs(X: Array, *, consumed_inputs: Any = None) -> Array:
    return jnp.abs(X)


@op()
def Neg(X: Array, *, consumed_inputs: Any = None) -> Array:
    return -X


@op()
def Sign(input: Array) -> Array:
    return jnp.sign(input)


@op()
def Ceil(X: Array, *, consumed_inputs: Any = None) -> Array:
    return jnp.ceil(X)


@op()
def Floor(X: Array, *, consumed_inputs: Any = None) -> Array:
    return jnp.floor(X)


@op()
def Round(X: Array) -> Array:
    return jnp.round(X)


@op()
def Reciprocal(X: Array, *, consumed_inputs: Any = None) -> Array:
    return 1 / X


@op()
def Sqrt(X: Array, *, consumed_inputs: Any = None) -> Array:
    return jnp.sqrt(X)


@op()
def Identity(input: Array) -> Array:
    return input


@op(name="Dropout", since=1)
def Dropout_1(
    data: Array, *, ratio: float = 0.5, is_test: int = 0, consumed_inputs: Any = None, output_count: int
) -> Any:
    return (data, jnp.ones(data.shape, bool))[:output_count]


@op(since=12, static=("ratio", "training_mode"))
def Dropout(
    data: Array, ratio: Any = None, training_mode: Any = None, *, seed: int = 0, output_count: int
) -> Any:
    chance = 0.5 if ratio is None else float(ratio)
    if training_mode is not None and bool(training_mode) and chance > 0:
        raise NodeError("dropout in training mode is random.", "export the model in evaluation mode.")
    return (data, jnp.ones(data.shape, bool))[:output_count]
