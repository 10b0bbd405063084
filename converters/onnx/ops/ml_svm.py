"""Support vector machines of ai.onnx.ml, all support vectors at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from converters.errors import NodeError
from converters.onnx.ops.ml_linear import post_transformed
from converters.onnx.ops.reduce import argmax
from converters.onnx.registry import INTERNAL, ML, op

Array = Any
NDArray = np.ndarray[Any, Any]
Attributes = dict[str, Any]

_TRAINED = ("coefficients", "support_vectors", "rho", "prob_a", "prob_b")
_LARGEST_COUPLING = 5
"""Classes; the coupling's determinants lose their digits in a ring beyond that."""


def _lift(attrs: Attributes) -> tuple[Attributes, dict[str, NDArray]]:
    """The kernel's degree decides the program; its gamma and offset are as secret as the vectors."""
    public = {key: value for key, value in attrs.items() if key not in (*_TRAINED, "kernel_params")}
    secret = {key: np.asarray(attrs[key], np.float32) for key in _TRAINED if key in attrs and len(attrs[key])}
    gamma, offset, degree = (*attrs.get("kernel_params", ()), 0.0, 0.0, 0.0)[:3]
    kernel = public.get("kernel_type", "LINEAR")
    if kernel != "LINEAR":
        secret["gamma"] = np.asarray([gamma], np.float32)
    if kernel in ("POLY", "SIGMOID"):
        secret["offset"] = np.asarray([offset], np.float32)
    if kernel == "POLY":
        public["degree"] = int(degree)
    return public, secret


def _kernel(
    x: Array, vectors: Array, kind: str, gamma: Array | None, offset: Array | None, degree: int
) -> Array:
    """Kernel of every row with every support vector, (batch, vectors)."""
    products = x @ vectors.T
    if kind == "LINEAR":
        return products
    if kind == "RBF":
        # |x - v|^2 from squares and one product: the differences would be (batch, vectors, features) numbers.
        squares = jnp.sum(x * x, axis=1, keepdims=True) + jnp.sum(vectors * vectors, axis=1)
        return jnp.exp(gamma * (2 * products - squares))
    inner = gamma * products + offset
    if kind == "SIGMOID":
        return jnp.tanh(inner)
    if kind == "POLY":
        return lax.integer_pow(inner, degree)
    raise NodeError(f"kernel {kind} is not known.", "use LINEAR, POLY, RBF or SIGMOID.")


@op(domain=ML, lift=_lift)
def SVMRegressor(
    X: Array,
    *,
    coefficients: Array,
    rho: Array,
    support_vectors: Array | None = None,
    gamma: Array | None = None,
    offset: Array | None = None,
    degree: int = 0,
    kernel_type: str = "LINEAR",
    n_supports: int = 0,
    n_targets: int = 1,
    one_class: int = 0,
    post_transform: str = "NONE",
) -> Array:
    x = X.reshape(X.shape[0], -1).astype(jnp.float32)
    if n_supports and support_vectors is not None:
        x = _kernel(x, support_vectors.reshape(n_supports, -1), kernel_type, gamma, offset, degree)
    score = x @ coefficients.reshape(-1, 1) + rho[0]
    if one_class:
        return jnp.where(score > 0, np.float32(1), np.float32(-1))
    return post_transformed(score, post_transform)


@op(domain=ML, lift=_lift)
def SVMClassifier(
    X: Array,
    *,
    coefficients: Array,
    rho: Array,
    support_vectors: Array | None = None,
    prob_a: Array | None = None,
    prob_b: Array | None = None,
    gamma: Array | None = None,
    offset: Array | None = None,
    degree: int = 0,
    kernel_type: str = "LINEAR",
    post_transform: str = "NONE",
    vectors_per_class: Sequence[int] = (),
    classlabels_ints: Sequence[int] = (),
    classlabels_strings: Sequence[str] = (),
) -> tuple[Array, Array]:
    """Index of the class (batch,), and scores of the classes, or without probabilities of their pairs."""
    classes = max(len(classlabels_ints), len(classlabels_strings), 1)
    if not sum(vectors_per_class):
        x = X.reshape(X.shape[0], -1).astype(jnp.float32)
        scores = x @ coefficients.reshape(classes, -1).T + rho[0]
        return argmax(scores, 1, keepdims=False), post_transformed(scores, post_transform)
    scores = SVMDecisions(
        X,
        coefficients=coefficients,
        rho=rho,
        support_vectors=support_vectors,
        gamma=gamma,
        offset=offset,
        degree=degree,
        kernel_type=kernel_type,
        vectors_per_class=vectors_per_class,
    )
    label = _voted(scores, classes)
    if prob_a is not None and prob_b is not None:
        # A pair's sigmoid is that of the second class.
        scores = _coupled(1 - lax.logistic(scores * prob_a + prob_b), classes)
    elif classes == 2:
        scores = jnp.concatenate([-scores, scores], axis=1)
    return label, post_transformed(scores, post_transform)


