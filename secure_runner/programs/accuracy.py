"""How far a model's answers under the real protocol are from the ones in floating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secure_runner.protocols import ProtocolName

if TYPE_CHECKING:
    from converters import ConvertedModel

__all__ = ["OutputAccuracy", "accuracy"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class OutputAccuracy:
    """One output of a model, compared on samples."""

    output: str
    protocol: ProtocolName
    rows: int
    agreement: float
    """Share of rows that are equal (labels, integers) or within ``tolerance`` (floats), 0 to 1."""
    largest_error: float | None
    """Largest absolute error; None for labels."""
    mean_error: float | None
    tolerance: float

    def __str__(self) -> str:
        if self.largest_error is None:
            return f"{self.output}: {self.agreement:.1%} of {self.rows} labels agree under {self.protocol}"
        return (
            f"{self.output}: largest error {self.largest_error:.1e}, mean {self.mean_error:.1e} on "
            f"{self.rows} rows under {self.protocol}"
        )


def accuracy(
    model: ConvertedModel,
    *inputs: Any,
    expected: Sequence[Any] | None = None,
    protocol: ProtocolName = "aby3",
    tolerance: float = 5e-3,
) -> tuple[OutputAccuracy, ...]:
    """Run samples under SPU, all parties in this process, and compare.

    Args:
        model: a converted model, with the ring that calibration chose.
        inputs: one array for each input of the model.
        expected: what onnxruntime or Flax says, one array for each output; by default the converted model
            itself in floating point.
        protocol: which protocol; see `secure_runner.testing.simulate`.
        tolerance: error up to which a row of floats counts as agreeing.

    Returns:
        One entry for each output.
    """
    from secure_runner.testing import simulate

    wanted = model.predict(model.params, *inputs) if expected is None else expected
    found = simulate(model, *inputs, protocol=protocol)
    return tuple(
        _compared(spec.name, protocol, np.asarray(one), np.asarray(other), tolerance)
        for spec, one, other in zip(model.outputs, found, wanted, strict=True)
    )


def _compared(
    name: str, protocol: ProtocolName, found: Array, wanted: Array, tolerance: float
) -> OutputAccuracy:
    rows = found.shape[0] if found.ndim else 1
    if wanted.dtype.kind != "f":
        equal = (found == wanted).reshape(rows, -1).all(axis=1)
        return OutputAccuracy(name, protocol, rows, float(equal.mean()), None, None, tolerance)
    errors = np.abs(found.astype(np.float64) - wanted).reshape(rows, -1)
    close = (errors <= tolerance).all(axis=1)
    return OutputAccuracy(
        name, protocol, rows, float(close.mean()), float(errors.max()), float(errors.mean()), tolerance
    )
