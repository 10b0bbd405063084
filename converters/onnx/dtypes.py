"""ONNX element types as the dtypes that this project computes in.

JAX runs without 64-bit types (they cost more under MPC and gain nothing there), and a fixed-point ring has
one kind of real number: every float becomes float32, 64-bit integers become 32-bit ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from converters.errors import NodeError

__all__ = ["STRING", "canonical", "canonical_dtype", "numpy_dtype"]

STRING = "str"
"""Dtype of string tensors in specifications: such a tensor never enters MPC."""

_CANONICAL = {
    "float16": "float32",
    "bfloat16": "float32",
    "float64": "float32",
    "int64": "int32",
    "uint64": "uint32",
}
_KEPT = {"float32", "int8", "int16", "int32", "uint8", "uint16", "uint32", "bool"}


def canonical_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype in which values of this numpy dtype are computed.

    Raises:
        NodeError: there is none (strings, complex numbers, 8-bit and 4-bit floats).
    """
    name = np.dtype(dtype).name
    name = _CANONICAL.get(name, name)
    if name not in _KEPT:
        raise NodeError(f"values of type {name} have no fixed-point form.", "use float32 or int32.")
    return np.dtype(name)


def canonical(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array in its computing dtype; integers that do not fit are cut to the nearest that does."""
    dtype = canonical_dtype(value.dtype)
    if dtype == value.dtype:
        return value
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        value = np.clip(value, limits.min, limits.max)
    return value.astype(dtype)


def numpy_dtype(element_type: int) -> np.dtype[Any]:
    """Computing dtype of an ONNX element type.

    Raises:
        NodeError: values of that type cannot be computed under MPC.
    """
    if element_type == TensorProto.STRING:
        raise NodeError("strings cannot be computed under MPC.", "encode text as numbers before the model.")
    if element_type == TensorProto.BFLOAT16:
        return np.dtype("float32")
    if element_type > TensorProto.BFLOAT16 or element_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        name = TensorProto.DataType.Name(element_type)
        raise NodeError(f"values of type {name} have no fixed-point form.", "use float32 or int32.")
    return canonical_dtype(helper.tensor_dtype_to_np_dtype(element_type))
