"""The inputs of a model: their dtypes, their shapes, and which dimension is the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from converters.errors import InputSpecError, NodeError
from converters.model import TensorSpec
from converters.onnx.dtypes import STRING, numpy_dtype

__all__ = ["InputShapes", "resolve_inputs"]

InputShapes = Mapping[str, Sequence[int | None]]
_BATCH = object()
"""Mark of a dimension without size and without name in front: the batch."""


def resolve_inputs(
    model: onnx.ModelProto, input_shapes: InputShapes | None, static: Mapping[str, Any]
) -> list[TensorSpec]:
    """Specifications of the private inputs, in the model's order; those in ``static`` are left out.

    The dimension that the first dimensions without a fixed size share is the batch (``None``). Any other
    dimension without a fixed size must be given in ``input_shapes``.

    Raises:
        InputSpecError: a dimension is unknown, a name is not an input's, or a type is no tensor's.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    declared = {value.name: value for value in model.graph.input if value.name not in stored}
    shapes = dict(input_shapes or {})
    for name in [*shapes, *static]:
        if name not in declared:
            raise InputSpecError(f"the model has no input {name!r}; its inputs are {', '.join(declared)}.")
    wanted = [value for name, value in declared.items() if name not in static]
    dims = {value.name: _dims(value) for value in wanted}
    batch_names = {shape[0] for shape in dims.values() if shape and not isinstance(shape[0], int)}
    symbols = {dim for shape in dims.values() for dim in shape or () if not isinstance(dim, int)}
    if len(symbols) == 1:
        batch_names = symbols
    specs = []
    for value in wanted:
        own = dims[value.name]
        if value.name in shapes:
            shape = _given(value.name, shapes[value.name], own)
        else:
            shape = _own(value.name, own, batch_names)
        specs.append(TensorSpec(value.name, _dtype(value), shape))
    return specs


def _dtype(value: onnx.ValueInfoProto) -> str:
    if value.type.WhichOneof("value") != "tensor_type":
        raise InputSpecError(
            f"input {value.name!r} is not a tensor ({value.type.WhichOneof('value')}); export the model with "
            "tensor inputs."
        )
    element_type = value.type.tensor_type.elem_type
    if element_type == onnx.TensorProto.STRING:
        return STRING
    try:
        return numpy_dtype(element_type).name
    except NodeError as error:
        raise InputSpecError(f"input {value.name!r}: {error}") from error


def _dims(value: onnx.ValueInfoProto) -> tuple[Any, ...] | None:
    """Sizes, names or the batch mark; None where even the rank is unknown."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    dims: list[Any] = []
    for index, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            dims.append(dim.dim_value)
        elif dim.dim_param:
            dims.append(dim.dim_param)
        else:
            dims.append(_BATCH if index == 0 else object())
    return tuple(dims)


def _given(name: str, given: Sequence[int | None], own: tuple[Any, ...] | None) -> tuple[int | None, ...]:
    shape = tuple(None if dim is None else int(dim) for dim in given)
    if own is not None and len(own) != len(shape):
        raise InputSpecError(f"input {name!r} has {len(own)} dimensions, input_shapes gives {len(shape)}.")
    for index, (dim, fixed) in enumerate(zip(shape, own or (), strict=False)):
        if dim is not None and isinstance(fixed, int) and fixed not in (dim, 0):
            raise InputSpecError(f"input {name!r}, dimension {index}: the model fixes {fixed}, not {dim}.")
    return shape


def _own(name: str, own: tuple[Any, ...] | None, batch_names: set[Any]) -> tuple[int | None, ...]:
    if own is None:
        raise InputSpecError(
            f"input {name!r} has no shape in the model; give one: input_shapes={{{name!r}: (None, 30)}}."
        )
    unknown = [i for i, dim in enumerate(own) if not isinstance(dim, int) and dim not in batch_names]
    if unknown:
        sizes = ["None" if dim in batch_names else str(dim) if isinstance(dim, int) else "128" for dim in own]
        raise InputSpecError(
            f"input {name!r}: the size of dimension {', '.join(map(str, unknown))} is not known; give it, "
            f"for example input_shapes={{{name!r}: ({', '.join(sizes)})}}."
        )
    return tuple(dim if isinstance(dim, int) else None for dim in own)
