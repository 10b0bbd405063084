"""Model file -> `ConvertedModel`: a pure JAX predict function and the secret weights that go with it.

Imports neither spu, secretflow nor bentoml: a model can be converted and looked at anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.errors import (
        ConversionError,
        InputSpecError,
        ModelFileError,
        Problem,
        UnsupportedModelError,
    )
    from converters.flax import from_flax
    from converters.local_steps import LocalStep, apply_steps
    from converters.model import ConversionReport, ConvertedModel, Numeric, TensorSpec
    from converters.onnx import from_onnx

__all__ = [
    "ConversionError",
    "ConversionReport",
    "ConvertedModel",
    "InputSpecError",
    "LocalStep",
    "ModelFileError",
    "Numeric",
    "Problem",
    "TensorSpec",
    "UnsupportedModelError",
    "apply_steps",
    "from_flax",
    "from_onnx",
]

_WHERE = {
    "converters.errors": (
        "ConversionError",
        "InputSpecError",
        "ModelFileError",
        "Problem",
        "UnsupportedModelError",
    ),
    "converters.flax": ("from_flax",),
    "converters.local_steps": ("LocalStep", "apply_steps"),
    "converters.model": ("ConversionReport", "ConvertedModel", "Numeric", "TensorSpec"),
    "converters.onnx": ("from_onnx",),
}


def __getattr__(name: str) -> Any:
    # A runner applies local steps and nothing else: it starts without JAX and ONNX.
    from importlib import import_module

    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
