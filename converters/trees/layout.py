"""From an ensemble to the arrays that are shared, and what of the trees' shape stays visible in them.

In all layouts the splits' features are an int32 one-hot matrix, so which column a split reads is as secret as
its threshold, and choosing it is one product that changes no bit of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.errors import NodeError
from converters.trees.ensemble import Ensemble

__all__ = ["Layout", "complete", "describe", "hidden_is_complete", "path_blocks", "public"]

NDArray = np.ndarray[Any, Any]

_LARGEST_PADDING = 6
"""Factor of splits that padding to complete trees may add before path matrices are cheaper."""
_LARGEST_BLOCK = 1 << 20
"""Elements of one block-diagonal matrix of paths; 8 MiB a share."""


@dataclass(frozen=True)
class Layout:
    """Arrays of an ensemble for one operator of the internal domain."""

    op: str
    arrays: dict[str, NDArray]
    """Secret: ``selection`` (features, splits) int32, ``thresholds`` (splits, comparisons) float32,
    ``leaves`` (leaves, targets) float32, and for blocks ``paths`` and ``lengths``."""
    structure: dict[str, Any] = field(default_factory=dict)
    """Public: sizes, and the branching where it is public."""


def hidden_is_complete(ensemble: Ensemble) -> bool:
    """Whether padding to complete trees is the cheaper way to hide the topology."""
    return bool(2**ensemble.depth <= _LARGEST_PADDING * ensemble.largest_tree())


def complete(ensemble: Ensemble, width: int) -> Layout:
    """Every tree padded to a complete one of the largest depth: only the depth and the count show.

    A split that pads reads no feature and tests 0 <= 0; both of its branches hold the same leaf.
    """
    depth = max(ensemble.depth, 1)
    row = ensemble.roots.reshape(-1, 1)
    chosen, counts = [], []
    for _ in range(depth):
        chosen.append(row)
        counts.append(row.shape[1])
        children = [
            np.where(row >= 0, _at(side, row), row) for side in (ensemble.true_child, ensemble.false_child)
        ]
        row = np.stack(children, axis=2).reshape(row.shape[0], -1)
    splits = np.concatenate([level.reshape(-1) for level in chosen])
    return Layout(
        "CompleteTrees",
        {**_tests(ensemble, splits, width), "leaves": ensemble.leaf_values[~row.reshape(-1)]},
        {"trees": int(row.shape[0]), "depth": depth},
    )


def public(ensemble: Ensemble, width: int) -> Layout:
    """The trees as they are: their branching is part of the program, and nothing else is.

    ``routes`` holds for each level two arrays of positions among the children of the level's splits (all the
    true ones, then all the false ones): those that are splits, which make the next level, and the leaves.
    """
    levels = ensemble.levels()
    routes, leaves = [], [~ensemble.roots[ensemble.roots < 0]]
    ordered = []
    level = ensemble.roots[ensemble.roots >= 0]
    for _ in levels:
        ordered.append(level)
        children = np.concatenate([ensemble.true_child[level], ensemble.false_child[level]])
        inner = np.flatnonzero(children >= 0)
        ends = np.flatnonzero(children < 0)
        routes.append((inner, ends))
        leaves.append(~children[ends])
        level = children[inner]
    owner = _owners(ensemble, ordered, routes)
    return Layout(
        "PublicTrees",
        {
            **_tests(ensemble, np.concatenate(ordered) if ordered else np.zeros(0, int), width),
            "leaves": ensemble.leaf_values[np.concatenate(leaves)],
        },
        {
            "routes": tuple(routes),
            "constant_trees": int((ensemble.roots < 0).sum()),
            "trees": int(ensemble.roots.size),
            "owner": owner,
        },
    )


def path_blocks(ensemble: Ensemble, width: int) -> Layout:
    """Every tree as the same number of splits and leaves, its paths a secret matrix.

    A leaf's column holds 1 for each split that its path leaves by the true branch, -1 by the false one; with
    bits of the tests, the product is at most the number of 1s, and equal to it for the leaf reached alone.
    Trees stand in block-diagonal groups, since a product of two large matrices costs as few messages as one
    of two small ones.
    """
    leaves = ensemble.largest_tree()
    splits = leaves - 1
    trees = int(ensemble.roots.size)
    group = max(1, min(trees, int((_LARGEST_BLOCK / max(splits * leaves, 1)) ** 0.5)))
    groups = -(-trees // group)
    if splits * leaves > _LARGEST_BLOCK:
        raise NodeError(
            f"a tree has {leaves} leaves: its paths are too large a matrix to hide the topology.",
            "limit the trees' leaves, or choose tree_topology='public'.",
        )
    chosen = np.full((groups * group, splits), -1)
    values = np.zeros((groups * group, leaves, ensemble.leaf_values.shape[1]), np.float32)
    paths = np.zeros((groups, group * splits, group * leaves), np.int32)
    lengths = np.full((groups * group, leaves), 1, np.int32)  # of unused columns: never reached
    for tree, root in enumerate(ensemble.roots.tolist()):
        block, place = divmod(tree, group)
        own_splits, own_leaves, matrix = _paths(ensemble, root)
        chosen[tree, : len(own_splits)] = own_splits
        values[tree, : len(own_leaves)] = ensemble.leaf_values[own_leaves]
        lengths[tree, : len(own_leaves)] = (matrix > 0).sum(axis=0)
        rows, columns = place * splits, place * leaves
        paths[block, rows : rows + matrix.shape[0], columns : columns + matrix.shape[1]] = matrix
    return Layout(
        "HiddenTrees",
        {
            **_tests(ensemble, chosen.reshape(-1), width),
            "leaves": values.reshape(groups * group * leaves, -1),
            "paths": paths,
            "lengths": lengths.reshape(-1),
        },
        {"trees": trees, "leaf_count": leaves},
    )


def describe(layout: Layout, ensemble: Ensemble) -> str:
    """What the layout lets every party see, for the manifest."""
    unseen = "features, thresholds and leaf values are secret"
    trees = f"{ensemble.roots.size} tree{'s' if ensemble.roots.size != 1 else ''}"
    if layout.op == "PublicTrees":
        return f"{trees}: the branching of each tree is public; {unseen}."
    if layout.op == "CompleteTrees":
        return f"{trees}: their number and largest depth ({layout.structure['depth']}) are public; {unseen}."
    return (
        f"{trees}: their number and largest count of leaves ({ensemble.largest_tree()}) are public; {unseen}."
    )


def _at(values: NDArray, index: NDArray) -> NDArray:
    """``values[index]`` where there is any value; what stands for a leaf is not used."""
    return values[np.maximum(index, 0)] if values.size else np.zeros_like(index)


def _tests(ensemble: Ensemble, splits: NDArray, width: int) -> dict[str, NDArray]:
    """Selection and thresholds of the given splits; a negative one pads."""
    if ensemble.features.size and int(ensemble.features.max()) >= width:
        raise NodeError(
            f"a split reads column {int(ensemble.features.max())}, the input has {width} columns.",
            "give the input's shape as input_shapes={...}.",
        )
    real = splits >= 0
    selection = np.zeros((width, splits.size), np.int32)
    selection[_at(ensemble.features, splits)[real], np.flatnonzero(real)] = 1
    thresholds = np.zeros((splits.size, ensemble.comparisons), np.float32)
    thresholds[real] = ensemble.thresholds[splits[real]]
    return {"selection": selection, "thresholds": thresholds}


def _owners(ensemble: Ensemble, ordered: list[NDArray], routes: list[tuple[NDArray, NDArray]]) -> NDArray:
    """The tree of each leaf, in the leaves' order; ensembles that take a minimum need it."""
    trees = np.flatnonzero(ensemble.roots >= 0)
    owners = [np.flatnonzero(ensemble.roots < 0)]
    for _, (inner, ends) in zip(ordered, routes, strict=True):
        both = np.concatenate([trees, trees])
        owners.append(both[ends])
        trees = both[inner]
    return np.concatenate(owners)


def _paths(ensemble: Ensemble, root: int) -> tuple[list[int], list[int], NDArray]:
    """Splits and leaves of one tree, and the matrix of its paths (splits, leaves)."""
    splits: list[int] = []
    ends: list[tuple[int, tuple[tuple[int, int], ...]]] = []
    pending: list[tuple[int, tuple[tuple[int, int], ...]]] = [(root, ())]
    while pending:
        child, path = pending.pop()
        if child < 0:
            ends.append((~child, path))
            continue
        position = len(splits)
        splits.append(child)
        pending.append((int(ensemble.false_child[child]), (*path, (position, -1))))
        pending.append((int(ensemble.true_child[child]), (*path, (position, 1))))
    matrix = np.zeros((len(splits), len(ends)), np.int32)
    for column, (_, path) in enumerate(ends):
        for position, sign in path:
            matrix[position, column] = sign
    return splits, [leaf for leaf, _ in ends], matrix
