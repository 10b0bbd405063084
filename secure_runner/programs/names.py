"""How a program's variables are called inside SPU."""

from __future__ import annotations

__all__ = ["input_name", "is_param", "output_name", "param_name"]

_PARAM = "param:"


def param_name(name: str) -> str:
    """SPU variable of a param."""
    return f"{_PARAM}{name}"


def is_param(variable: str) -> bool:
    """Whether a variable is a param's."""
    return variable.startswith(_PARAM)


def input_name(name: str) -> str:
    """SPU variable of a private input."""
    return f"input:{name}"


def output_name(name: str) -> str:
    """SPU variable of a private output."""
    return f"output:{name}"
