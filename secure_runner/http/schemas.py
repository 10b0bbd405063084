"""JSON schemas of a program's inputs and outputs, out of its manifest."""

from __future__ import annotations

from typing import Any

import numpy as np

from secure_runner.programs.manifest import InputRange, Manifest, TensorSpec

__all__ = ["array_schema", "inputs_schema", "outputs_schema"]

# How BentoML's clients are told that an argument may be a numpy array.
_BENTOML_TENSOR = {"type": "tensor", "format": "numpy-array"}
_ELEMENT_TYPES = {"f": "number", "i": "integer", "u": "integer", "b": "boolean"}


def array_schema(spec: TensorSpec, bounds: InputRange | None = None) -> dict[str, Any]:
    """Nested lists of the spec's shape, of elements within ``bounds``."""
    schema: dict[str, Any] = {"type": _element_type(spec.dtype)}
    if bounds is not None:
        schema |= {"minimum": bounds.low, "maximum": bounds.high}
    for size in reversed(spec.shape):
        lengths = {"minItems": 1} if size is None else {"minItems": size, "maxItems": size}
        schema = {"type": "array", "items": schema, **lengths}
    return schema


def _element_type(dtype: str) -> str:
    try:
        return _ELEMENT_TYPES[np.dtype(dtype).kind]
    except (TypeError, KeyError):
        return "string"


def inputs_schema(manifest: Manifest, *, for_bentoml_client: bool = False) -> dict[str, Any]:
    """The ``inputs`` field of a request: rows of a single input, or an object of name to rows."""

    def one(spec: TensorSpec) -> dict[str, Any]:
        return (
            dict(_BENTOML_TENSOR)
            if for_bentoml_client
            else array_schema(spec, manifest.input_ranges.get(spec.name))
        )

    named = {
        "type": "object",
        "properties": {spec.name: one(spec) for spec in manifest.inputs},
        "required": [spec.name for spec in manifest.inputs],
        "additionalProperties": False,
    }
    if len(manifest.inputs) > 1:
        return named
    rows = one(manifest.inputs[0])
    return rows if for_bentoml_client else {"anyOf": [rows, named]}


def outputs_schema(manifest: Manifest) -> dict[str, Any]:
    """The ``outputs`` field of an answer, alike."""
    if len(manifest.outputs) == 1:
        return array_schema(manifest.outputs[0])
    return {
        "type": "object",
        "properties": {spec.name: array_schema(spec) for spec in manifest.outputs},
        "required": [spec.name for spec in manifest.outputs],
    }
