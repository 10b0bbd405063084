"""From what a client sent to the arrays that a program takes; strict, and silent about every value.

A fixed-point ring holds neither NaN nor infinity, saturates on what is too large and wraps what it
multiplies, all without a word. So whatever cannot be computed correctly is refused here, before anything is
shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_runner.http.codes import RequestError
from secure_runner.http.rows import array_of_rows
from secure_runner.http.shapes import batch_axis, check_shape, expected, wrong_dtype
from secure_runner.http.types import Arrays
from secure_runner.programs.manifest import InputRange, Manifest, NumericSpec, TensorSpec

__all__ = ["batch_rows", "ring_limit", "validate_inputs"]

RING_BITS = {"FM32": 32, "FM64": 64, "FM128": 128}
_MARK_MISSING = "mark_missing"
"""The encode step that reads missing values."""
# Largest magnitudes up to which every integer has a floating-point value of its own.
_EXACT_INTEGER = {"float16": 2**11, "float32": 2**24, "float64": 2**53}


def ring_limit(numeric: NumericSpec) -> float:
    """Magnitude from which on the ring's encoding saturates: 2^(bits - 2 - fraction bits).

    SPU keeps two bits free when it encodes a real number (``libspu/core/encoding``).
    """
    return float(2.0 ** (RING_BITS[numeric.field] - 2 - numeric.fraction_bits))


def validate_inputs(manifest: Manifest, raw: Any, *, max_rows: int | None = None) -> Arrays:
    """Check a request's inputs against the manifest.

    Args:
        manifest: the program's; names, dtypes, shapes and ranges come from it.
        raw: a mapping of input name to rows or, for a program of one input, the rows alone. Rows are nested
            lists as JSON gives them, or a numpy array.
        max_rows: the largest batch that one request may have; ``None`` for any.

    Returns:
        Arrays by name in the manifest's order, of its dtypes, C-ordered, all of the same number of rows.

    Raises:
        RequestError: with a code of the table, the input, the first wrong row where there is one, and what
            was expected and received. Never with a value.
    """
    by_name = _by_name(manifest, raw)
    arrays = {spec.name: _validated(manifest, spec, by_name[spec.name], max_rows) for spec in manifest.inputs}
    counts = {
        name: array.shape[axis]
        for (name, array), spec in zip(arrays.items(), manifest.inputs, strict=True)
        if (axis := batch_axis(spec)) is not None
    }
    if len(set(counts.values())) > 1:
        raise RequestError(
            "batch_mismatch",
            "every input needs the same number of rows; received "
            + ", ".join(f"{count} of {name!r}" for name, count in counts.items()),
            received={"rows": counts},
        )
    return arrays


def batch_rows(manifest: Manifest, arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Rows of a validated batch; 1 for a program without a batch dimension."""
    for spec in manifest.inputs:
        axis = batch_axis(spec)
        if axis is not None:
            return int(arrays[spec.name].shape[axis])
    return 1


def may_miss(manifest: Manifest, spec: TensorSpec) -> bool:
    """Whether missing values (NaN) are part of an input: the data owner marks them before it shares."""
    return any(step.op == _MARK_MISSING and spec.name in step.inputs for step in manifest.encode)


def _check_range(manifest: Manifest, spec: TensorSpec, array: npt.NDArray[Any]) -> None:
    """Refuse values beyond the declared range of the input, or beyond what the ring can hold.

    The ring's limit applies to tensors that are shared as they are; what a local encoding takes in is never
    put into the ring.

    Raises:
        RequestError: ``out_of_range``, with the position of the first such value.
    """
    if array.dtype.kind in "bU" or array.size == 0:
        return
    declared, ring = _bounds(manifest, spec)
    # A float is compared in its own dtype: the float32 next to a declared 0.1 is still 0.1 to a client.
    own = array.dtype.type if array.dtype.kind == "f" else float

    def is_inside(values: Any) -> Any:
        inside = (values > -ring) & (values < ring)
        if declared is not None:
            inside = inside & (values >= own(declared.low)) & (values <= own(declared.high))
        return inside

    inside = is_inside(array)
    if array.dtype.kind == "f" and may_miss(manifest, spec):
        inside |= np.isnan(array)
    if inside.all():
        return
    low = -ring if declared is None else max(-ring, declared.low)
    high = ring if declared is None else min(ring, declared.high)
    position = _first(~inside)
    raise RequestError(
        "out_of_range",
        f"input {spec.name!r}: the value at {position} lies outside [{low:g}, {high:g}], the range in which "
        "this program computes correctly",
        input=spec.name,
        row=position[0] if position else 0,
        position=position,
        expected={"low": low, "high": high},
    )


