"""Linear models of ai.onnx.ml; their coefficients are attributes there and secret params here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from converters.errors import NodeError
from converters.onnx.ops.activation import softmax
from converters.onnx.ops.reduce import argmax
from converters.onnx.registry import ML, op

Array = Any


def post_transformed(scores: Array, transform: str) -> Array:
    """Scores (batch, classes) after ``post_transform``.

    Raises:
        NodeError: the transform has no form that suits MPC.
    """
    if transform == "NONE":
        return scores
    if transform == "LOGISTIC":
        return lax.logistic(scores)
    if transform == "SOFTMAX":
        return softmax(scores, -1)
    if transform == "SOFTMAX_ZERO":
        powers = jnp.where(scores == 0, 0, jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True)))
        return powers * (1 / jnp.sum(powers, axis=-1, keepdims=True))
    raise NodeError(f"post_transform {transform} has no form that suits MPC.", "export raw scores.")


def two_columns(score: Array, transform: str) -> Array:
    """Scores of two classes from the one column (batch, 1) of the second class."""
    if transform == "NONE":
        return jnp.concatenate([-score, score], axis=1)
    if transform == "LOGISTIC":
        chance = lax.logistic(score)
        return jnp.concatenate([1 - chance, chance], axis=1)
    return post_transformed(jnp.concatenate([-score, score], axis=1), transform)


@op(domain=ML, weights=("coefficients", "intercepts"))
def LinearClassifier(
    X: Array,
    *,
    coefficients: Array,
    intercepts: Array | None = None,
    classlabels_ints: Sequence[int] = (),
    classlabels_strings: Sequence[str] = (),
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> tuple[Array, Array]:
    """Index of the class (batch,) and scores (batch, classes)."""
    features = X.reshape(X.shape[0], -1).astype(jnp.float32)
    rows = coefficients.size // features.shape[1]
    scores = features @ coefficients.reshape(rows, features.shape[1]).T
    if intercepts is not None:
        scores = scores + intercepts
    classes = max(len(classlabels_ints), len(classlabels_strings))
    if rows == 1 and classes == 2:
        return (scores[:, 0] > 0).astype(jnp.int32), two_columns(scores, post_transform)
    # Every transform keeps the order of the classes, so the class is decided on the raw scores.
    return argmax(scores, 1, keepdims=False), post_transformed(scores, post_transform)


@op(domain=ML, weights=("coefficients", "intercepts"))
def LinearRegressor(
    X: Array,
    *,
    coefficients: Array,
    intercepts: Array | None = None,
    targets: int = 1,
    post_transform: str = "NONE",
) -> Array:
    features = X.reshape(X.shape[0], -1).astype(jnp.float32)
    scores = features @ coefficients.reshape(targets, -1).T
    if intercepts is not None:
        scores = scores + intercepts
    return post_transformed(scores, post_transform)


@op(domain=ML, weights=("offset", "scale"))
def Scaler(X: Array, *, offset: Array | None = None, scale: Array | None = None) -> Array:
    x = X.astype(jnp.float32)
    x = x if offset is None else x - offset
    return x if scale is None else x * scale


@op(domain=ML)
def Normalizer(X: Array, *, norm: str = "MAX") -> Array:
    x = X.astype(jnp.float32)
    smallest = np.float32(1e-30)  # a row of zeros stays one
    if norm == "L1":
        return x * (1 / jnp.maximum(jnp.sum(jnp.abs(x), axis=-1, keepdims=True), smallest))
    if norm == "L2":
        return x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), smallest))
    size = jnp.max(x, axis=-1, keepdims=True)
    return x * (1 / jnp.where(size == 0, 1, size))
