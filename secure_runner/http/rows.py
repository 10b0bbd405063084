"""Rows as JSON gives them, to arrays.

numpy alone would turn strings into numbers, null into NaN, true into 1 and what is ragged into objects.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from secure_runner.http.codes import RequestError
from secure_runner.http.shapes import batch_axis, check_rows, expected, shape_text, wrong_dtype
from secure_runner.programs.manifest import TensorSpec

__all__ = ["array_of_rows"]

_ELEMENTS: dict[str, set[type]] = {"f": {float, int}, "i": {int}, "u": {int}, "b": {bool}, "U": {str}}
_INTERIM = {"f": np.float64, "i": np.int64, "u": np.int64, "b": np.bool_, "U": np.str_}

_JSON_TYPES = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


def array_of_rows(
    spec: TensorSpec, raw: Any, max_rows: int | None, *, may_miss: bool = False
) -> npt.NDArray[Any]:
    """Nested lists of the spec's shape as an array of float64, int64, bool or strings.

    With ``may_miss``, null is a missing value and becomes NaN.

    Raises:
        RequestError: ``wrong_shape``, ``ragged_rows``, ``wrong_dtype``, ``not_finite`` (null),
            ``empty_batch``, ``too_many_rows`` or ``out_of_range`` (an integer beyond 64 bits).
    """
    if batch_axis(spec) == 0 and isinstance(raw, list):
        check_rows(spec, len(raw), max_rows)
    kinds: set[type] = set()
    _check_nesting(spec, raw, 0, 0, kinds)
    target = np.dtype(spec.dtype)
    allowed = _ELEMENTS[target.kind] | ({type(None)} if may_miss and target.kind == "f" else set())
    if not kinds <= allowed:
        raise _wrong_element(spec, raw, allowed)
    try:
        return np.array(raw, dtype=_INTERIM[target.kind])
    except OverflowError:
        raise RequestError(
            "out_of_range",
            f"input {spec.name!r}: an integer is too large for {spec.dtype}",
            input=spec.name,
            expected=expected(spec),
        ) from None


def _check_nesting(spec: TensorSpec, value: Any, depth: int, row: int, kinds: set[type]) -> None:
    """Check nesting and lengths down to the elements, whose types are collected without looking at them."""
    if depth == len(spec.shape):
        kinds.add(type(value))
        return
    want = spec.shape[depth]
    if not isinstance(value, list) or (want is not None and len(value) != want):
        received = (
            f"{len(value)} elements" if isinstance(value, list) else _JSON_TYPES.get(type(value), "neither")
        )
        raise RequestError(
            "ragged_rows" if row else "wrong_shape",
            f"input {spec.name!r} expects shape {shape_text(spec.shape)}: "
            + (f"row {row} has" if depth else "found")
            + f" {received} where a list of {'rows' if want is None else want} belongs",
            input=spec.name,
            expected=expected(spec),
            **({"row": row} if depth else {}),
        )
    if depth == len(spec.shape) - 1:
        kinds.update(map(type, value))
        return
    for index, element in enumerate(value):
        _check_nesting(spec, element, depth + 1, row if depth else index, kinds)


def _wrong_element(spec: TensorSpec, raw: Any, allowed: set[type]) -> RequestError:
    """Name the first row with an element of a wrong type."""
    rows = raw if len(spec.shape) > 0 and isinstance(raw, list) else [raw]
    for row, value in enumerate(rows):
        found: set[type] = set()
        pending = [value]
        while pending:
            element = pending.pop()
            if isinstance(element, list):
                pending.extend(element)
            if not isinstance(element, list) or not element:
                found.add(type(element))
        wrong = found - allowed
        if type(None) in wrong:
            return RequestError(
                "not_finite",
                f"input {spec.name!r}: row {row} holds null, which a fixed-point ring cannot hold",
                input=spec.name,
                row=row,
                expected=expected(spec),
            )
        if wrong:
            names = sorted(_JSON_TYPES.get(kind, kind.__name__) for kind in wrong)
            return wrong_dtype(spec, " and ".join(names), row)
    return RequestError(
        "wrong_shape",
        f"input {spec.name!r} is nested deeper than shape {shape_text(spec.shape)}",
        input=spec.name,
        expected=expected(spec),
    )
