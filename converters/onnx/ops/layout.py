"""Shape and order of elements: free of communication under MPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from converters.errors import NodeError
from converters.onnx.registry import op

Array = Any
Static = Any
"""A numpy array known while converting."""


def ints(values: Any) -> list[int]:
    """A static array or attribute as Python integers."""
    return [int(value) for value in np.asarray(values).reshape(-1)]


@op()
def Shape(data: Array, *, start: int = 0, end: int | None = None) -> Static:
    return np.array(data.shape[start:end], dtype=np.int64)


@op()
def Size(data: Array) -> Static:
    return np.array(data.size, dtype=np.int64)


@op(name="Reshape", since=1)
def Reshape_1(data: Array, *, shape: Sequence[int], consumed_inputs: Any = None) -> Array:
    return _reshape(data, ints(shape), allowzero=0)


@op(since=5, static=("shape",))
def Reshape(data: Array, shape: Static, *, allowzero: int = 0) -> Array:
    return _reshape(data, ints(shape), allowzero)


def _reshape(data: Array, shape: list[int], allowzero: int) -> Array:
    if not allowzero:
        shape = [data.shape[i] if dim == 0 else dim for i, dim in enumerate(shape)]
    known = int(np.prod([dim for dim in shape if dim != -1]))
    fits = data.size == known if -1 not in shape else known != 0 and data.size % known == 0
    if (not fits and -1 not in shape) or (known == 0 and data.size):
        raise NodeError(
            f"an array of shape {data.shape} cannot become {tuple(shape)}.",
            "if the batch size was fixed when exporting, export with a dynamic batch dimension.",
        )
    return jnp.reshape(data, shape)


@op()
def Flatten(input: Array, *, axis: int = 1) -> Array:
    axis = axis if axis >= 0 else axis + input.ndim
    return jnp.reshape(input, (int(np.prod(input.shape[:axis])), int(np.prod(input.shape[axis:]))))


@op()
def Transpose(data: Array, *, perm: Sequence[int] | None = None) -> Array:
    return jnp.transpose(data, None if perm is None else tuple(perm))


@op(name="Squeeze", since=1)
def Squeeze_1(data: Array, *, axes: Sequence[int] | None = None) -> Array:
    return jnp.squeeze(data, None if axes is None else tuple(axes))


@op(since=13, static=("axes",))
def Squeeze(data: Array, axes: Static = None) -> Array:
    return jnp.squeeze(data, None if axes is None else tuple(ints(axes)))


@op(name="Unsqueeze", since=1)
def Unsqueeze_1(data: Array, *, axes: Sequence[int]) -> Array:
    return jnp.expand_dims(data, tuple(axes))


@op(since=13, static=("axes",))
def Unsqueeze(data: Array, axes: Static) -> Array:
    return jnp.expand_dims(data, tuple(ints(axes)))


@op()
def Concat(*inputs: Array, axis: int = 1) -> Array:
    return jnp.concatenate(inputs, axis=axis)


@op(name="Split", since=1)
def Split_1(
    input: Array,
    split_: Static = None,
    *,
    axis: int = 0,
    split: Sequence[int] | None = None,
    output_count: int,
) -> tuple[Array, ...]:
    return _split(input, axis, None if split is None else ints(split), output_count)


@op(since=13, static=("split",))
def Split(
    input: Array, split: Static = None, *, axis: int = 0, num_outputs: int | None = None, output_count: int
) -> tuple[Array, ...]:
    return _split(input, axis, None if split is None else ints(split), num_outputs or output_count)


def _split(input: Array, axis: int, sizes: list[int] | None, count: int) -> tuple[Array, ...]:
    if sizes is None:
        step = -(-input.shape[axis] // count)
        sizes = [step] * count  # the last may be smaller
    return tuple(jnp.split(input, np.cumsum(sizes)[:-1].tolist(), axis=axis))


@op(name="Slice", since=1)
def Slice_1(
    data: Array, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None
) -> Array:
    return Slice(data, starts, ends, axes)


@op(since=10, static=("starts", "ends", "axes", "steps"))
def Slice(data: Array, starts: Static, ends: Static, axes: Static = None, steps: Static = None) -> Array:
    firsts, lasts = ints(starts), ints(ends)
    index = [slice(None)] * data.ndim
    chosen = range(len(firsts)) if axes is None else ints(axes)
    strides = [1] * len(firsts) if steps is None else ints(steps)
    for axis, first, last, stride in zip(chosen, firsts, lasts, strides, strict=True):
        size = data.shape[axis]
        stop: int | None = last
        if stride < 0 and last < -size:
            stop = None  # backwards past the first element
        index[axis] = slice(first, stop, stride)
    return data[tuple(index)]


@op(since=8, static=("shape",))
def Expand(input: Array, shape: Static) -> Array:
    target = np.broadcast_shapes(input.shape, tuple(ints(shape)))
    return jnp.broadcast_to(input, target)


@op(name="Tile", since=1, static=("tiles", "axis"))
def Tile_1(input: Array, tiles: Static, axis: Static) -> Array:
    repeats = [1] * input.ndim
    repeats[int(axis)] = int(tiles)
    return jnp.tile(input, repeats)


@op(since=6, static=("repeats",))
def Tile(input: Array, repeats: Static) -> Array:
    return jnp.tile(input, ints(repeats))


@op(name="Pad", since=1)
def Pad_1(
    data: Array,
    *,
    pads: Sequence[int] = (),
    paddings: Sequence[int] = (),
    mode: str = "constant",
    value: float = 0.0,
    consumed_inputs: Any = None,
) -> Array:
    return _pad(data, ints(pads or paddings), mode, value)


@op(since=11, static=("pads", "axes"))
def Pad(
    data: Array, pads: Static, constant_value: Array = None, axes: Static = None, *, mode: str = "constant"
) -> Array:
    amounts = ints(pads)
    if axes is not None:
        chosen = [axis % data.ndim for axis in ints(axes)]
        full = [0] * (2 * data.ndim)
        for position, axis in enumerate(chosen):
            full[axis], full[axis + data.ndim] = amounts[position], amounts[position + len(chosen)]
        amounts = full
    value = 0 if constant_value is None else constant_value.reshape(())
    return _pad(data, amounts, mode, value)


def _pad(data: Array, amounts: list[int], mode: str, value: Array) -> Array:
    crop = tuple(
        slice(max(-before, 0), size - max(-after, 0))
        for size, before, after in zip(data.shape, amounts[: data.ndim], amounts[data.ndim :], strict=True)
    )
    data = data[crop]
    widths = [(max(b, 0), max(a, 0)) for b, a in zip(amounts[: data.ndim], amounts[data.ndim :], strict=True)]
    if mode == "constant":
        return jnp.pad(data, widths, constant_values=jnp.asarray(value, data.dtype))
    return jnp.pad(data, widths, mode=mode)


@op(since=18, static=("shape",))
def CenterCropPad(input_data: Array, shape: Static, *, axes: Sequence[int] | None = None) -> Array:
    chosen = range(input_data.ndim) if axes is None else [axis % input_data.ndim for axis in axes]
    amounts = [0] * (2 * input_data.ndim)
    for axis, target in zip(chosen, ints(shape), strict=True):
        surplus = target - input_data.shape[axis]
        # A crop starts at the floor of half the surplus, a pad puts the smaller half in front.
        before = surplus // 2 if surplus >= 0 else -((-surplus) // 2)
        amounts[axis], amounts[axis + input_data.ndim] = before, surplus - before
    return _pad(input_data, amounts, "constant", 0)


@op()
def DepthToSpace(input: Array, *, blocksize: int, mode: str = "DCR") -> Array:
    b, c, h, w = input.shape
    depth = c // (blocksize * blocksize)
    if mode == "DCR":
        blocks = input.reshape(b, blocksize, blocksize, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = input.reshape(b, depth, blocksize, blocksize, h, w).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(b, depth, h * blocksize, w * blocksize)


@op()
def SpaceToDepth(input: Array, *, blocksize: int) -> Array:
    b, c, h, w = input.shape
    blocks = input.reshape(b, c, h // blocksize, blocksize, w // blocksize, blocksize)
    return blocks.transpose(0, 3, 5, 1, 2, 4).reshape(b, c * blocksize**2, h // blocksize, w // blocksize)


@op(since=14, static=("k",))
def Trilu(input: Array, k: Static = None, *, upper: int = 1) -> Array:
    offset = 0 if k is None else int(k)
    rows, columns = np.arange(input.shape[-2])[:, None], np.arange(input.shape[-1])[None, :]
    kept = columns - rows >= offset if upper else columns - rows <= offset
    return jnp.where(kept, input, jnp.zeros((), input.dtype))


@op(static=("sequence_lens",))
def ReverseSequence(input: Array, sequence_lens: Static, *, batch_axis: int = 1, time_axis: int = 0) -> Array:
    moved = jnp.moveaxis(input, (batch_axis, time_axis), (0, 1))
    rows = [
        jnp.concatenate([jnp.flip(row[:length], 0), row[length:]])
        for row, length in zip(moved, ints(sequence_lens), strict=True)
    ]
    return jnp.moveaxis(jnp.stack(rows), (0, 1), (batch_axis, time_axis))
