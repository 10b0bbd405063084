"""Selecting by index: free if the index is known, a product with a one-hot row if it is private."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from converters.errors import NodeError
from converters.onnx.ops.layout import ints
from converters.onnx.registry import INTERNAL, op

Array = Any
Static = Any


def one_hot(indices: Array, depth: int, dtype: Any) -> Array:
    """Integers -> one-hot rows along a new last axis; negative indices count from the end."""
    indices = jnp.where(indices < 0, indices + depth, indices)
    return (indices[..., None] == jnp.arange(depth, dtype=indices.dtype)).astype(dtype)


def is_known(indices: Array) -> bool:
    """Whether indices are numpy, that is, known while converting."""
    return isinstance(indices, np.ndarray)


def take(data: Array, indices: Array, axis: int) -> Array:
    """``data`` at ``indices`` along ``axis``; secret indices cost one product."""
    axis = axis % data.ndim
    if is_known(indices):
        return _take_known(data, np.asarray(indices), axis)
    if data.dtype == jnp.bool_:
        return take(data.astype(jnp.int32), indices, axis) != 0
    rows = one_hot(indices, data.shape[axis], data.dtype)
    picked = jnp.tensordot(rows, data, axes=([rows.ndim - 1], [axis]))
    order = [*range(indices.ndim, indices.ndim + axis), *range(indices.ndim)]
    return jnp.transpose(picked, [*order, *range(indices.ndim + axis, picked.ndim)])


def _take_known(data: Array, indices: np.ndarray[Any, Any], axis: int) -> Array:
    size = data.shape[axis]
    indices = np.where(indices < 0, indices + size, indices).astype(np.int64)
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise NodeError(f"an index lies outside dimension {axis} of shape {data.shape}.")
    flat = indices.reshape(-1)
    if flat.size and (np.diff(flat) == 1).all():
        picked = data[(slice(None),) * axis + (slice(int(flat[0]), int(flat[-1]) + 1),)]
    else:
        picked = jnp.take(data, flat, axis=axis)
    return picked.reshape(data.shape[:axis] + indices.shape + data.shape[axis + 1 :])


@op(prefers_static=("indices",))
def Gather(data: Array, indices: Array, *, axis: int = 0) -> Array:
    return take(data, indices, axis)


@op(since=11, prefers_static=("indices",))
def GatherElements(data: Array, indices: Array, *, axis: int = 0) -> Array:
    axis = axis % data.ndim
    data = data[tuple(slice(None) if a == axis else slice(0, n) for a, n in enumerate(indices.shape))]
    if is_known(indices):
        places = np.where(indices < 0, indices + data.shape[axis], indices).astype(np.int32)
        return jnp.take_along_axis(data, places, axis)
    rows = one_hot(jnp.moveaxis(indices, axis, -1), data.shape[axis], data.dtype)
    table = jnp.moveaxis(data, axis, -1)
    return jnp.moveaxis(jnp.einsum("...ij,...j->...i", rows, table), -1, axis)


@op(since=11, prefers_static=("indices",))
def GatherND(data: Array, indices: Array, *, batch_dims: int = 0) -> Array:
    depth = indices.shape[-1]
    inner = data.shape[batch_dims : batch_dims + depth]
    rows = data.reshape((*data.shape[:batch_dims], int(np.prod(inner)), *data.shape[batch_dims + depth :]))
    flat = _flat_index(indices, inner)
    if not batch_dims:
        return take(rows, flat, 0)
    lead = int(np.prod(data.shape[:batch_dims]))
    rows = rows.reshape((lead, *rows.shape[batch_dims:]))
    flat = flat.reshape((lead, *flat.shape[batch_dims:]))
    picked = jnp.stack([take(rows[i], flat[i], 0) for i in range(lead)])
    return picked.reshape(data.shape[:batch_dims] + picked.shape[1:])


def _flat_index(indices: Array, shape: tuple[int, ...]) -> Array:
    """Index tuples along the last axis -> positions in the flattened array."""
    flat: Array = 0
    for position, size in enumerate(shape):
        part = indices[..., position]
        namespace: Any = np if is_known(indices) else jnp
        flat = flat * size + namespace.where(part < 0, part + size, part)
    return flat


@op(name="Scatter", since=9, static=("indices",))
def Scatter_9(data: Array, indices: Static, updates: Array, *, axis: int = 0) -> Array:
    return ScatterElements(data, indices, updates, axis=axis)


@op(since=11, static=("indices",))
def ScatterElements(
    data: Array, indices: Static, updates: Array, *, axis: int = 0, reduction: str = "none"
) -> Array:
    axis = axis % data.ndim
    grid = list(np.indices(indices.shape))
    grid[axis] = np.where(indices < 0, indices + data.shape[axis], indices)
    flat = np.ravel_multi_index(grid, data.shape).reshape(-1)
    return _scatter(data.reshape(-1), flat, updates.reshape(-1), reduction).reshape(data.shape)


@op(since=11, static=("indices",))
def ScatterND(data: Array, indices: Static, updates: Array, *, reduction: str = "none") -> Array:
    depth = indices.shape[-1]
    rows = data.reshape((int(np.prod(data.shape[:depth])), *data.shape[depth:]))
    flat = np.asarray(_flat_index(indices, data.shape[:depth])).reshape(-1)
    updates = updates.reshape((flat.size, *data.shape[depth:]))
    return _scatter(rows, flat, updates, reduction).reshape(data.shape)


def _scatter(rows: Array, index: np.ndarray[Any, Any], updates: Array, reduction: str) -> Array:
    """Known positions make a scatter a gather from the rows and the updates together: no communication."""
    combine = {"add": jnp.add, "mul": jnp.multiply, "max": jnp.maximum, "min": jnp.minimum}
    updates = updates.astype(rows.dtype)
    remaining = np.arange(index.size)
    while remaining.size:
        _, first = np.unique(index[remaining], return_index=True)
        turn, remaining = remaining[first], np.delete(remaining, first)
        new = updates[turn]
        if reduction != "none":
            new = combine[reduction](rows[index[turn]], new)
        source = np.arange(rows.shape[0])
        source[index[turn]] = rows.shape[0] + np.arange(turn.size)
        rows = jnp.concatenate([rows, new])[source]
    return rows


@op(since=24, static=("write_indices",))
def TensorScatter(
    past_cache: Array, update: Array, write_indices: Static = None, *, axis: int = -2, mode: str = "linear"
) -> Array:
    axis = axis % past_cache.ndim
    size, count = past_cache.shape[axis], update.shape[axis]
    starts = np.zeros(past_cache.shape[0], np.int64) if write_indices is None else write_indices
    rows = []
    for row, new, start in zip(past_cache, update, ints(starts), strict=True):
        source = np.arange(size)
        positions = start + np.arange(count)
        source[positions % size if mode == "circular" else positions] = size + np.arange(count)
        rows.append(jnp.take(jnp.concatenate([row, new], axis - 1), source, axis=axis - 1))
    return jnp.stack(rows)


@op(since=9, static=("depth",))
def OneHot(indices: Array, depth: Static, values: Array, *, axis: int = -1) -> Array:
    hot = one_hot(indices.astype(jnp.int32), int(depth.reshape(-1)[0]), jnp.bool_)
    chosen = jnp.where(hot, values[1], values[0])
    return jnp.moveaxis(chosen, -1, axis % chosen.ndim)


@op(name="TopK", since=1)
def TopK_1(X: Array, *, k: int, axis: int = -1) -> tuple[Array, Array]:
    return TopK(X, np.asarray(k), axis=axis)


@op(since=10, static=("K",))
def TopK(X: Array, K: Static, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Array, Array]:
    """By ranks from a matrix of comparisons: one round of comparisons in place of a sort's many."""
    x = jnp.moveaxis(X, axis, -1)
    size, count = x.shape[-1], int(K.reshape(-1)[0])
    mine, other = x[..., :, None], x[..., None, :]
    better = other > mine if largest else other < mine
    earlier = np.arange(size)[None, :] < np.arange(size)[:, None]
    ahead = jnp.where(earlier, ~(mine > other if largest else mine < other), better)
    rank = jnp.sum(ahead.astype(jnp.int32), axis=-1)
    place = rank[..., None, :] == np.arange(count, dtype=np.int32)[:, None]
    values = jnp.sum(jnp.where(place, x[..., None, :], jnp.zeros((), x.dtype)), axis=-1, dtype=x.dtype)
    indices = jnp.sum(place.astype(jnp.int32) * np.arange(size, dtype=np.int32), axis=-1)
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(indices, -1, axis)


