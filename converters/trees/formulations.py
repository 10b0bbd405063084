"""Which leaf each row reaches, in JAX: shapes are (batch, ...), all trees at once.

Bits stay boolean shares, where AND costs one message and XOR none, and become numbers once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

__all__ = [
    "boolean_paths",
    "level_traversal",
    "margins",
    "mux_leaves",
    "path_sums",
    "public_paths",
    "tests",
]

Array = Any
NDArray = np.ndarray[Any, Any]


def margins(x: Array, selection: Array, thresholds: Array) -> Array:
    """``threshold - feature`` of every comparison, (batch, splits, comparisons).

    The one-hot matrix is of integers: a product of fixed-point numbers and integers is exact under MPC, one
    of two fixed-point numbers is off by a last bit, which is enough to flip a tie.
    """
    features = jnp.matmul(x, selection)
    return thresholds[None, :, :] - features[:, :, None]


def tests(x: Array, selection: Array, thresholds: Array) -> Array:
    """The outcome of every split, (batch, splits) bool."""
    holds = margins(x, selection, thresholds) >= 0
    return _xor_last(holds)


def boolean_paths(outcome: Array, trees: int, depth: int) -> Array:
    """Complete trees: whether each leaf is reached, (batch, trees, leaves) bool.

    Pairs of neighbouring levels are joined, then pairs of pairs: log2(depth) messages in place of depth.

    Args:
        outcome: (batch, splits), level by level, in each level tree by tree.
        trees: number of trees.
        depth: levels.
    """
    pieces = []
    for level in _by_level(outcome, trees, depth):
        pieces.append(jnp.stack([level, ~level], axis=-1))  # (batch, trees, splits of the level, 2)
    while len(pieces) > 1:
        joined = [_join(upper, lower) for upper, lower in zip(pieces[::2], pieces[1::2], strict=False)]
        pieces = joined + (pieces[-1:] if len(pieces) % 2 else [])
    return pieces[0].reshape(outcome.shape[0], trees, -1)


def public_paths(outcome: Array, routes: Sequence[tuple[NDArray, NDArray]], constant_trees: int) -> Array:
    """Trees whose branching is known: whether each leaf is reached, (batch, leaves) bool, as laid out."""
    batch = outcome.shape[0]
    found = [jnp.ones((batch, constant_trees), bool)] if constant_trees else []
    reached: Array = None
    start = 0
    for inner, ends in routes:
        count = (inner.size + ends.size) // 2
        level = outcome[:, start : start + count]
        start += count
        true = level if reached is None else reached & level
        false = ~level if reached is None else reached ^ true
        children = jnp.concatenate([true, false], axis=1)
        found.append(_columns(children, ends))
        reached = _columns(children, inner)
    return jnp.concatenate(found, axis=1)


def path_sums(outcome: Array, paths: Array, lengths: Array) -> Array:
    """Trees whose branching is a secret matrix: whether each leaf is reached, (batch, leaves) bool."""
    groups, splits, _ = paths.shape
    bits = outcome.astype(jnp.int32)
    sums = [jnp.matmul(bits[:, g * splits : (g + 1) * splits], paths[g]) for g in range(groups)]
    return jnp.concatenate(sums, axis=1) >= lengths


def level_traversal(x: Array, selection: Array, thresholds: Array, trees: int, depth: int) -> Array:
    """Complete trees, one comparison for each tree and level: (batch, trees, leaves) of 0 and 1, int32."""
    distance = margins(x, selection, thresholds)
    comparisons = distance.shape[2]
    reached = jnp.ones((x.shape[0], trees, 1), jnp.int32)
    start = 0
    for level in range(depth):
        count = trees << level
        own = distance[:, start : start + count].reshape(x.shape[0], trees, 1 << level, comparisons)
        start += count
        met = jnp.sum(reached[..., None] * own, axis=2)
        bit = _xor_last(met >= 0).astype(jnp.int32)[..., None]
        true = reached * bit
        reached = jnp.stack([true, reached - true], axis=-1).reshape(x.shape[0], trees, -1)
    return reached


def mux_leaves(outcome: Array, leaves: Array, trees: int, depth: int) -> Array:
    """Complete trees: the value of the leaf reached, (batch, trees, targets), chosen from the leaves up."""
    batch = outcome.shape[0]
    values = jnp.broadcast_to(
        leaves.reshape(1, trees, -1, leaves.shape[-1]), (batch, trees, 1 << depth, leaves.shape[-1])
    )
    for level in reversed(_by_level(outcome, trees, depth)):
        pairs = values.reshape(batch, trees, -1, 2, leaves.shape[-1])
        values = jnp.where(level[..., None], pairs[..., 0, :], pairs[..., 1, :])
    return values[:, :, 0]


def _by_level(outcome: Array, trees: int, depth: int) -> list[Array]:
    starts = [trees * ((1 << level) - 1) for level in range(depth + 1)]
    return [
        outcome[:, starts[level] : starts[level + 1]].reshape(outcome.shape[0], trees, 1 << level)
        for level in range(depth)
    ]


def _join(upper: Array, lower: Array) -> Array:
    """Paths through the upper levels, each continued by those of the subtree it leads to."""
    batch, trees, tops, exits = upper.shape
    below = lower.reshape(batch, trees, tops, exits, lower.shape[-1])
    return (upper[..., None] & below).reshape(batch, trees, tops, -1)


def _xor_last(bits: Array) -> Array:
    total = bits[..., 0]
    for index in range(1, bits.shape[-1]):
        total = total ^ bits[..., index]
    return total


def _columns(x: Array, positions: NDArray) -> Array:
    if positions.size == x.shape[1]:
        return x
    return jnp.take(x, positions.astype(np.int32), axis=1)
