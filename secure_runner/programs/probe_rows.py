"""Rows to try a model with: samples where there are any, and otherwise made up within the model's ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from converters import ConvertedModel, TensorSpec

__all__ = ["made_up_rows", "sample_rows"]

Array = npt.NDArray[Any]

_MARGIN = 48.0
"""Calibration allows 16 times what samples show, and samples show three standard deviations."""


def sample_rows(
    model: ConvertedModel, samples: Sequence[Any], batch_size: int, *, start: int = 0
) -> list[Array]:
    """Rows of the samples from ``start`` on, from the first again where they end, as private inputs.

    Args:
        model: a converted model.
        samples: one array for each of ``model.inputs``.
        batch_size: rows wanted.
        start: the first of them.
    """
    return _private(
        model,
        {
            spec.name: _rows(np.asarray(value), spec, start, batch_size)
            for spec, value in zip(model.inputs, samples, strict=True)
        },
    )


def made_up_rows(model: ConvertedModel, batch_size: int, *, scale: float, seed: int) -> list[Array]:
    """Rows of random features, as private inputs.

    Floats are normal: of standard deviation ``scale``, or in proportion to the input's range where it has
    one. Integers are uniform over the range, 0 or 1 where there is none. Words are among the known ones.
    """
    draw = np.random.default_rng(seed)
    choices = _choices(model)
    return _private(
        model,
        {
            spec.name: _drawn(
                draw,
                spec,
                batch_size,
                model.numeric.input_ranges.get(spec.name),
                choices.get(spec.name),
                scale,
            )
            for spec in model.inputs
        },
    )


def _private(model: ConvertedModel, sent: Mapping[str, Array]) -> list[Array]:
    from converters import apply_steps

    shared = apply_steps(model.encode, sent)
    return [np.asarray(shared[spec.name]).astype(spec.dtype, copy=False) for spec in model.private_inputs]


def _rows(value: Array, spec: TensorSpec, start: int, batch_size: int) -> Array:
    if not spec.shape or spec.shape[0] is not None:
        return value
    rows: Array = value[np.arange(start, start + batch_size) % value.shape[0]]
    return rows


def _choices(model: ConvertedModel) -> dict[str, Sequence[Any]]:
    """Input → the categories that the data owner's steps know of it."""
    found: dict[str, Sequence[Any]] = {}
    for step in model.encode:
        known = step.attrs.get("keys") or step.attrs.get("categories")
        if known:
            found.setdefault(step.inputs[0], known)
    return found


def _drawn(
    draw: np.random.Generator,
    spec: TensorSpec,
    batch_size: int,
    limits: tuple[float, float] | None,
    choices: Sequence[Any] | None,
    scale: float,
) -> Array:
    shape = tuple(batch_size if dim is None else dim for dim in spec.shape)
    if choices:
        return draw.choice(np.asarray(choices), shape)
    if spec.dtype == "str":
        return np.full(shape, "")
    kind = np.dtype(spec.dtype).kind
    if kind == "f":
        low, high = limits or (-np.inf, np.inf)
        bound = max(abs(low), abs(high))
        deviation = max(bound / _MARGIN, min(1.0, bound / 4)) if np.isfinite(bound) else 1.0
        return np.clip(draw.normal(0, deviation * scale, shape), low, high).astype(spec.dtype)
    low, high = limits or (0, 1)
    return draw.integers(int(low), int(high), shape, endpoint=True).astype(spec.dtype)
