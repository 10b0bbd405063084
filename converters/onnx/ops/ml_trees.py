"""Tree ensembles. The standard's three operators give the shape of their results here, which is asked for
before `converters.onnx.trees` puts operators of the internal domain in their place; those compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from converters.errors import NodeError
from converters.onnx.ops.ml_linear import post_transformed
from converters.onnx.registry import INTERNAL, ML, LiftWeights, op
from converters.trees.ensemble import Ensemble
from converters.trees.formulations import (
    boolean_paths,
    level_traversal,
    mux_leaves,
    path_sums,
    public_paths,
    tests,
)
from converters.trees.read import ensemble_of_lists, ensemble_of_v5

Array = Any
NDArray = np.ndarray[Any, Any]
Attributes = dict[str, Any]

_LARGE_BATCH = 16
"""Rows from which fewer comparisons are worth more rounds."""
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def _lifted(read: Callable[[Attributes], Attributes]) -> LiftWeights:
    """Trees from the raw attributes; what is wrong with them is said when the node's turn comes."""

    def lift(attrs: Attributes) -> tuple[Attributes, dict[str, NDArray]]:
        try:
            return read(attrs), {}
        except NodeError as error:
            return {"refusal": (error.reason, error.remedy)}, {}
        except (KeyError, IndexError, ValueError) as error:
            reason = f"its attributes do not describe trees ({type(error).__name__})."
            return {"refusal": (reason, "export the model again.")}, {}

    return lift


def _base(attrs: Attributes) -> NDArray:
    values = attrs.get("base_values_as_tensor")
    return np.asarray(values if values is not None else attrs.get("base_values", ()), np.float32).reshape(-1)


def _classifier(attrs: Attributes) -> Attributes:
    names = ("classlabels_int64s", "classlabels_strings")
    labels = {name: tuple(attrs[name]) for name in names if attrs.get(name)}
    classes = max((len(own) for own in labels.values()), default=0)
    if classes == 1:
        labels = {}  # the standard's labels are then 0 and 1
    ids = np.asarray(attrs["class_ids"], np.int64)
    # Binary classifiers write the votes of one class alone; whichever its id, they are those of the second.
    one_column = classes <= 2 and np.unique(ids).size == 1
    if one_column:
        attrs = {**attrs, "class_ids": np.zeros_like(ids)}
    ensemble = ensemble_of_lists(attrs, "class", 1 if one_column else classes)
    return {
        **labels,
        "ensemble": ensemble,
        "base": _base(attrs),
        "post_transform": attrs.get("post_transform", "NONE"),
        "shares": one_column and bool((ensemble.leaf_values >= 0).all()),
    }


def _regressor(attrs: Attributes) -> Attributes:
    return {
        "ensemble": ensemble_of_lists(attrs, "target", int(attrs.get("n_targets", 1))),
        "base": _base(attrs),
        "aggregate_function": attrs.get("aggregate_function", "SUM"),
        "post_transform": attrs.get("post_transform", "NONE"),
    }


def _version_5(attrs: Attributes) -> Attributes:
    return {
        "ensemble": ensemble_of_v5(attrs),
        "base": np.zeros(0, np.float32),
        "aggregate_function": _AGGREGATES[attrs.get("aggregate_function", 1)],
        "post_transform": _TRANSFORMS[attrs.get("post_transform", 0)],
    }


@op(domain=ML, lift=_lifted(_classifier))
def TreeEnsembleClassifier(
    X: Array,
    *,
    ensemble: Ensemble | None = None,
    base: NDArray | None = None,
    post_transform: str = "NONE",
    shares: bool = False,
    classlabels_int64s: Sequence[int] = (),
    classlabels_strings: Sequence[str] = (),
    refusal: tuple[str, str] | None = None,
) -> tuple[Array, Array]:
    """Index of the class (batch,), scores (batch, classes). ``shares``: votes are parts of a probability."""
    if refusal is not None:
        raise NodeError(*refusal)
    classes = max(len(classlabels_int64s), len(classlabels_strings), 2)
    return jnp.zeros(X.shape[0], jnp.int32), jnp.zeros((X.shape[0], classes), jnp.float32)


