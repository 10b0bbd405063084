"""How a program's variables are called inside SPU."""

from __future__ import annotations

__all__ = ["input_name", "output_name", "param_name"]


def param_name(name: str) -> str:
    """SPU variable of a param."""
    return f"param:{name}"


def input_name(name: str) -> str:
    """SPU variable of a private input."""
    return f"input:{name}"


def output_name(name: str) -> str:
    """SPU variable of a private output."""
    return f"output:{name}"
