"""Tree ensembles: what `converters.onnx.trees` makes of the standard's operators.

The standard's own three are here for their results' shapes, which are needed before the trees are laid out.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from converters.errors import NodeError
from converters.onnx.registry import ML, op

Array = Any

_LARGE_BATCH = 16
"""Rows from which fewer comparisons are worth more rounds."""


def _register_shape(name: str, attributes: tuple[str, ...]) -> None:
    def shape_only(X: Array, **attrs: Any) -> Any:
        if attrs.get("refusal"):
            raise NodeError(*attrs["refusal"])
        rows = X.shape[0]
        if name != "TreeEnsembleClassifier":
            return jnp.zeros((rows, attrs.get("n_targets", 1)), jnp.float32)
        classes = max(len(attrs.get("classlabels_int64s", ())), len(attrs.get("classlabels_strings", ())))
        return jnp.zeros(rows, jnp.int32), jnp.zeros((rows, classes), jnp.float32)

    parameters = inspect_parameters(attributes)
    shape_only.__signature__ = parameters  # type: ignore[attr-defined]
    op(domain=ML, name=name)(shape_only)
