"""The last check before a program is public: no trained value may be a constant in an executable."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_runner.errors import LeakError

__all__ = ["check_no_leak", "constants_of"]

_DENSE = re.compile(r"dense<(?P<value>\"0x[0-9A-Fa-f]*\"|[^>]*)>\s*:\s*tensor<(?P<type>[^>]*)>")
_NUMBER = re.compile(r"0x[0-9A-Fa-f]+|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_FLOATS: dict[str, type[np.floating[Any]]] = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
_ROUND_DENOMINATOR = 64.0
"""Values that are multiples of 1/64 up to this size are structure (0, 1, -0.5, 2 …), in any model."""
_ROUND_LIMIT = 4096.0
_AT_ONCE = 1 << 22


def constants_of(code: str) -> Iterator[npt.NDArray[np.floating[Any]]]:
    """All floating-point constants in an executable's text, each as a flat array."""
    for match in _DENSE.finditer(code):
        dtype = _FLOATS.get(match["type"].rsplit("x", 1)[-1])
        if dtype is None:
            continue
        value = match["value"]
        if value.startswith('"'):
            yield np.frombuffer(bytes.fromhex(value[3:-1]), dtype)
        else:
            yield np.array([_number(token, dtype) for token in _NUMBER.findall(value)], dtype)


def _number(token: str, dtype: type[np.floating[Any]]) -> float:
    """MLIR writes a number that seven digits do not hold, 1234567 for example, as its bits."""
    if not token.startswith("0x"):
        return float(token)
    bits = int(token, 16).to_bytes(np.dtype(dtype).itemsize, sys.byteorder)
    return float(np.frombuffer(bits, dtype)[0])


def check_no_leak(code: str, params: Mapping[str, npt.NDArray[Any]]) -> None:
    """Compare every constant of an executable with every trained value.

    Round numbers are left aside: they are in every program (the 0 of a ReLU) and tell nothing of a model.

    Raises:
        LeakError: a constant equals a trained value; names the param, never the value.
    """
    found = [values.astype(np.float32) for values in constants_of(code)]
    constants = np.unique(np.concatenate(found)) if found else np.zeros(0, np.float32)
    telling = constants[~_is_round(constants)]
    if not telling.size:
        return
    for name, value in params.items():
        if np.issubdtype(value.dtype, np.floating) and _holds_any(value, telling):
            raise LeakError(
                f"param {name} (shape {value.shape}) would be a constant of the program, and so public "
                "to all parties. Pass trained values through params, never through closures or literals"
            )


def _holds_any(value: npt.NDArray[Any], wanted: npt.NDArray[np.float32]) -> bool:
    """Whether any of the wanted numbers, which are sorted, is in the array; without a copy of all of it."""
    flat = value.reshape(-1)
    for start in range(0, flat.size, _AT_ONCE):
        part = flat[start : start + _AT_ONCE].astype(np.float32)
        nearest = wanted[np.minimum(np.searchsorted(wanted, part), wanted.size - 1)]
        if (nearest == part).any():
            return True
    return False


def _is_round(values: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    scaled = values * _ROUND_DENOMINATOR
    round_numbers: npt.NDArray[np.bool_] = (np.abs(values) <= _ROUND_LIMIT) & (scaled == np.round(scaled))
    return ~np.isfinite(values) | round_numbers
