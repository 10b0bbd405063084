"""Exponential, logarithm, trigonometric and error functions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from converters.onnx.registry import op

Array = Any


@op()
def Exp(input: Array, *, consumed_inputs: Any = None) -> Array:
    return jnp.exp(input)


@op()
def Log(input: Array, *, consumed_inputs: Any = None) -> Array:
    return jnp.log(input)


@op()
def Erf(input: Array) -> Array:
    return lax.erf(input)


@op()
def Sin(input: Array) -> Array:
    return jnp.sin(input)


@op()
def Cos(input: Array) -> Array:
    return jnp.cos(input)


@op()
def Tan(input: Array) -> Array:
    return jnp.sin(input) / jnp.cos(input)  # SPU has no tan


@op()
def Asin(input: Array) -> Array:
    return 2 * jnp.arctan2(input, 1 + jnp.sqrt(1 - input * input))


@op()
def Acos(input: Array) -> Array:
    return jnp.arctan2(jnp.sqrt(1 - input * input), input)


@op()
def Atan(input: Array) -> Array:
    return jnp.arctan2(input, jnp.ones_like(input))


@op()
def Sinh(input: Array) -> Array:
    return 0.5 * (jnp.exp(input) - jnp.exp(-input))


@op()
def Cosh(input: Array) -> Array:
    return 0.5 * (jnp.exp(input) + jnp.exp(-input))


@op()
def Asinh(input: Array) -> Array:
    size = jnp.abs(input)
    return jnp.sign(input) * jnp.log(size + jnp.sqrt(size * size + 1))


@op()
def Acosh(input: Array) -> Array:
    return jnp.log(input + jnp.sqrt(input * input - 1))


@op()
def Atanh(input: Array) -> Array:
    return 0.5 * (jnp.log(1 + input) - jnp.log(1 - input))
