"""Shapes of inputs: what a spec expects, and the errors that say so."""

from __future__ import annotations

from typing import Any

from secure_runner.http.codes import RequestError
from secure_runner.programs.manifest import TensorSpec

__all__ = ["batch_axis", "check_rows", "check_shape", "expected", "shape_text", "wrong_dtype"]


def batch_axis(spec: TensorSpec) -> int | None:
    """Which dimension is the batch, if any is."""
    return spec.shape.index(None) if None in spec.shape else None


def expected(spec: TensorSpec) -> dict[str, Any]:
    """What an error body says under ``expected``."""
    return {"shape": list(spec.shape), "dtype": spec.dtype}


def shape_text(shape: tuple[int | None, ...]) -> str:
    """A shape for people: ``[rows, 30]``."""
    return "[" + ", ".join("rows" if dim is None else str(dim) for dim in shape) + "]"


def check_shape(spec: TensorSpec, shape: tuple[int, ...], max_rows: int | None) -> None:
    """Refuse any shape but the one of the spec, and a batch that is empty or too large."""
    fits = len(shape) == len(spec.shape) and all(
        want in (None, got) for want, got in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise RequestError(
            "wrong_shape",
            f"input {spec.name!r} expects shape {shape_text(spec.shape)}, received {list(shape)}",
            input=spec.name,
            expected=expected(spec),
            received={"shape": list(shape)},
        )
    axis = batch_axis(spec)
    if axis is not None:
        check_rows(spec, shape[axis], max_rows)


def check_rows(spec: TensorSpec, rows: int, max_rows: int | None) -> None:
    """Refuse an empty batch and one of more than ``max_rows``."""
    if rows == 0:
        raise RequestError(
            "empty_batch",
            f"input {spec.name!r} has no rows; send at least one of shape {shape_text(spec.shape[1:])}",
            input=spec.name,
            expected=expected(spec),
        )
    if max_rows is not None and rows > max_rows:
        raise RequestError(
            "too_many_rows",
            f"input {spec.name!r} has {rows} rows; one request may have {max_rows}",
            input=spec.name,
            expected={"max_rows": max_rows},
            received={"rows": rows},
        )


def wrong_dtype(spec: TensorSpec, received: str, row: int | None = None) -> RequestError:
    """The error for values that cannot become the input's dtype."""
    where = "" if row is None else f" in row {row}"
    details = {} if row is None else {"row": row}
    return RequestError(
        "wrong_dtype",
        f"input {spec.name!r} expects {spec.dtype}, received {received}{where}",
        input=spec.name,
        expected=expected(spec),
        received={"dtype": received},
        **details,
    )
