"""Preprocessing of ai.onnx.ml."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from converters.errors import NodeError
from converters.onnx.dtypes import canonical
from converters.onnx.ops.index import take
from converters.onnx.registry import INTERNAL, ML, op

Array = Any
NDArray = np.ndarray[Any, Any]
Attributes = dict[str, Any]

_STRINGS = (
    "it maps strings, which cannot be computed under MPC, and its input is not an input of the model.",
    "map strings in the first step of the model, where the data owner can do it.",
)


@op(domain=ML, prefers_static=("Y",))
def ArrayFeatureExtractor(X: Array, Y: Array) -> Array:
    return take(X.reshape(1, -1) if X.ndim == 1 else X, Y.reshape(-1), -1)


@op(domain=ML)
def FeatureVectorizer(*X: Array, inputdimensions: tuple[int, ...] = ()) -> Array:
    columns = []
    for x, width in zip(X, inputdimensions or [None] * len(X), strict=True):
        column = x.reshape(x.shape[0], -1).astype(jnp.float32)[:, :width]
        missing = (width or 0) - column.shape[1]
        columns.append(jnp.pad(column, [(0, 0), (0, missing)]) if missing > 0 else column)
    return jnp.concatenate(columns, axis=1)


@op(domain=ML, weights=("threshold",))
def Binarizer(X: Array, *, threshold: Array | float = 0.0) -> Array:
    return (threshold < X).astype(X.dtype)


def _first(attrs: Attributes, *names: str) -> Any:
    return next((attrs[name] for name in names if attrs.get(name) is not None and np.size(attrs[name])), None)


def _mapping(attrs: Attributes) -> tuple[Attributes, dict[str, NDArray]]:
    """Strings stay attributes, numbers are trained: the code that a training gave to each category."""
    keys = _first(attrs, "keys_tensor", "keys_strings", "keys_int64s", "keys_floats")
    values = _first(attrs, "values_tensor", "values_strings", "values_int64s", "values_floats")
    if _first(attrs, "classes_strings") is not None:  # version 1: strings to their positions
        keys, values = attrs["classes_strings"], np.arange(len(attrs["classes_strings"]))
    if keys is None or values is None:
        return {"refusal": ("it has no keys or no values.", "export the model again.")}, {}
    default: Any = _first(attrs, "default_tensor")
    if default is None:
        kinds = {"U": ("default_string", "_Unused"), "f": ("default_float", -0.0), "i": ("default_int64", -1)}
        name, absent = kinds.get(_kind(values), ("", 0))
        default = attrs.get(name, absent)
    return _split(keys, values, default)


def _categories(attrs: Attributes) -> tuple[Attributes, dict[str, NDArray]]:
    """CategoryMapper from strings to integers; the other way is an output's label, which `labels` sees to."""
    codes = np.asarray(attrs.get("cats_int64s", ()))
    return _split(attrs.get("cats_strings", ()), codes, attrs.get("default_int64", -1))


def _one_hot_categories(attrs: Attributes) -> tuple[Attributes, dict[str, NDArray]]:
    strings = tuple(attrs.get("cats_strings") or ())
    if strings:
        return {"keys": strings}, {}
    return {}, {"categories": np.asarray(attrs.get("cats_int64s", ()), np.int32)}


def _kind(values: Any) -> str:
    kind = np.asarray(values).dtype.kind
    return {"O": "U", "S": "U", "u": "i", "b": "i"}.get(kind, kind)


def _split(keys: Any, values: Any, default: Any) -> tuple[Attributes, dict[str, NDArray]]:
    public: Attributes = {}
    secret: dict[str, NDArray] = {}
    for name, part in (("keys", keys), ("values", values)):
        array = np.ravel(np.asarray(part))
        if _kind(array) == "U":
            public[name] = tuple(item.decode() if isinstance(item, bytes) else str(item) for item in array)
        else:
            secret[f"{name}_array"] = canonical(array)
    if _kind(values) == "U":
        public["default"] = str(np.ravel(default)[0])
    else:
        dtype = secret["values_array"].dtype
        secret["default_array"] = np.ravel(np.asarray(default)).astype(dtype)[:1]
    return public, secret


@op(domain=ML, lift=_mapping)
def LabelEncoder(
    X: Array,
    *,
    keys: Sequence[str] = (),
    values: Sequence[str] = (),
    default: str = "",
    keys_array: Array | None = None,
    values_array: Array | None = None,
    default_array: Array | None = None,
    refusal: tuple[str, str] | None = None,
) -> Array:
    """Numbers to numbers by comparison with every key; strings are mapped by the data owner."""
    if refusal is not None:
        raise NodeError(*refusal)
    if values_array is None or default_array is None or keys_array is None:
        raise NodeError(*_STRINGS)
    met = (X[..., None] == keys_array.astype(X.dtype)).astype(jnp.int32)
    return jnp.sum(met * (values_array - default_array), axis=-1, dtype=values_array.dtype) + default_array[0]


op(domain=ML, name="CategoryMapper", lift=_categories)(LabelEncoder)


@op(domain=ML, lift=_one_hot_categories)
def OneHotEncoder(
    X: Array,
    *,
    keys: Sequence[str] = (),
    categories: Array | None = None,
    refusal: tuple[str, str] | None = None,
) -> Array:
    """Rows of 0 and 1 along a new last axis; a value that is no category gives zeros."""
    if refusal is not None:
        raise NodeError(*refusal)
    if categories is None:
        raise NodeError(*_STRINGS)
    return (X[..., None] == categories.astype(X.dtype)).astype(jnp.float32)


@op(domain=ML)
def DictVectorizer(X: Array, *, int64_vocabulary: Any = (), string_vocabulary: Any = ()) -> Array:
    raise NodeError(
        "its input is a dictionary, which has no fixed shape.",
        "build the row of features before the model and export without DictVectorizer.",
    )


def _imputed(attrs: Attributes) -> tuple[Attributes, dict[str, NDArray]]:
    floats = _first(attrs, "imputed_value_floats")
    values = np.asarray(floats if floats is not None else attrs.get("imputed_value_int64s", ()), np.float32)
    name = "replaced_value_float" if floats is not None else "replaced_value_int64"
    return {"replaced": float(attrs.get(name, 0))}, {"imputed": values}


@op(domain=ML, lift=_imputed)
def Imputer(X: Array, *, imputed: Array, replaced: float = 0.0) -> Array:
    """Inside the model no value is NaN, so only other marks are looked for."""
    if np.isnan(replaced):
        return X
    return jnp.where(np.asarray(replaced, X.dtype) == X, imputed.astype(X.dtype), X)


@op(domain=INTERNAL)
def FillMissing(X: Array, missing: Array, *, imputed: Array) -> Array:
    """Imputed values where the data owner marked a value as missing (1, with 0 in its place)."""
    return X + missing * imputed.astype(X.dtype)


@op(domain=INTERNAL)
def WeightedCategories(X: Array, *, values_array: Array, default_array: Array) -> Array:
    """Trained numbers of categories, from the one-hot rows (..., categories) int32 of the data owner."""
    return jnp.matmul(X, values_array - default_array) + default_array[0]
