"""Tree ensembles from the attributes of the standard's operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from converters.errors import NodeError
from converters.trees.ensemble import MODES, Ensemble, canonical_ensemble

__all__ = ["ensemble_of_lists", "ensemble_of_v5"]

NDArray = np.ndarray[Any, Any]


def ensemble_of_lists(attrs: Mapping[str, Any], prefix: str, targets: int) -> Ensemble:
    """Trees of TreeEnsembleClassifier (``prefix`` "class") and TreeEnsembleRegressor ("target").

    Raises:
        NodeError: the lists do not describe trees.
    """
    modes = list(attrs["nodes_modes"])
    is_leaf = np.array([mode == "LEAF" for mode in modes], bool)
    # The place of each node of the lists as a child: splits count up from 0, leaves down from -1.
    place = np.where(is_leaf, -np.cumsum(is_leaf), np.cumsum(~is_leaf) - 1)
    trees = _ints(attrs, "nodes_treeids")
    lookup = _Lookup(trees, _ints(attrs, "nodes_nodeids"), place)
    inner = np.flatnonzero(~is_leaf)
    true_child = lookup(trees[inner], _ints(attrs, "nodes_truenodeids")[inner])
    false_child = lookup(trees[inner], _ints(attrs, "nodes_falsenodeids")[inner])
    values = np.zeros((int(is_leaf.sum()), targets), np.float64)
    voters = lookup(_ints(attrs, f"{prefix}_treeids"), _ints(attrs, f"{prefix}_nodeids"))
    votes = voters < 0
    at = (~voters[votes], _ints(attrs, f"{prefix}_ids")[votes])
    np.add.at(values, at, _floats(attrs, f"{prefix}_weights").astype(np.float64)[votes])
    return canonical_ensemble(
        roots=_roots(trees, place, np.concatenate([true_child, false_child])),
        features=_ints(attrs, "nodes_featureids")[inner],
        modes=[modes[i] for i in inner],
        members=[(float(value),) for value in _floats(attrs, "nodes_values")[inner]],
        true_child=true_child,
        false_child=false_child,
        leaf_values=values,
        tracks_missing=any(attrs.get("nodes_missing_value_tracks_true") or ()),
    )


class _Lookup:
    """(tree, node) -> place, for many at once."""

    def __init__(self, trees: NDArray, nodes: NDArray, places: NDArray) -> None:
        self.places = dict(
            zip(zip(trees.tolist(), nodes.tolist(), strict=True), places.tolist(), strict=True)
        )

    def __call__(self, trees: NDArray, nodes: NDArray) -> NDArray:
        """Raises NodeError where a node is not in the file."""
        keys = list(zip(trees.tolist(), nodes.tolist(), strict=True))
        if any(key not in self.places for key in keys):
            raise NodeError("a tree points to a node that is not in the file.", "export the model again.")
        return np.array([self.places[key] for key in keys], np.int64)


def _roots(trees: NDArray, places: NDArray, pointed: NDArray) -> NDArray:
    """For each tree, in the order of the file, the node that no other points to."""
    free = ~np.isin(places, pointed)
    _, first = np.unique(trees, return_index=True)
    if np.unique(trees[free]).size != first.size or int(free.sum()) != first.size:
        raise NodeError("a tree does not have exactly one root.", "export the model again.")
    return places[free]


def ensemble_of_v5(attrs: Mapping[str, Any]) -> Ensemble:
    """Trees of TreeEnsemble, which keeps splits and leaves in lists of their own.

    Raises:
        NodeError: the lists do not describe trees.
    """
    modes = [MODES[int(mode)] for mode in np.ravel(attrs["nodes_modes"])]
    weights = np.ravel(attrs["leaf_weights"]).astype(np.float64)
    targets = int(attrs.get("n_targets", 1))
    values = np.zeros((weights.size, targets))
    values[np.arange(weights.size), _ints(attrs, "leaf_targetids")] = weights

    def child(side: str) -> NDArray:
        ids, leaf = _ints(attrs, f"nodes_{side}nodeids"), _ints(attrs, f"nodes_{side}leafs") != 0
        return np.where(leaf, ~ids, ids)

    true_child, false_child = child("true"), child("false")
    roots = _ints(attrs, "tree_roots")
    degenerate = (true_child[roots] < 0) & (true_child[roots] == false_child[roots])
    return canonical_ensemble(
        roots=np.where(degenerate, true_child[roots], roots),
        features=_ints(attrs, "nodes_featureids"),
        modes=modes,
        members=_members(modes, np.ravel(attrs["nodes_splits"]), attrs.get("membership_values")),
        true_child=true_child,
        false_child=false_child,
        leaf_values=values,
        tracks_missing=any(attrs.get("nodes_missing_value_tracks_true") or ()),
    )


def _members(modes: Sequence[str], splits: NDArray, members: NDArray | None) -> list[tuple[float, ...]]:
    sets: list[list[float]] = [[]]
    for value in np.ravel(members if members is not None else ()):
        if np.isnan(value):
            sets.append([])
        else:
            sets[-1].append(float(value))
    rest = iter(sets)
    return [
        tuple(dict.fromkeys(next(rest, ()))) if mode == "BRANCH_MEMBER" else (float(value),)
        for mode, value in zip(modes, splits, strict=True)
    ]


def _ints(attrs: Mapping[str, Any], name: str) -> NDArray:
    return np.asarray(attrs.get(name) if attrs.get(name) is not None else (), np.int64).reshape(-1)


def _floats(attrs: Mapping[str, Any], name: str) -> NDArray:
    """A list of floats, or the tensor of doubles that may stand in its place."""
    tensor = attrs.get(f"{name}_as_tensor")
    return np.ravel(tensor if tensor is not None else attrs.get(name, ()))
