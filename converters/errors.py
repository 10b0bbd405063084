"""Every error that the converters raise.

    ConversionError
    ├── ModelFileError           the file cannot be read, or points outside its own folder
    ├── InputSpecError           shapes, static values or calibration inputs do not fit the model
    └── UnsupportedModelError    nodes that cannot be converted: all of them, each with reason and remedy

No message carries a trained value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = [
    "ConversionError",
    "InputSpecError",
    "ModelFileError",
    "NodeError",
    "Problem",
    "UnsupportedModelError",
]


class ConversionError(Exception):
    """Base of all errors of the converters."""


class ModelFileError(ConversionError):
    """The model file is missing, damaged, or refers to data outside its own folder."""


class InputSpecError(ConversionError):
    """``input_shapes``, ``static`` or ``calibration`` do not fit the model's inputs."""


class Problem(NamedTuple):
    """One node that cannot be converted."""

    node: str
    """The node's name, or its index in the file where it has none."""
    op: str
    domain: str
    version: int
    reason: str
    remedy: str

    def __str__(self) -> str:
        domain = self.domain or "ai.onnx"
        text = f"{self.node}: {self.op} ({domain} opset {self.version}): {self.reason}"
        return f"{text} To fix it: {self.remedy}" if self.remedy else text


class UnsupportedModelError(ConversionError):
    """The model holds nodes that cannot be converted. ``problems`` lists every one of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = f"{count} node{'s' if count != 1 else ''} of this model cannot be converted:"
        super().__init__("\n".join([heading, *(f"  - {problem}" for problem in self.problems)]))


class NodeError(Exception):
    """Raised by an operator's function; the tracer adds which node it was and makes it a `Problem`."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
