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


_GELU_LIMIT = 4.0
"""Beyond it, relu(x) - gelu(x) is below 1.3e-4."""
_GELU = (-0.000015, 1.996684, -6.170958, -3.188381, 37.002786, -60.532089, 41.71364, -10.821751)
"""Least-squares fit at Chebyshev nodes of relu(4u) - gelu(4u) for u in [0, 1]; largest error 2.2e-4."""


@op(domain=INTERNAL)
def GeluPolynomial(X: Array) -> Array:
    """GELU as ``relu(x) - p(min(|x|, 4) / 4)``: two comparisons and five rounds of products."""
    size = jnp.abs(X)
    u = jnp.minimum(size, _GELU_LIMIT) * (1 / _GELU_LIMIT)
    square = u * u
    pairs = [_GELU[k] + _GELU[k + 1] * u for k in range(0, len(_GELU), 2)]
    low, high = pairs[0] + pairs[1] * square, pairs[2] + pairs[3] * square
    return 0.5 * (X + size) - (low + high * (square * square))
