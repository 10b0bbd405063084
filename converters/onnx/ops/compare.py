"""Comparisons, logic and choice."""

from __future__ import annotations

from functools import reduce
from typing import Any

import jax.numpy as jnp
from jax import lax

from converters.errors import NodeError
from converters.onnx.ops.arithmetic import _aligned
from converters.onnx.registry import op

Array = Any


@op()
def Equal(A: Array, B: Array, *, broadcast: int = 0, axis: int | None = None) -> Array:
    return _aligned(B, A, broadcast, axis) == A


@op()
def Less(A: Array, B: Array, *, broadcast: int = 0, axis: int | None = None) -> Array:
    return _aligned(B, A, broadcast, axis) > A


@op()
def Greater(A: Array, B: Array, *, broadcast: int = 0, axis: int | None = None) -> Array:
    return _aligned(B, A, broadcast, axis) < A


@op(since=12)
def LessOrEqual(A: Array, B: Array) -> Array:
    return A <= B


@op(since=12)
def GreaterOrEqual(A: Array, B: Array) -> Array:
    return A >= B


@op()
def And(A: Array, B: Array, *, broadcast: int = 0, axis: int | None = None) -> Array:
    return jnp.logical_and(A, _aligned(B, A, broadcast, axis))


@op()
def Or(A: Array, B: Array, *, broadcast: int = 0, axis: int | None = None) -> Array:
    return jnp.logical_or(A, _aligned(B, A, broadcast, axis))


@op()
def Xor(A: Array, B: Array, *, broadcast: int = 0, axis: int | None = None) -> Array:
    return jnp.logical_xor(A, _aligned(B, A, broadcast, axis))


@op()
def Not(X: Array) -> Array:
    return jnp.logical_not(X)


@op(since=18)
def BitwiseAnd(A: Array, B: Array) -> Array:
    return A & B


@op(since=18)
def BitwiseOr(A: Array, B: Array) -> Array:
    return A | B


@op(since=18)
def BitwiseXor(A: Array, B: Array) -> Array:
    return A ^ B


@op(since=18)
def BitwiseNot(X: Array) -> Array:
    return ~X


@op()
def BitShift(X: Array, Y: Array, *, direction: str) -> Array:
    return X << Y if direction == "LEFT" else lax.shift_right_logical(*jnp.broadcast_arrays(X, Y))


@op()
def Where(condition: Array, X: Array, Y: Array) -> Array:
    return jnp.where(condition, X, Y)


@op()
def IsNaN(X: Array) -> Array:
    # A fixed-point ring holds no NaN; in floats only NaN differs from itself.
    return X != X


@op()
def IsInf(X: Array, *, detect_negative: int = 1, detect_positive: int = 1) -> Array:
    infinite = [jnp.inf == X] * bool(detect_positive) + [-jnp.inf == X] * bool(detect_negative)
    return reduce(jnp.logical_or, infinite) if infinite else jnp.zeros(X.shape, bool)


@op()
def Unique(X: Array, *, axis: int | None = None, sorted: int = 1) -> Array:
    raise NodeError(
        "the shape of its result depends on private values.", "remove it from the exported model."
    )


@op()
def NonZero(X: Array) -> Array:
    raise NodeError("the shape of its result depends on private values.", "use Where with a fixed shape.")


@op()
def Compress(input: Array, condition: Array, *, axis: int | None = None) -> Array:
    raise NodeError("the shape of its result depends on private values.", "use Where with a fixed shape.")
