"""Pooling, one dimension after the other: a 3 x 3 maximum costs 4 comparisons for each element, not 8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from converters.onnx.ops.conv import resolved_pads
from converters.onnx.ops.index import one_hot
from converters.onnx.ops.public import public_fractions
from converters.onnx.ops.reduce import argmax
from converters.onnx.registry import op

Array = Any
Ints = Sequence[int]


@dataclass(frozen=True)
class Window:
    """The windows of a pooling over the spatial dimensions of one input."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    """Windows along each dimension."""

    def spans(self, sizes: Ints) -> list[tuple[int, int]]:
        """Padding such that the last window (of ``ceil_mode``, too) lies inside."""
        return [
            (front, max((count - 1) * stride + (width - 1) * gap + 1 - size - front, 0))
            for size, width, stride, gap, (front, _), count in zip(
                sizes, self.kernel, self.strides, self.dilations, self.pads, self.counts, strict=True
            )
        ]

    def along(self, x: Array, axis: int, position: int) -> Array:
        """The elements at one position of all windows along a spatial dimension (0, 1, …) of ``x``."""
        first = position * self.dilations[axis]
        last = first + (self.counts[axis] - 1) * self.strides[axis] + 1
        lead = x.ndim - len(self.kernel)
        return x[(slice(None),) * (lead + axis) + (slice(first, last, self.strides[axis]),)]


def window(
    sizes: Ints,
    kernel_shape: Ints,
    strides: Ints | None,
    dilations: Ints | None,
    pads: Ints | None,
    auto_pad: str,
    ceil_mode: int,
) -> Window:
    """The windows that the attributes of a pooling operator describe."""
    rank = len(sizes)
    steps, gaps = tuple(strides or [1] * rank), tuple(dilations or [1] * rank)
    margins = resolved_pads(sizes, kernel_shape, steps, gaps, pads, auto_pad)
    counts = []
    for size, width, step, gap, (front, behind) in zip(
        sizes, kernel_shape, steps, gaps, margins, strict=True
    ):
        room = size + front + behind - (width - 1) * gap - 1
        count = (-(-room // step) if ceil_mode else room // step) + 1
        if ceil_mode and (count - 1) * step >= size + front:
            count -= 1  # the last window would start behind the input
        counts.append(count)
    return Window(tuple(kernel_shape), steps, gaps, tuple(margins), tuple(counts))


def _reduce_windows(x: Array, shape: Window, combine: Callable[[Array, Array], Array]) -> Array:
    for axis, width in enumerate(shape.kernel):
        x = _tree(combine, [shape.along(x, axis, position) for position in range(width)])
    return x


def _tree(combine: Callable[[Array, Array], Array], parts: list[Array]) -> Array:
    """Pairs of pairs: the number of rounds is the logarithm of the number of parts."""
    while len(parts) > 1:
        pairs = [combine(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[len(pairs) * 2 :]
    return parts[0]


def _padded_for_max(X: Array, shape: Window) -> Array:
    widths = [(0, 0), (0, 0), *shape.spans(X.shape[2:])]
    if all(gap == 1 for gap in shape.dilations):
        return jnp.pad(X, widths, mode="edge")  # the edge is in every window that reaches beyond it
    lowest = np.finfo(np.float32).min if X.dtype.kind == "f" else np.iinfo(X.dtype).min
    return jnp.pad(X, widths, constant_values=lowest)


@op()
def MaxPool(
    X: Array,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
    output_count: int,
) -> Any:
    shape = window(X.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    padded = _padded_for_max(X, shape)
    if output_count == 1:
        return _reduce_windows(padded, shape, jnp.maximum)
    order = "F" if storage_order else "C"
    plane = np.arange(int(np.prod(X.shape[2:])), dtype=np.int32).reshape(X.shape[2:], order=order)  # type: ignore[call-overload]
    offsets = np.arange(X.shape[0] * X.shape[1], dtype=np.int32).reshape(*X.shape[:2], *[1] * plane.ndim)
    index = np.pad(offsets * plane.size + plane, [(0, 0), (0, 0), *shape.spans(X.shape[2:])], mode="edge")
    values, places = _all_windows(padded, shape), _all_windows(index, shape)
    hit = one_hot(argmax(values, -1, keepdims=False), values.shape[-1], jnp.int32)
    return jnp.max(values, axis=-1), jnp.sum(hit * places, axis=-1)


def _all_windows(x: Array, shape: Window) -> Array:
    """Every window's elements along a new last axis."""
    parts = [x]
    for axis, width in enumerate(shape.kernel):
        parts = [shape.along(part, axis, position) for part in parts for position in range(width)]
    return jnp.stack(parts, axis=-1)


def _sums(X: Array, shape: Window) -> Array:
    return _reduce_windows(jnp.pad(X, [(0, 0), (0, 0), *shape.spans(X.shape[2:])]), shape, jnp.add)


@op()
def AveragePool(
    X: Array,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    shape = window(X.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    counted = np.ones(X.shape[2:], np.float32)
    counted = np.pad(counted, shape.pads, constant_values=float(bool(count_include_pad)))
    surplus = [
        (0, max(front + size + behind - total, 0))
        for size, (front, behind), total in zip(
            X.shape[2:], shape.spans(X.shape[2:]), counted.shape, strict=True
        )
    ]
    number: Any = np.pad(counted, surplus)
    for axis, width in enumerate(shape.kernel):
        number = sum(shape.along(number, axis, position) for position in range(width))
    alike = (number == number.flat[0]).all()
    share = np.float32(1 / number.flat[0]) if alike else public_fractions(1 / number)
    return _sums(X, shape) * share


@op()
def LpPool(
    X: Array,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    p: int = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    shape = window(X.shape[2:], kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    return _root(_sums(_powered(X, p), shape), p)


def _powered(X: Array, p: int) -> Array:
    return jnp.abs(X) if p == 1 else X * X if p == 2 else jnp.power(jnp.abs(X), p)


def _root(X: Array, p: int) -> Array:
    return X if p == 1 else jnp.sqrt(X) if p == 2 else jnp.power(X, 1 / p)


@op()
def GlobalAveragePool(X: Array) -> Array:
    axes = tuple(range(2, X.ndim))
    return jnp.sum(X, axis=axes, keepdims=True) * np.float32(1 / np.prod(X.shape[2:]))


@op()
def GlobalMaxPool(X: Array) -> Array:
    return jnp.max(X, axis=tuple(range(2, X.ndim)), keepdims=True)


@op()
def GlobalLpPool(X: Array, *, p: int = 2) -> Array:
    return _root(jnp.sum(_powered(X, p), axis=tuple(range(2, X.ndim)), keepdims=True), p)


@op(static=("output_shape",))
def MaxUnpool(
    X: Array,
    I: Array,  # noqa: E741  the standard's name
    output_shape: Any = None,
    *,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    rank = X.ndim - 2
    steps, margins = strides or [1] * rank, pads or [0] * (2 * rank)
    own = [
        (X.shape[a + 2] - 1) * steps[a] + kernel_shape[a] - margins[a] - margins[a + rank]
        for a in range(rank)
    ]
    plane = int(np.prod(own))
    target = tuple(own) if output_shape is None else tuple(int(n) for n in output_shape)[-rank:]
    rows = one_hot(I.reshape(-1), X.shape[0] * X.shape[1] * plane, X.dtype)
    filled = (X.reshape(1, -1) @ rows).reshape((*X.shape[:2], *own))
    return jnp.pad(
        filled, [(0, 0), (0, 0), *((0, wide - size) for wide, size in zip(target, own, strict=True))]
    )
