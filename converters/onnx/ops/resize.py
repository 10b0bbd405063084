"""Interpolation. Sizes are known, so a resize is a product with a public matrix for each dimension: local."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from converters.errors import NodeError
from converters.onnx.ops.index import take
from converters.onnx.ops.public import public_fractions
from converters.onnx.registry import op

Array = Any
Static = Any
NDArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Axis:
    """One resized dimension."""

    size: int
    resized: int
    scale: float
    start: float = 0.0
    end: float = 1.0

    def coordinates(self, mode: str) -> NDArray:
        """Where each new element lies among the old ones, as the standard defines for each mode."""
        x = np.arange(self.resized, dtype=np.float64)
        if mode == "half_pixel":
            return (x + 0.5) / self.scale - 0.5
        if mode == "half_pixel_symmetric":
            offset = self.size / 2 * (1 - self.resized / (self.scale * self.size))
            return offset + (x + 0.5) / self.scale - 0.5
        if mode == "pytorch_half_pixel":
            return (x + 0.5) / self.scale - 0.5 if self.resized > 1 else np.zeros(1)
        if mode == "align_corners":
            return x * (self.size - 1) / (self.resized - 1) if self.resized > 1 else np.zeros(1)
        if mode == "asymmetric":
            return x / self.scale
        if mode == "tf_half_pixel_for_nn":
            return (x + 0.5) / self.scale
        if mode == "tf_crop_and_resize":
            last = self.size - 1
            if self.resized == 1:
                return np.array([0.5 * (self.start + self.end) * last])
            return self.start * last + x * (self.end - self.start) * last / (self.resized - 1)
        raise NodeError(f"coordinate_transformation_mode {mode!r} is not known.")


@dataclass(frozen=True)
class _Kernel:
    """How neighbours are weighed."""

    mode: str
    cubic_coeff_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False

    def matrix(self, axis: _Axis, points: NDArray) -> NDArray:
        """Weights (resized, size)."""
        reach = 1 if self.mode == "linear" else 2
        shrink = min(axis.scale, 1.0) if self.antialias else 1.0
        first = math.floor(-reach / shrink) + 1
        taps = np.arange(first, 1 - first + 1)
        base = np.floor(points)
        distance = (taps[None, :] - (points - base)[:, None]) * shrink
        weights = _tent(distance) if self.mode == "linear" else _cubic(distance, self.cubic_coeff_a)
        index = (base[:, None] + taps[None, :]).astype(np.int64)
        if self.exclude_outside:
            weights = np.where((index < 0) | (index >= axis.size), 0, weights)
        weights = weights / weights.sum(axis=1, keepdims=True)
        matrix = np.zeros((len(points), axis.size))
        rows = np.broadcast_to(np.arange(len(points))[:, None], index.shape)
        np.add.at(matrix, (rows, np.clip(index, 0, axis.size - 1)), weights)
        return matrix


def _tent(distance: NDArray) -> NDArray:
    return np.clip(1 - np.abs(distance), 0, None)


def _cubic(distance: NDArray, a: float) -> NDArray:
    """Keys' cubic convolution kernel (1981)."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _nearest(points: NDArray, mode: str) -> NDArray:
    rounding: dict[str, Callable[[NDArray], NDArray]] = {
        "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    return np.asarray(rounding[mode](points))


def _resized_axes(
    shape: Sequence[int], axes: Sequence[int], scales: Static, sizes: Static, policy: str, roi: NDArray
) -> dict[int, _Axis]:
    lengths = [shape[axis] for axis in axes]
    spans = [(float(roi[i]), float(roi[i + len(axes)])) for i in range(len(axes))]
    if sizes is not None and sizes.size:
        targets = [int(size) for size in sizes]
        factors = [target / length for target, length in zip(targets, lengths, strict=True)]
        if policy != "stretch":
            common = min(factors) if policy == "not_larger" else max(factors)
            factors = [common] * len(axes)
            targets = [math.floor(common * length + 0.5) for length in lengths]
    else:
        factors = [float(scale) for scale in scales.reshape(-1)]
        targets = [
            math.floor(length * (end - start) * factor)
            for length, factor, (start, end) in zip(lengths, factors, spans, strict=True)
        ]
    return {
        axis: _Axis(length, target, factor, *span)
        for axis, length, target, factor, span in zip(axes, lengths, targets, factors, spans, strict=True)
    }


def _interpolate(
    X: Array, resized: dict[int, _Axis], kernel: _Kernel, coordinates: str, nearest_mode: str, outside: float
) -> Array:
    result = X
    for number, axis in resized.items():
        if axis.resized == axis.size and axis.scale == 1 and coordinates != "tf_crop_and_resize":
            continue
        points = axis.coordinates(coordinates)
        if kernel.mode == "nearest":
            index = np.clip(_nearest(points, nearest_mode), 0, axis.size - 1).astype(np.int64)
            result = take(result, index, number)
        else:
            matrix = public_fractions(kernel.matrix(axis, points).T)
            result = jnp.moveaxis(jnp.moveaxis(result, number, -1) @ matrix, -1, number)
        if coordinates == "tf_crop_and_resize":
            inside = (points >= 0) & (points <= axis.size - 1)
            result = jnp.where(inside.reshape([-1] + [1] * (result.ndim - number - 1)), result, outside)
    return result.astype(X.dtype)


@op(name="Resize", since=10, static=("scales",))
def Resize_10(X: Array, scales: Static, *, mode: str = "nearest") -> Array:
    resized = _resized_axes(X.shape, range(X.ndim), scales, None, "stretch", _whole(X.ndim))
    return _interpolate(X, resized, _Kernel(mode), "asymmetric", "floor", 0)


def _whole(rank: int) -> NDArray:
    return np.concatenate([np.zeros(rank), np.ones(rank)])


@op(since=11, static=("roi", "scales", "sizes"))
def Resize(
    X: Array,
    roi: Static = None,
    scales: Static = None,
    sizes: Static = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Array:
    chosen = [axis % X.ndim for axis in (range(X.ndim) if axes is None else axes)]
    cropped = coordinate_transformation_mode == "tf_crop_and_resize"
    region = np.asarray(roi).reshape(-1) if cropped and roi is not None else _whole(len(chosen))
    resized = _resized_axes(X.shape, chosen, scales, sizes, keep_aspect_ratio_policy, region)
    kernel = _Kernel(mode, cubic_coeff_a, bool(exclude_outside), bool(antialias))
    return _interpolate(X, resized, kernel, coordinate_transformation_mode, nearest_mode, extrapolation_value)


@op(name="Upsample", since=7)
def Upsample_7(X: Array, *, scales: Sequence[float], mode: str = "nearest") -> Array:
    return Resize_10(X, np.asarray(scales), mode=mode)


@op(since=9, static=("scales",))
def Upsample(X: Array, scales: Static, *, mode: str = "nearest") -> Array:
    return Resize_10(X, scales, mode=mode)


@op(since=20, static=("size",))
def AffineGrid(theta: Array, size: Static, *, align_corners: int = 0) -> Array:
    spatial = [int(n) for n in size[2:]]
    lines = [np.linspace(-1, 1, n) if align_corners else (2 * np.arange(n) + 1) / n - 1 for n in spatial]
    grids = np.meshgrid(*lines, indexing="ij")[::-1]
    points = public_fractions(np.stack([*grids, np.ones(spatial)], axis=-1))
    return jnp.einsum("...k,nik->n...i", points, theta)


@op(since=16)
def GridSample(
    X: Array, grid: Array, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Array:
    """A row of weights for each sampled point and dimension, then one product: no index is revealed."""
    rank = X.ndim - 2
    kind = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    rows = []
    for axis in range(rank):
        place = grid[..., rank - 1 - axis]
        size = X.shape[axis + 2]
        x = (place + 1) * ((size - 1) / 2) if align_corners else ((place + 1) * size - 1) * 0.5
        rows.append(_sample_weights(x, size, kind, padding_mode, bool(align_corners)))
    inner = "xyz"[:rank]
    operands = ",".join(f"nabc{letter}" if rank == 3 else f"nab{letter}" for letter in inner)
    target = "abc" if rank == 3 else "ab"
    if rank == 1:
        return jnp.einsum("nkx,nax->nka", X, rows[0])
    return jnp.einsum(f"nk{inner},{operands}->nk{target}", X, *rows)


def _sample_weights(x: Array, size: int, kind: str, padding: str, align_corners: bool) -> Array:
    """Weights (…, size) of the elements around positions ``x``."""
    if padding == "border" and kind != "cubic":
        x = jnp.clip(x, 0, size - 1)
    if padding == "reflection" and kind != "cubic":
        x = _reflected(x, size, align_corners)
    if kind == "nearest":
        taps = [(jnp.round(x), 1.0)]
    else:
        base = jnp.floor(x)
        part = x - base
        if kind == "linear":
            taps = [(base, 1 - part), (base + 1, part)]
        else:
            taps = [(base + k, _cubic_traced(jnp.abs(part - k))) for k in (-1, 0, 1, 2)]
    places = jnp.arange(size, dtype=x.dtype)
    total: Array = 0
    for index, weight in taps:
        if padding == "border":
            index = jnp.clip(index, 0, size - 1)
        elif padding == "reflection":
            index = jnp.clip(jnp.round(_reflected(index, size, align_corners)), 0, size - 1)
        total = total + (index[..., None] == places) * jnp.asarray(weight)[..., None]
    return total


def _cubic_traced(d: Array, a: float = -0.75) -> Array:
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return jnp.where(d <= 1, near, jnp.where(d < 2, far, 0))


def _reflected(x: Array, size: int, align_corners: bool) -> Array:
    """Positions folded back into the image at its edges."""
    low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
    span = high - low
    if span == 0:
        return jnp.zeros_like(x)
    offset = x - low
    turns = jnp.floor(offset * (1 / (2 * span)))
    offset = offset - turns * (2 * span)
    return low + span - jnp.abs(span - offset)
