"""Constants of a file: their values, and which of them may be public.

Every trained number must stay secret, and a file does not say which numbers are trained. The rule:

- floats are secret, whatever their shape, except rank-0 floats with a short closed form (2, 0.5, 1e-5,
  1/sqrt(64), the coefficients of GELU), which exporters write for structure;
- rank-0 integers and booleans, and booleans of any shape (causal masks), are public;
- what an operator needs while converting (shapes, axes, indices) is public; see `structure`;
- everything else is secret.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper

__all__ = ["constant_value", "is_public"]

NDArray = np.ndarray[Any, Any]

_FAMOUS = (
    math.pi,
    math.e,
    math.log(2),
    math.log(10),
    math.sqrt(2 / math.pi),
    2 / math.sqrt(math.pi),
    1 / math.pi,
    1 / math.log(2),
    0.044715,
    1.702,
    1.0507009873554805,
    1.6732632423543772,
    0.7978845608 * 0.044715,
)
_TOLERANCE = 2e-7
"""Relative; half a unit of float32's last place is 6e-8."""
_LARGEST_COUNT = 4096


def is_public(value: NDArray) -> bool:
    """Whether a constant may be part of the public program by its form alone."""
    if value.dtype.kind in "OUS":
        return True
    if value.dtype == np.bool_:
        return True
    if value.ndim:
        return False
    return value.dtype.kind in "iu" or _has_closed_form(abs(float(value)))


def _has_closed_form(number: float) -> bool:
    """Whether a positive number is one that people write rather than one that training finds."""
    if number == 0 or not math.isfinite(number) or number >= float(np.finfo(np.float16).max):
        return True
    if float(f"{number:.1e}") == number or _close(number, float(f"{number:.1e}")):
        return True  # at most two significant decimal digits: 1e-05, 0.25, 12
    candidates = list(_FAMOUS)
    for power in (1, 2, 4):
        # n, sqrt(n) and n**(1/4), and their inverses: counts, widths of attention heads
        for root in (number, 1 / number):
            count = root**power
            if 1 <= round(count) <= _LARGEST_COUNT:
                candidates.append(
                    round(count) ** (1 / power) if root == number else 1 / round(count) ** (1 / power)
                )
    return any(_close(number, candidate) for candidate in candidates)


def _close(number: float, other: float) -> bool:
    return abs(number - other) <= _TOLERANCE * abs(other)


def constant_value(node: onnx.NodeProto) -> NDArray:
    """The value of a Constant node, in any of the forms that the standard allows."""
    attribute: AttributeProto = node.attribute[0]
    if attribute.name == "value":
        return np.asarray(numpy_helper.to_array(attribute.t))
    if attribute.name == "sparse_value":
        from converters.onnx.load import attribute_value

        return np.asarray(attribute_value(attribute))
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name.startswith("value_string"):
        many = [item.decode() for item in (value if attribute.name.endswith("s") else [value])]
        return np.asarray(many if attribute.name.endswith("s") else many[0], dtype=object)
    dtype = np.float32 if "float" in attribute.name else np.int64
    return np.asarray(value, dtype=dtype)
