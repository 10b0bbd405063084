"""Tensors of the Open Inference Protocol: datatypes, JSON data and binary data."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_runner.http.codes import RequestError
from secure_runner.http.rows import array_of_rows
from secure_runner.http.types import Arrays
from secure_runner.programs.manifest import TensorSpec

__all__ = ["datatype_of", "read_inputs", "tensor_bytes"]

_DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_MAX_RANK = 16


def datatype_of(dtype: Any) -> str:
    """The protocol's name of a numpy dtype; strings are BYTES."""
    try:
        return _DATATYPES.get(np.dtype(dtype).name, "BYTES")
    except TypeError:
        return "BYTES"


def read_inputs(described: list[Any], binary: memoryview) -> Arrays:
    """Arrays by name out of the ``inputs`` of a request and the bytes after its JSON part.

    Raises:
        RequestError: an input is described wrongly, or its data do not fit its description.
    """
    arrays: Arrays = {}
    position = 0
    for tensor in described:
        name, dtype, shape = _description(tensor)
        if name in arrays:
            raise RequestError("malformed_body", "two inputs have the same name")
        size = _binary_size(tensor, name)
        if size is None:
            arrays[name] = _from_json(name, dtype, shape, tensor.get("data"))
            continue
        arrays[name] = _from_bytes(name, dtype, shape, binary[position : position + size], size)
        position += size
    if position != len(binary):
        raise RequestError(
            "malformed_body",
            f"the inputs announce {position} bytes of binary data, {len(binary)} came after the JSON part",
        )
    return arrays


def _description(tensor: Any) -> tuple[str, np.dtype[Any], list[int]]:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise RequestError("malformed_body", "inputs is a list of objects with name, shape and datatype")
    name = tensor["name"]
    shape = tensor.get("shape")
    fits = isinstance(shape, list) and len(shape) <= _MAX_RANK
    if not fits or any(type(dim) is not int or not 0 <= dim < 2**31 for dim in shape or ()):
        raise RequestError(
            "malformed_body", f"shape of input {name[:64]!r} is a list of dimensions, none negative"
        )
    dtype = _DTYPES.get(tensor["datatype"]) if isinstance(tensor.get("datatype"), str) else None
    if dtype is None:
        raise RequestError(
            "wrong_dtype", f"datatype of input {name[:64]!r} is one of {', '.join(_DTYPES)}", input=name[:64]
        )
    return name, np.dtype(dtype), list(shape or ())


def _binary_size(tensor: dict[str, Any], name: str) -> int | None:
    parameters = tensor.get("parameters")
    if parameters is None:
        return None
    if not isinstance(parameters, dict):
        raise RequestError("malformed_body", f"parameters of input {name[:64]!r} is an object")
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0 or "data" in tensor:
        raise RequestError(
            "malformed_body", f"input {name[:64]!r} has either data or a binary_data_size of bytes"
        )
    return size


def _from_bytes(
    name: str, dtype: np.dtype[Any], shape: list[int], data: memoryview, size: int
) -> npt.NDArray[Any]:
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != size or size != needed:
        raise RequestError(
            "malformed_body",
            f"input {name[:64]!r} of {dtype.name} and shape {shape} has {needed} bytes; binary_data_size is "
            f"{size}, of which {len(data)} came",
            input=name[:64],
        )
    if dtype.kind == "b":
        # Any byte but 0 is true; a view as bool would carry other bytes on.
        booleans: npt.NDArray[Any] = np.frombuffer(data, dtype=np.uint8) != 0
        return booleans.reshape(shape)
    array: npt.NDArray[Any] = np.frombuffer(data, dtype=dtype.newbyteorder("<")).reshape(shape)
    return array


def _from_json(name: str, dtype: np.dtype[Any], shape: list[int], data: Any) -> npt.NDArray[Any]:
    """The protocol allows data nested as the shape says, or flat in row-major order."""
    if not isinstance(data, list):
        raise RequestError("malformed_body", f"data of input {name[:64]!r} is a list", input=name[:64])
    nested = len(shape) > 1 and bool(data) and isinstance(data[0], list)
    layout = tuple(shape) if nested else (math.prod(shape),)
    spec = TensorSpec(name=name[:64], dtype=dtype.name, shape=layout)
    return array_of_rows(spec, data, None).reshape(shape)


def tensor_bytes(array: npt.NDArray[Any]) -> bytes:
    """Little-endian elements in row-major order; strings each with their length before them."""
    if array.dtype.kind in "fiub":
        return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    texts = [str(text).encode() for text in array.reshape(-1)]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