def _is_plainly_right(manifest: Manifest, spec: TensorSpec, array: npt.NDArray[Any]) -> bool:
    """Whether two passes tell that an array is finite, of the input's kind, and well within its bounds.

    It nearly always is. What is not may still be right: a range that ends at 0.1 includes the float32 next to
    it. That is for the checks which also say what is wrong.
    """
    if array.dtype.kind != "f" or np.dtype(spec.dtype).kind != "f" or array.size == 0:
        return False
    declared, ring = _bounds(manifest, spec)
    limit = min(ring, float(np.finfo(spec.dtype).max))
    low, high = float(array.min()), float(array.max())
    # NaN makes both NaN, which is less than nothing.
    inside = -limit < low and high < limit
    return inside and (declared is None or (declared.low <= low and high <= declared.high))


def _bounds(manifest: Manifest, spec: TensorSpec) -> tuple[InputRange | None, float]:
    """The declared range of an input, and the magnitude that the ring ends below; infinite if not shared."""
    shared = any(private.name == spec.name for private in manifest.private_inputs)
    return manifest.input_ranges.get(spec.name), ring_limit(manifest.numeric) if shared else np.inf


def _by_name(manifest: Manifest, raw: Any) -> Mapping[str, Any]:
    names = [spec.name for spec in manifest.inputs]
    if not isinstance(raw, Mapping):
        if len(names) == 1:
            return {names[0]: raw}
        raise RequestError(
            "missing_input",
            f"this program has {len(names)} inputs; send an object of name to rows with {_quoted(names)}",
            expected={"inputs": names},
        )
    unknown = [str(name)[:64] for name in raw if name not in names]
    if unknown:
        raise RequestError(
            "unknown_input",
            f"there is no input {_quoted(unknown[:8])}; the inputs are {_quoted(names)}",
            expected={"inputs": names},
        )
    missing = [name for name in names if name not in raw]
    if missing:
        raise RequestError(
            "missing_input", f"input {_quoted(missing)} was not sent", expected={"inputs": names}
        )
    return raw


def _quoted(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _validated(manifest: Manifest, spec: TensorSpec, raw: Any, max_rows: int | None) -> npt.NDArray[Any]:
    missing = may_miss(manifest, spec)
    is_array = isinstance(raw, np.ndarray)
    array = raw if is_array else array_of_rows(spec, raw, max_rows, may_miss=missing)
    check_shape(spec, array.shape, max_rows)
    if _is_plainly_right(manifest, spec, array):
        return np.asarray(array, dtype=spec.dtype, order="C")
    if array.dtype.kind == "f":
        _check_finite(spec, array, may_miss=missing)
    cast = _cast(spec, array)
    _check_range(manifest, spec, cast)
    return cast


def _check_finite(spec: TensorSpec, array: npt.NDArray[Any], *, may_miss: bool) -> None:
    finite = ~np.isinf(array) if may_miss else np.isfinite(array)
    if finite.all():
        return
    position = _first(~finite)
    raise RequestError(
        "not_finite",
        f"input {spec.name!r}: the value at {position} is NaN or infinite, which a fixed-point ring "
        "cannot hold",
        input=spec.name,
        row=position[0] if position else 0,
        position=position,
    )


def _first(wrong: npt.NDArray[np.bool_]) -> list[int]:
    return [int(index) for index in np.unravel_index(int(np.argmax(wrong)), wrong.shape)]


def _cast(spec: TensorSpec, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """To the input's dtype, where no value can change by more than a float's rounding."""
    target = np.dtype(spec.dtype)
    source = array.dtype.kind
    allowed = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "U": "U"}[target.kind]
    if source not in allowed:
        raise wrong_dtype(spec, array.dtype.name)
    if source == "U":
        return array
    if source in "iu":
        _check_integers(spec, array, target)
    with np.errstate(over="ignore"):
        cast = np.asarray(array, dtype=target, order="C")
    # What was finite before (missing values aside) must be so in the input's own dtype.
    overflowed = np.isinf(cast) if target.kind == "f" else np.zeros(0, np.bool_)
    if overflowed.any():
        position = _first(overflowed)
        raise RequestError(
            "out_of_range",
            f"input {spec.name!r}: the value at {position} is too large for {spec.dtype}",
            input=spec.name,
            row=position[0] if position else 0,
            position=position,
            expected=expected(spec),
        )
    return cast


def _check_integers(spec: TensorSpec, array: npt.NDArray[Any], target: np.dtype[Any]) -> None:
    if target.kind == "f":
        high = _EXACT_INTEGER[target.name]
        low = -high
    else:
        low, high = int(np.iinfo(target).min), int(np.iinfo(target).max)
    if int(array.min()) >= low and int(array.max()) <= high:
        return
    raise RequestError(
        "out_of_range",
        f"input {spec.name!r}: an integer lies outside [{low}, {high}], which {spec.dtype} holds exactly",
        input=spec.name,
        expected={"low": low, "high": high, **expected(spec)},
    )