@op(domain=ML, lift=_lifted(_regressor))
def TreeEnsembleRegressor(
    X: Array,
    *,
    ensemble: Ensemble | None = None,
    base: NDArray | None = None,
    aggregate_function: str = "SUM",
    post_transform: str = "NONE",
    refusal: tuple[str, str] | None = None,
) -> Array:
    if ensemble is None or refusal is not None:
        raise NodeError(*(refusal or ("it holds no trees.",)))
    return jnp.zeros((X.shape[0], ensemble.leaf_values.shape[1]), jnp.float32)


op(domain=ML, name="TreeEnsemble", since=5, lift=_lifted(_version_5))(TreeEnsembleRegressor)


@op(domain=INTERNAL)
def PostTransform(X: Array, *, transform: str) -> Array:
    """A ``post_transform`` for which ai.onnx has no operator."""
    return post_transformed(X, transform)


@op(domain=INTERNAL)
def CompleteTrees(
    X: Array,
    *,
    selection: Array,
    thresholds: Array,
    leaves: Array,
    trees: int,
    depth: int,
    aggregate: str = "SUM",
    formulation: str = "auto",
) -> Array:
    """Scores (batch, targets) of trees padded to complete ones."""
    x = X.astype(jnp.float32)
    if formulation == "auto":
        formulation = "level" if X.shape[0] >= _LARGE_BATCH else "boolean"
    if formulation == "mux":
        values = mux_leaves(tests(x, selection, thresholds), leaves, trees, depth)
        return jnp.sum(values, axis=1) if aggregate == "SUM" else _extreme(values, aggregate)
    if formulation == "level":
        reached = level_traversal(x, selection, thresholds, trees, depth)
    else:
        reached = boolean_paths(tests(x, selection, thresholds), trees, depth).astype(jnp.int32)
    owner = np.repeat(np.arange(trees), 1 << depth)
    return _aggregated(reached.reshape(X.shape[0], -1), leaves, owner, trees, aggregate)


@op(domain=INTERNAL)
def PublicTrees(
    X: Array,
    *,
    selection: Array,
    thresholds: Array,
    leaves: Array,
    routes: Sequence[tuple[NDArray, NDArray]],
    constant_trees: int,
    owner: NDArray,
    trees: int,
    aggregate: str = "SUM",
) -> Array:
    """Scores (batch, targets) of trees whose branching is public."""
    outcome = tests(X.astype(jnp.float32), selection, thresholds)
    reached = public_paths(outcome, routes, constant_trees).astype(jnp.int32)
    return _aggregated(reached, leaves, owner, trees, aggregate)


@op(domain=INTERNAL)
def HiddenTrees(
    X: Array,
    *,
    selection: Array,
    thresholds: Array,
    leaves: Array,
    paths: Array,
    lengths: Array,
    trees: int,
    leaf_count: int,
    aggregate: str = "SUM",
) -> Array:
    """Scores (batch, targets) of trees whose branching is a secret matrix."""
    outcome = tests(X.astype(jnp.float32), selection, thresholds)
    reached = path_sums(outcome, paths, lengths).astype(jnp.int32)
    return _aggregated(reached, leaves, np.arange(reached.shape[1]) // leaf_count, trees, aggregate)


def _aggregated(reached: Array, leaves: Array, owner: NDArray, trees: int, aggregate: str) -> Array:
    """Sum, or smallest or largest over the trees, of the leaves reached; integers times reals are exact."""
    if aggregate == "SUM":
        return jnp.matmul(reached, leaves)
    values = [jnp.matmul(reached[:, owner == tree], leaves[owner == tree]) for tree in range(trees)]
    return _extreme(jnp.stack(values, axis=1), aggregate)


def _extreme(values: Array, aggregate: str) -> Array:
    return jnp.min(values, axis=1) if aggregate == "MIN" else jnp.max(values, axis=1)
