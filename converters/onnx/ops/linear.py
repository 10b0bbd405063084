"""Matrix products."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from converters.errors import NodeError
from converters.onnx.registry import op

Array = Any


@op()
def MatMul(A: Array, B: Array) -> Array:
    return jnp.matmul(A, B)


@op()
def Gemm(
    A: Array,
    B: Array,
    C: Array = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 0,
) -> Array:
    product = jnp.matmul(A.T if transA else A, B.T if transB else B)
    product = product if alpha == 1 else alpha * product
    if C is None or beta == 0:
        return product
    return product + (C if beta == 1 else beta * C)


@op(since=12)
def Einsum(*Inputs: Array, equation: str) -> Array:
    return jnp.einsum(equation.replace(" ", ""), *Inputs)


@op(since=11)
def Det(X: Array) -> Array:
    return _determinant(X)


_LARGEST_DETERMINANT = 6


def _determinant(X: Array) -> Array:
    """By minors: no pivot is compared, so nothing depends on private values."""
    size = X.shape[-1]
    if size > _LARGEST_DETERMINANT:
        raise NodeError(
            f"a determinant of {size} x {size} is too costly under MPC.",
            f"use {_LARGEST_DETERMINANT} at most.",
        )
    if size == 1:
        return X[..., 0, 0]
    minors = [jnp.delete(X[..., 1:, :], column, axis=-1) for column in range(size)]
    terms = [(-1) ** column * X[..., 0, column] * _determinant(minor) for column, minor in enumerate(minors)]
    return sum(terms[1:], terms[0])
