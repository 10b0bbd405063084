"""Operators by theme; importing this package registers them all."""

from converters.onnx.ops import (
    activation,
    arithmetic,
    cast,
    compare,
    elementary,
    generate,
    index,
    layout,
    linear,
    ml_linear,
    ml_preprocessing,
    reduce,
)

__all__ = [
    "activation",
    "arithmetic",
    "cast",
    "compare",
    "elementary",
    "generate",
    "index",
    "layout",
    "linear",
    "ml_linear",
    "ml_preprocessing",
    "reduce",
]