@op(domain=INTERNAL)
def SVMDecisions(
    X: Array,
    *,
    coefficients: Array,
    rho: Array,
    support_vectors: Array | None,
    gamma: Array | None = None,
    offset: Array | None = None,
    degree: int = 0,
    kernel_type: str = "LINEAR",
    vectors_per_class: Sequence[int] = (),
) -> Array:
    """Decision values of one class against another, (batch, pairs); positive for the first."""
    if support_vectors is None:
        raise NodeError("it has no support vectors.", "export the model again.")
    x = X.reshape(X.shape[0], -1).astype(jnp.float32)
    vectors = support_vectors.reshape(sum(vectors_per_class), -1)
    kernel = _kernel(x, vectors, kernel_type, gamma, offset, degree)
    rows = coefficients.reshape(len(vectors_per_class) - 1, -1)
    ends = np.cumsum(vectors_per_class)
    columns = []
    for i, j in _pairs(len(vectors_per_class)):
        parts = [jnp.zeros(int(count), jnp.float32) for count in vectors_per_class]
        parts[i] = rows[j - 1, ends[i] - vectors_per_class[i] : ends[i]]
        parts[j] = rows[i, ends[j] - vectors_per_class[j] : ends[j]]
        columns.append(jnp.concatenate(parts))
    return kernel @ jnp.stack(columns, axis=1) + rho


@op(domain=INTERNAL)
def PairProbabilities(X: Array) -> Array:
    """Probabilities of two classes, (batch, 2), from the logit of the second, (batch, 1).

    libsvm's own are within 0.0025 of them; the data owner's step of that name gives libsvm's.
    """
    second = lax.logistic(X)
    return jnp.concatenate([1 - second, second], axis=1)


def _pairs(classes: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(classes) for j in range(i + 1, classes)]


def _voted(scores: Array, classes: int) -> Array:
    """The class that wins most of its pairs; of several, the first."""
    wins = (scores > 0).astype(jnp.int32)
    if classes == 2:
        return 1 - wins[:, 0]
    pairs = _pairs(classes)
    change = np.zeros((len(pairs), classes), np.int32)
    for row, (i, j) in enumerate(pairs):
        change[row, i], change[row, j] = 1, -1
    return argmax(wins @ change + np.arange(classes, dtype=np.int32), 1, keepdims=False)


def _coupled(chances: Array, classes: int) -> Array:
    """Probabilities of the classes from those of pairs.

    They minimise the disagreement with the pairs (Wu, Lin, Weng: Probability estimates for multi-class
    classification by pairwise coupling, JMLR 5, 2004, second method): proportional to ``inverse(Q) @ 1``, and
    so to ``adjugate(Q) @ 1``, which needs no small divisor. libsvm iterates until 0.005 / classes from it.

    Args:
        chances: (batch, pairs), that of the first class of each pair.
        classes: number of classes.
    """
    if classes == 2:
        return jnp.concatenate([chances, 1 - chances], axis=1)
    if classes > _LARGEST_COUPLING:
        raise NodeError(
            f"probabilities of {classes} classes from those of pairs are too inexact in a fixed-point ring.",
            "export raw scores (probability=False), or calibrate with CalibratedClassifierCV.",
        )
    wins = [[jnp.zeros_like(chances[:, 0])] * classes for _ in range(classes)]
    for index, (i, j) in enumerate(_pairs(classes)):
        wins[i][j], wins[j][i] = chances[:, index], 1 - chances[:, index]
    won = jnp.stack([jnp.stack(row, axis=-1) for row in wins], axis=-2)  # (batch, i, j): i beats j
    diagonal = jnp.sum(won * won, axis=1)
    eye = jnp.eye(classes, dtype=jnp.float32)
    matrix = diagonal[:, :, None] * eye - won * jnp.swapaxes(won, 1, 2)
    weights = jnp.abs(jnp.sum(_adjugate(matrix), axis=2))
    return weights * (1 / jnp.sum(weights, axis=1, keepdims=True))


def _adjugate(matrix: Array) -> Array:
    """By Faddeev and LeVerrier: products and traces only. (batch, n, n)."""
    size = matrix.shape[-1]
    eye = jnp.eye(size, dtype=jnp.float32)
    current = jnp.broadcast_to(eye, matrix.shape)
    for step in range(1, size):
        # Elementwise, since SPU runs a batch of small products one after another.
        product = jnp.sum(matrix[:, :, :, None] * current[:, None, :, :], axis=2) if step > 1 else matrix
        trace = jnp.sum(product * eye, axis=(1, 2))
        current = product - trace[:, None, None] * np.float32(1 / step) * eye
    return current
