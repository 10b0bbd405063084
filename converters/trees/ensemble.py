"""Tree ensembles in one form, whichever operator they come from.

Every split of the standard becomes one test, ``XOR over k of (x[feature] <= thresholds[k])``:

- ``x <= t`` is itself; ``x < t`` is ``x <= t'``, t' the float32 before t; ``>=`` and ``>`` swap the branches;
- ``x == v`` is ``(x <= v) XOR (x <= v')`` with v' the float32 before v; ``!=`` swaps the branches;
- membership in a set is the XOR of the equalities, of which at most one holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converters.errors import NodeError

__all__ = ["MODES", "NEVER", "Ensemble", "canonical_ensemble"]

NDArray = np.ndarray[Any, Any]

NEVER = np.float32(-(2.0**41))
"""A threshold that no feature is below: it fills splits that need fewer comparisons than others."""

MODES = (
    "BRANCH_LEQ",
    "BRANCH_LT",
    "BRANCH_GTE",
    "BRANCH_GT",
    "BRANCH_EQ",
    "BRANCH_NEQ",
    "BRANCH_MEMBER",
)
"""Tests of a split, in the order of the numbers that TreeEnsemble gives them."""
_SWAPPED = {"BRANCH_GTE": "BRANCH_LT", "BRANCH_GT": "BRANCH_LEQ", "BRANCH_NEQ": "BRANCH_EQ"}
_LARGEST_SET = 32
"""Members; each costs two comparisons in every split of the ensemble."""


@dataclass(frozen=True)
class Ensemble:
    """Binary trees. A child is a split's index, or ``~leaf`` (negative) for a leaf."""

    roots: NDArray
    """(trees,) int: children as below."""
    features: NDArray
    """(splits,) int32: column of the input."""
    thresholds: NDArray
    """(splits, comparisons) float32, any value; see the module's description."""
    true_child: NDArray
    """(splits,) int: where rows go for which the test holds."""
    false_child: NDArray
    """(splits,) int."""
    leaf_values: NDArray
    """(leaves, targets) float32."""
    tracks_missing: bool = False
    """Whether the file says where missing values go."""

    @property
    def comparisons(self) -> int:
        """Comparisons of each split."""
        return int(self.thresholds.shape[1])

    def levels(self) -> list[NDArray]:
        """Indices of the splits by depth, tree by tree.

        Raises:
            NodeError: a split is its own descendant.
        """
        found: list[NDArray] = []
        level = self.roots[self.roots >= 0]
        while level.size:
            if len(found) > self.features.size:
                raise NodeError("a tree holds a cycle.", "export the model again.")
            found.append(level)
            children = np.stack([self.true_child[level], self.false_child[level]], 1).reshape(-1)
            level = children[children >= 0]
        return found

    @property
    def depth(self) -> int:
        """Splits on the longest path."""
        return len(self.levels())

    def largest_tree(self) -> int:
        """Leaves of the tree that has most."""
        owner = np.full(self.features.size, -1)
        owner[self.roots[self.roots >= 0]] = np.flatnonzero(self.roots >= 0)
        for level in self.levels():
            for children in (self.true_child[level], self.false_child[level]):
                owner[children[children >= 0]] = owner[level[children >= 0]]
        return int(np.bincount(owner[owner >= 0], minlength=1).max()) + 1


def canonical_ensemble(
    *,
    modes: Sequence[str],
    members: Sequence[tuple[float, ...]],
    true_child: NDArray,
    false_child: NDArray,
    roots: NDArray,
    features: NDArray,
    leaf_values: NDArray,
    tracks_missing: bool,
) -> Ensemble:
    """An ensemble from splits of any mode.

    Args:
        modes: of each split, one of `MODES`.
        members: of each split, the value that it compares with, or the values of its set.
        true_child: as in `Ensemble`, and so are the other arguments.
        false_child: see there.
        roots: see there.
        features: see there.
        leaf_values: see there.
        tracks_missing: see there.

    Raises:
        NodeError: a mode is not known, or a set is too large.
    """
    unknown = sorted(set(modes) - set(MODES))
    if unknown:
        raise NodeError(f"split mode {', '.join(unknown)} is not known.", "export the model again.")
    if max((len(own) for own in members), default=0) > _LARGEST_SET:
        raise NodeError(
            f"a split tests membership in more than {_LARGEST_SET} values.",
            "train with one-hot columns for categories, or with fewer of them.",
        )
    swap = np.array([mode in _SWAPPED for mode in modes], bool)
    tests = [_test(_SWAPPED.get(mode, mode), own) for mode, own in zip(modes, members, strict=True)]
    width = max((len(test) for test in tests), default=1)
    thresholds = np.full((len(tests), width), NEVER, np.float32)
    for row, test in zip(thresholds, tests, strict=True):
        row[: len(test)] = test
    return Ensemble(
        roots=roots,
        features=features.astype(np.int32),
        thresholds=thresholds,
        true_child=np.where(swap, false_child, true_child),
        false_child=np.where(swap, true_child, false_child),
        leaf_values=leaf_values.astype(np.float32),
        tracks_missing=tracks_missing,
    )


def _test(mode: str, values: Iterable[float]) -> list[np.float32]:
    """Thresholds whose comparisons XOR to the test, on float32 features.

    A double becomes the nearest float32, as the feature that is compared with it does, so that ties stay.
    """
    if mode == "BRANCH_LEQ":
        return [np.float32(value) for value in values]
    if mode == "BRANCH_LT":
        return [_below(value) for value in values]
    return [bound for value in values for bound in (np.float32(value), _below(value))]


def _below(value: float) -> np.float32:
    """The float32 before the value."""
    return np.float32(np.nextafter(np.float32(value), np.float32(-np.inf)))