@op(static=("axis",), name="CumSum", since=11)
def CumSum(x: Array, axis: Static, *, exclusive: int = 0, reverse: int = 0) -> Array:
    return _cumulate(jnp.cumsum, x, int(axis.reshape(())), 0, exclusive, reverse)


@op(static=("axis",), since=26)
def CumProd(x: Array, axis: Static, *, exclusive: int = 0, reverse: int = 0) -> Array:
    return _cumulate(jnp.cumprod, x, int(axis.reshape(())), 1, exclusive, reverse)


def _cumulate(function: Any, x: Array, axis: int, neutral: int, exclusive: int, reverse: int) -> Array:
    axis = axis % x.ndim
    x = jnp.flip(x, axis) if reverse else x
    if exclusive:
        widths = [(1 if a == axis else 0, 0) for a in range(x.ndim)]
        x = jnp.pad(x, widths, constant_values=neutral)[(slice(None),) * axis + (slice(0, x.shape[axis]),)]
    total = function(x, axis=axis).astype(x.dtype)
    return jnp.flip(total, axis) if reverse else total


@op(domain=INTERNAL)
def ClassRow(index: Array) -> Array:
    """Class indices of any shape -> one row, as ArrayFeatureExtractor gives for one row of classes."""
    return index.reshape(1, -1)


@op(domain=INTERNAL)
def Lookup(index: Array, *, table: tuple[Any, ...]) -> Array:
    """Class labels for class indices, where the label is needed inside the model."""
    if isinstance(table[0], str):
        raise NodeError("labels are strings inside the model.", "use the label as an output only.")
    entries = np.asarray(table)
    labels = entries.astype(np.float32 if entries.dtype.kind == "f" else np.int32)
    if (labels == np.arange(labels.size)).all():
        return index
    return take(jnp.asarray(labels), index, 0)
