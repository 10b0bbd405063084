"""ONNX models: load, fold, rewrite, trace."""

from converters.onnx.convert import from_onnx

__all__ = ["from_onnx"]
