"""Model file -> `ConvertedModel`: a pure JAX predict function and the secret weights that go with it.

Imports neither spu, secretflow nor bentoml: a model can be converted and looked at anywhere.
"""

from converters.errors import ConversionError, InputSpecError, ModelFileError, Problem, UnsupportedModelError
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
