"""Preprocessing of ai.onnx.ml."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from converters.onnx.ops.index import take
from converters.onnx.registry import ML, op

Array = Any


@op(domain=ML, prefers_static=("Y",))
def ArrayFeatureExtractor(X: Array, Y: Array) -> Array:
    return take(X.reshape(1, -1) if X.ndim == 1 else X, Y.reshape(-1), -1)


@op(domain=ML)
def FeatureVectorizer(*X: Array, inputdimensions: tuple[int, ...] = ()) -> Array:
    columns = [x.reshape(x.shape[0], -1).astype(jnp.float32) for x in X]
    return jnp.concatenate(columns, axis=1)
