"""Reductions. From opset 13 (ReduceSum) or 18 (the others) the axes are an input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from converters.onnx.ops.layout import ints
from converters.onnx.registry import op

Array = Any
Static = Any
Reduction = Callable[..., Array]


def _sum(x: Array, axis: Any, keepdims: bool) -> Array:
    return jnp.sum(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


def _mean(x: Array, axis: Any, keepdims: bool) -> Array:
    count = x.size if axis is None else int(np.prod([x.shape[a] for a in axis]))
    total = _sum(x, axis, keepdims)
    return total * np.float32(1 / max(count, 1)) if x.dtype.kind == "f" else total // count


def _max(x: Array, axis: Any, keepdims: bool) -> Array:
    if x.dtype == jnp.bool_:
        return jnp.any(x, axis=axis, keepdims=keepdims)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    return jnp.max(x, axis=axis, keepdims=keepdims, initial=lowest if x.size == 0 else None)


def _min(x: Array, axis: Any, keepdims: bool) -> Array:
    if x.dtype == jnp.bool_:
        return jnp.all(x, axis=axis, keepdims=keepdims)
    highest = np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).max
    return jnp.min(x, axis=axis, keepdims=keepdims, initial=highest if x.size == 0 else None)


def _prod(x: Array, axis: Any, keepdims: bool) -> Array:
    return jnp.prod(x, axis=axis, keepdims=keepdims, dtype=x.dtype)


def _l1(x: Array, axis: Any, keepdims: bool) -> Array:
    return _sum(jnp.abs(x), axis, keepdims)


def _l2(x: Array, axis: Any, keepdims: bool) -> Array:
    return jnp.sqrt(_sum(x * x, axis, keepdims)).astype(x.dtype)


def _sum_square(x: Array, axis: Any, keepdims: bool) -> Array:
    return _sum(x * x, axis, keepdims)


def _log_sum(x: Array, axis: Any, keepdims: bool) -> Array:
    return jnp.log(_sum(x, axis, keepdims))


def _log_sum_exp(x: Array, axis: Any, keepdims: bool) -> Array:
    if x.size == 0:
        return jnp.log(_sum(x, axis, keepdims))
    # jax.nn.logsumexp asks whether the largest value is finite, which SPU cannot.
    largest = jnp.max(x, axis=axis, keepdims=True)
    total = jnp.log(_sum(jnp.exp(x - largest), axis, keepdims=True)) + largest
    return total if keepdims else jnp.squeeze(total, axis)


def _register(name: str, reduction: Reduction, axes_are_input_since: int) -> None:
    def with_attribute(data: Array, *, axes: Sequence[int] | None = None, keepdims: int = 1) -> Array:
        return _reduce(reduction, data, axes, keepdims, keep_without_axes=False)

    def with_input(
        data: Array, axes: Static = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Array:
        return _reduce(reduction, data, axes, keepdims, keep_without_axes=bool(noop_with_empty_axes))

    op(name=name, since=1)(with_attribute)
    op(name=name, since=axes_are_input_since, static=("axes",))(with_input)


def _reduce(reduction: Reduction, data: Array, axes: Any, keepdims: int, *, keep_without_axes: bool) -> Array:
    chosen = (
        None if axes is None or len(axes) == 0 else tuple(axis % max(data.ndim, 1) for axis in ints(axes))
    )
    if chosen is None and keep_without_axes:
        return reduction(
            data[None], axis=(0,), keepdims=False
        )  # of one element each: |x| for L1, x*x and so on
    if data.ndim == 0:
        return reduction(data[None], axis=(0,), keepdims=False)
    return reduction(data, axis=chosen or tuple(range(data.ndim)), keepdims=bool(keepdims))


_register("ReduceSum", _sum, 13)
_register("ReduceMean", _mean, 18)
_register("ReduceMax", _max, 18)
_register("ReduceMin", _min, 18)
_register("ReduceProd", _prod, 18)
_register("ReduceL1", _l1, 18)
_register("ReduceL2", _l2, 18)
_register("ReduceSumSquare", _sum_square, 18)
_register("ReduceLogSum", _log_sum, 18)
_register("ReduceLogSumExp", _log_sum_exp, 18)


def argmax(x: Array, axis: int, keepdims: bool, *, last: bool = False) -> Array:
    """Index of the first (or last) largest value: one maximum, one comparison, one product with 0, 1, 2, ….

    Ties need no second look: the index is taken from counting the ones before the first hit.
    """
    axis = axis % x.ndim
    if last:
        return x.shape[axis] - 1 - argmax(jnp.flip(x, axis), axis, keepdims)
    hits = (x >= jnp.max(x, axis=axis, keepdims=True)).astype(jnp.int32)
    before = jnp.cumsum(hits, axis=axis) < 1
    return jnp.sum(before.astype(jnp.int32), axis=axis, keepdims=keepdims)


@op()
def ArgMax(data: Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
    return argmax(data, axis, bool(keepdims), last=bool(select_last_index))


@op()
def ArgMin(data: Array, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Array:
    return argmax(-data, axis, bool(keepdims), last=bool(select_last_index))
