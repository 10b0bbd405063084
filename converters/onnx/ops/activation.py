"""Activations. Products, maxima and exponentials only: what a fixed-point ring computes well."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from converters.onnx.registry import op

Array = Any


@op()
def Relu(X: Array, *, consumed_inputs: Any = None) -> Array:
    return jnp.maximum(X, jnp.zeros((), X.dtype))


@op()
def LeakyRelu(X: Array, *, alpha: float = 0.01, consumed_inputs: Any = None) -> Array:
    return jnp.maximum(X, 0) + alpha * jnp.minimum(X, 0)


@op()
def PRelu(X: Array, slope: Array, *, consumed_inputs: Any = None) -> Array:
    if slope.ndim == 1 and slope.shape[0] > 1 and X.ndim > 1 and slope.shape[0] == X.shape[1] != X.shape[-1]:
        slope = slope.reshape((-1,) + (1,) * (X.ndim - 2))  # opset 6: one slope for each channel
    return jnp.where(X < 0, X * slope, X)


@op()
def ThresholdedRelu(X: Array, *, alpha: float = 1.0) -> Array:
    return jnp.where(alpha < X, X, 0)


@op()
def Sigmoid(X: Array, *, consumed_inputs: Any = None) -> Array:
    return lax.logistic(X)


@op()
def Tanh(input: Array, *, consumed_inputs: Any = None) -> Array:
    return jnp.tanh(input)


@op()
def HardSigmoid(X: Array, *, alpha: float = 0.2, beta: float = 0.5, consumed_inputs: Any = None) -> Array:
    return jnp.minimum(jnp.maximum(alpha * X + beta, 0), 1)


@op()
def HardSwish(X: Array) -> Array:
    return X * HardSigmoid(X, alpha=1 / 6, beta=0.5)


@op()
def Swish(X: Array, *, alpha: float = 1.0) -> Array:
    return X * lax.logistic(alpha * X)


@op()
def Elu(X: Array, *, alpha: float = 1.0, consumed_inputs: Any = None) -> Array:
    return jnp.maximum(X, 0) + alpha * (jnp.exp(jnp.minimum(X, 0)) - 1)


@op()
def Celu(X: Array, *, alpha: float = 1.0) -> Array:
    return jnp.maximum(X, 0) + alpha * (jnp.exp(jnp.minimum(X, 0) / alpha) - 1)


@op(name="Selu", since=1)
def Selu_1(X: Array, *, alpha: float = 1.6732, gamma: float = 1.0507, consumed_inputs: Any = None) -> Array:
    return gamma * Elu(X, alpha=alpha)


@op(since=6)
def Selu(
    X: Array, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Array:
    return gamma * Elu(X, alpha=alpha)


@op()
def Softplus(X: Array) -> Array:
    return jnp.maximum(X, 0) + jnp.log(1 + jnp.exp(-jnp.abs(X)))


@op()
def Softsign(input: Array) -> Array:
    return input / (1 + jnp.abs(input))


@op()
def Mish(X: Array) -> Array:
    return X * jnp.tanh(Softplus(X))


@op()
def Shrink(input: Array, *, lambd: float = 0.5, bias: float = 0.0) -> Array:
    shrunk = jnp.where(input < -lambd, input + bias, jnp.where(input > lambd, input - bias, 0))
    return shrunk.astype(input.dtype)


@op()
def Gelu(X: Array, *, approximate: str = "none") -> Array:
    if approximate == "tanh":
        inner = np.float32(np.sqrt(2 / np.pi)) * (X + 0.044715 * X * X * X)
        return 0.5 * X * (1 + jnp.tanh(inner))
    return 0.5 * X * (1 + lax.erf(X * np.float32(np.sqrt(0.5))))


def softmax(X: Array, axis: int) -> Array:
    """exp(x) / sum(exp(x)): one reciprocal for each row, not one for each element."""
    powers = jnp.exp(X - jnp.max(X, axis=axis, keepdims=True))
    return powers * (1 / jnp.sum(powers, axis=axis, keepdims=True))


def log_softmax(X: Array, axis: int) -> Array:
    """x - log(sum(exp(x)))."""
    shifted = X - jnp.max(X, axis=axis, keepdims=True)
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=axis, keepdims=True))


def _as_rows(X: Array, axis: int) -> Array:
    """Up to opset 12 all dimensions from ``axis`` on are one."""
    axis = axis % X.ndim if X.ndim else 0
    return X.reshape(int(np.prod(X.shape[:axis])), -1)


@op(name="Softmax", since=1)
def Softmax_1(input: Array, *, axis: int = 1) -> Array:
    return softmax(_as_rows(input, axis), 1).reshape(input.shape)


@op(since=13)
def Softmax(input: Array, *, axis: int = -1) -> Array:
    return softmax(input, axis)


@op(name="LogSoftmax", since=1)
def LogSoftmax_1(input: Array, *, axis: int = 1) -> Array:
    return log_softmax(_as_rows(input, axis), 1).reshape(input.shape)


@op(since=13)
def LogSoftmax(input: Array, *, axis: int = -1) -> Array:
    return log_softmax(input, axis)


def _first_largest(X: Array, axis: int) -> Array:
    """One-hot of the first largest value along ``axis``."""
    largest = (jnp.max(X, axis=axis, keepdims=True) == X).astype(jnp.int32)
    return largest * (jnp.cumsum(largest, axis=axis) == 1)


@op(name="Hardmax", since=1)
def Hardmax_1(input: Array, *, axis: int = 1) -> Array:
    return _first_largest(_as_rows(input, axis), 1).reshape(input.shape).astype(input.dtype)


@op(since=13)
def Hardmax(input: Array, *, axis: int = -1) -> Array:
    return _first_largest(input, axis).astype(input.dtype)
