"""Convolutions, all as two-dimensional ones: SPU has neither the three-dimensional nor the grouped kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from converters.errors import NodeError
from converters.onnx.registry import op

Array = Any
Ints = Sequence[int]


def resolved_pads(
    sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints, pads: Ints | None, auto_pad: str
) -> list[tuple[int, int]]:
    """Padding in front and behind for each spatial dimension."""
    rank = len(sizes)
    if auto_pad in ("NOTSET", ""):
        pads = [0] * (2 * rank) if pads is None else list(pads)
        return [(pads[axis], pads[axis + rank]) for axis in range(rank)]
    if auto_pad == "VALID":
        return [(0, 0)] * rank
    result = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        result.append((small, large) if auto_pad == "SAME_UPPER" else (large, small))
    return result


def convolve(
    X: Array, W: Array, strides: Ints, pads: Sequence[tuple[int, int]], dilations: Ints, group: int
) -> Array:
    """X (N, C, spatial…) with W (M, C / group, spatial…), one to three spatial dimensions."""
    rank = X.ndim - 2
    if rank == 1:
        flat = convolve(X[:, :, None], W[:, :, None], (1, *strides), [(0, 0), *pads], (1, *dilations), group)
        return flat[:, :, 0]
    if rank == 3:
        return _convolve_3d(X, W, strides, pads, dilations, group)
    if rank != 2:
        raise NodeError(
            f"a convolution over {rank} spatial dimensions is not supported.", "use one to three."
        )
    if group == 1 or (group == X.shape[1] and W.shape[1] == 1):
        return _convolve_2d(X, W, strides, pads, dilations, group)
    parts = zip(jnp.split(X, group, axis=1), jnp.split(W, group, axis=0), strict=True)
    return jnp.concatenate([_convolve_2d(x, w, strides, pads, dilations, 1) for x, w in parts], axis=1)


def _convolve_2d(
    X: Array, W: Array, strides: Ints, pads: Sequence[tuple[int, int]], dilations: Ints, group: int
) -> Array:
    return lax.conv_general_dilated(
        X,
        W.astype(X.dtype),
        window_strides=tuple(strides),
        padding=list(pads),
        rhs_dilation=tuple(dilations),
        dimension_numbers=("NCHW", "OIHW", "NCHW"),
        feature_group_count=group,
    )


def _convolve_3d(
    X: Array, W: Array, strides: Ints, pads: Sequence[tuple[int, int]], dilations: Ints, group: int
) -> Array:
    """The sum over the kernel's depth of convolutions of the planes."""
    X = jnp.pad(X, [(0, 0), (0, 0), pads[0], (0, 0), (0, 0)])
    reach = (W.shape[2] - 1) * dilations[0]
    depth = (X.shape[2] - reach - 1) // strides[0] + 1
    total: Array = 0
    for step in range(W.shape[2]):
        first = step * dilations[0]
        planes = X[:, :, first : first + (depth - 1) * strides[0] + 1 : strides[0]]
        rows = jnp.moveaxis(planes, 2, 1).reshape((-1, X.shape[1], *X.shape[3:]))
        total = total + convolve(rows, W[:, :, step], strides[1:], pads[1:], dilations[1:], group)
    return jnp.moveaxis(total.reshape((X.shape[0], depth, *total.shape[1:])), 1, 2)


@op()
def Conv(
    X: Array,
    W: Array,
    B: Array = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    rank = X.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    padding = resolved_pads(X.shape[2:], W.shape[2:], strides, dilations, pads, auto_pad)
    result = convolve(X, W, strides, padding, dilations, group)
    return result if B is None else result + B.reshape((1, -1) + (1,) * rank)


@op()
def ConvTranspose(
    X: Array,
    W: Array,
    B: Array = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """As a convolution of the input with zeros between its elements and the kernel turned round."""
    rank = X.ndim - 2
    strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
    extra = list(output_padding or [0] * rank)
    reach = [(size - 1) * dilation for size, dilation in zip(W.shape[2:], dilations, strict=True)]
    if output_shape is None and auto_pad.startswith("SAME"):
        output_shape = [size * stride for size, stride in zip(X.shape[2:], strides, strict=True)]
    if output_shape is not None:
        full = [
            stride * (size - 1) + more + span + 1
            for size, stride, more, span in zip(X.shape[2:], strides, extra, reach, strict=True)
        ]
        totals = [size - wanted for size, wanted in zip(full, list(output_shape)[-rank:], strict=True)]
        halves = [(total // 2, total - total // 2) for total in totals]
        margins = halves if auto_pad == "SAME_UPPER" else [(large, small) for small, large in halves]
    else:
        flat = list(pads or [0] * (2 * rank))
        margins = [(flat[axis], flat[axis + rank]) for axis in range(rank)]
    spread = [(0, 0, 0), (0, 0, 0)]
    for span, (front, behind), more, stride in zip(reach, margins, extra, strides, strict=True):
        spread.append((span - front, span - behind + more, stride - 1))
    spaced = lax.pad(X, jnp.zeros((), X.dtype), spread)
    kernel = jnp.flip(W, axis=tuple(range(2, W.ndim)))
    kernel = kernel.reshape((group, W.shape[0] // group, *W.shape[1:])).swapaxes(1, 2)
    kernel = kernel.reshape((-1, W.shape[0] // group, *W.shape[2:]))
    result = convolve(spaced, kernel, [1] * rank, [(0, 0)] * rank, dilations, group)
    return result if B is None else result + B.reshape((1, -1) + (1,) * rank)


@op(since=18, static=("image_shape", "block_shape"))
def Col2Im(
    input: Array,
    image_shape: Any,
    block_shape: Any,
    *,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Array:
    """Every kernel position's column is laid out over the image and added: additions only."""
    image, block = [int(n) for n in image_shape], [int(n) for n in block_shape]
    rank = len(image)
    steps, gaps, margins = strides or [1] * rank, dilations or [1] * rank, pads or [0] * (2 * rank)
    padded = [image[a] + margins[a] + margins[a + rank] for a in range(rank)]
    counts = [(padded[a] - (block[a] - 1) * gaps[a] - 1) // steps[a] + 1 for a in range(rank)]
    columns = input.reshape((input.shape[0], -1, int(np.prod(block)), *counts))
    total: Array = 0
    for number, place in enumerate(np.ndindex(*block)):
        widths = [(0, 0, 0), (0, 0, 0)]
        for a in range(rank):
            front = place[a] * gaps[a]
            widths.append((front, padded[a] - front - (counts[a] - 1) * steps[a] - 1, steps[a] - 1))
        total = total + lax.pad(columns[:, :, number], jnp.zeros((), input.dtype), widths)
    inner = [slice(margins[a], margins[a] + image[a]) for a in range(rank)]
    return total[tuple([slice(None)] * 2 + inner)]


@op(since=27)
def CausalConvWithState(
    input: Array, weight: Array, bias: Array = None, past_state: Array = None, *, activation: str = "none"
) -> tuple[Array, Array]:
    channels, reach = input.shape[1], weight.shape[2] - 1
    past = jnp.zeros((input.shape[0], channels, reach), input.dtype) if past_state is None else past_state
    joined = jnp.concatenate([past, input], axis=2)
    result = convolve(joined, weight, [1], [(0, 0)], [1], channels)
    result = result if bias is None else result + bias[None, :, None]
    if activation.lower() in ("silu", "swish"):
        result = result * lax.logistic(result)
    return result, joined[:, :, joined.shape[2] - reach :]
