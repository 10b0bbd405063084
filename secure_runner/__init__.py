"""Secure inference for BentoML: predictions computed between organisations under multi-party computation.

import secure_runner
from converters import from_onnx

secure_runner.save_model("credit", from_onnx("credit.onnx"))       # program and params, two BentoML models
runner = secure_runner.SecureRunner.for_model("credit:latest")     # a service for bentoml.depends()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secure_runner.errors import SecureRunnerError

if TYPE_CHECKING:
    from secure_runner.programs.store import SavedModel, save_model
    from secure_runner.runner.service import SecureRunner

__all__ = ["SavedModel", "SecureRunner", "SecureRunnerError", "save_model"]

_WHERE = {
    "SavedModel": "secure_runner.programs.store",
    "SecureRunner": "secure_runner.runner.service",
    "save_model": "secure_runner.programs.store",
}


def __getattr__(name: str) -> Any:
    # Party processes import parts of this package and need neither BentoML nor the store.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
