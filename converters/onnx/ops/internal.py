"""Operators that only passes make."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from converters.onnx.registry import INTERNAL, op

Array = Any


@op(domain=INTERNAL)
def Centre(X: Array, *, axis: int) -> Array:
    """X minus its mean along ``axis``."""
    return X - jnp.sum(X, axis=axis, keepdims=True) * (1 / X.shape[axis])
