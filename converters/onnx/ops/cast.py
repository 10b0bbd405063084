"""Types. Every float is one kind of fixed-point number, so casts between floats cost nothing."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax
from onnx import TensorProto

from converters.errors import NodeError
from converters.onnx.dtypes import numpy_dtype
from converters.onnx.registry import op

Array = Any


def cast(x: Array, dtype: Any) -> Array:
    """Floats are cut towards zero for integers; anything that is not zero is true."""
    if dtype == jnp.bool_ and x.dtype != jnp.bool_:
        return x != 0
    return x.astype(dtype)


@op(name="Cast", since=1)
def Cast_1(input: Array, *, to: str | int) -> Array:
    return Cast(input, to=TensorProto.DataType.Value(to) if isinstance(to, str) else to)


@op(since=6)
def Cast(input: Array, *, to: int, saturate: int = 1, round_mode: str = "up") -> Array:
    return cast(input, numpy_dtype(to))


@op(since=15)
def CastLike(input: Array, target_type: Array, *, saturate: int = 1, round_mode: str = "up") -> Array:
    return cast(input, target_type.dtype)


@op(since=26)
def BitCast(input: Array, *, to: int) -> Array:
    dtype = numpy_dtype(to)
    if input.dtype == jnp.bool_ or dtype == jnp.bool_:
        return cast(input, dtype)
    if dtype.itemsize != input.dtype.itemsize:
        raise NodeError("it changes the number of bits of an element.", "cast the values instead.")
    return lax.bitcast_convert_type(input, dtype)
