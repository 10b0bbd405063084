"""Flax modules (linen and NNX), `transformers` Flax models and plain JAX functions -> `ConvertedModel`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters.calibration import calibrated
from converters.errors import ConversionError, InputSpecError
from converters.jaxpr.program import JAX_REWRITES, JaxProgram
from converters.local_steps import apply_steps
from converters.model import ConversionReport, ConvertedModel, Numeric, TensorSpec
from converters.passes import Rewrites, switched_on

__all__ = ["from_flax"]

_SEPARATOR = "/"
_PROBE_BATCHES = (2, 3)
Apply = Callable[..., Any]


def from_flax(
    module: Any,
    variables: Mapping[str, Any] | None,
    *example_inputs: Any,
    rewrites: Rewrites = None,
    calibration: Sequence[Any] | None = None,
    **options: Any,
) -> ConvertedModel:
    """Convert a Flax module.

    Args:
        module: a linen module (called as ``module.apply(variables, *inputs, **options)``), an NNX module
            (with ``variables=None``), a Flax model of `transformers` (called with ``params=variables``), or a
            function ``(variables, *inputs, **options)``.
        variables: variable collections (``params``, ``batch_stats``); all of them become secret params.
        example_inputs: one array for each input; dimension 0 is the batch.
        rewrites: which rewrites run: nothing for the defaults, a mapping to switch some, or their names.
        calibration: sample inputs, one array for each input (or several such lists).
        options: fixed keyword arguments of the call, for example ``train=False``.

    Raises:
        InputSpecError: no example input was given.
        ConversionError: the module cannot be called this way, or there is no rewrite of that name.
    """
    if not example_inputs:
        raise InputSpecError("from_flax needs an example of each input, to learn shapes and dtypes.")
    apply, variables = _pure(module, variables)
    params = _flatten(variables)
    inputs = tuple(
        TensorSpec(f"input_{index}", _dtype(value), (None, *np.shape(value)[1:]))
        for index, value in enumerate(example_inputs)
    )

    def function(flat: Mapping[str, Any], *arrays: Any) -> tuple[Any, ...]:
        return tuple(jax.tree_util.tree_leaves(apply(_unflatten(flat), *arrays, **options)))

    abstract = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in params.items()}
    names = _output_names(apply, abstract, inputs, options)
    program = JaxProgram(function, abstract, inputs, switched_on(JAX_REWRITES, rewrites), names)
    model = _described(program, params)
    if calibration is None:
        return model
    return calibrated(model, calibration)


def _described(program: JaxProgram, params: dict[str, Any]) -> ConvertedModel:
    private_outputs = _private_outputs(program)
    runs = [
        apply_steps(
            program.graph.decode,
            {spec.name: np.zeros(spec.with_batch(batch), spec.dtype) for spec in private_outputs},
        )
        for batch in _PROBE_BATCHES
    ]
    outputs = tuple(
        TensorSpec(name, str(runs[0][name].dtype), _common(runs[0][name].shape, runs[1][name].shape))
        for name in program.output_names
    )
    return ConvertedModel(
        params=params,
        inputs=program.inputs,
        outputs=outputs,
        private_inputs=program.private_inputs,
        private_outputs=private_outputs,
        private_predict=program,
        encode=program.encode,
        decode=tuple(program.graph.decode),
        numeric=Numeric(
            input_ranges={
                program.inputs[index].name: (0.0, float(depth - 1)) for index, depth in program.depths.items()
            }
        ),
        report=ConversionReport(
            ops=dict(Counter(node.op for node in program.graph.nodes)),
            rewrites=tuple(program.applied),
            statements=tuple(program.graph.statements),
        ),
    )


def _private_outputs(program: JaxProgram) -> tuple[TensorSpec, ...]:
    runs = [
        jax.eval_shape(
            program,
            program.params,
            *(jax.ShapeDtypeStruct(spec.with_batch(batch), spec.dtype) for spec in program.private_inputs),
        )
        for batch in _PROBE_BATCHES
    ]
    return tuple(
        TensorSpec(name, str(np.dtype(first.dtype)), _common(first.shape, second.shape))
        for name, first, second in zip(program.graph.outputs, *runs, strict=True)
    )


def _common(first: Sequence[int], second: Sequence[int]) -> tuple[int | None, ...]:
    return tuple(a if a == b else None for a, b in zip(first, second, strict=True))


def _pure(module: Any, variables: Mapping[str, Any] | None) -> tuple[Apply, Mapping[str, Any]]:
    """The module as a function of its variables, and these."""
    from flax import linen, nnx

    if isinstance(module, linen.Module):
        return module.apply, _required(variables)
    if isinstance(module, nnx.Module):
        return _nnx(module)
    if hasattr(module, "params_shape_tree") and callable(module):  # a Flax model of transformers

        def call(params: Mapping[str, Any], *inputs: Any, **options: Any) -> Any:
            return module(*inputs, params=params, **options)

        return call, _required(variables if variables is not None else module.params)
    if callable(module):
        return module, _required(variables)
    raise ConversionError(
        f"expected a Flax module, a Flax model of transformers or a function; got {type(module).__name__}."
    )


def _required(variables: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if variables is None:
        raise ConversionError("from_flax needs the module's variables; only NNX modules hold their own.")
    return variables


def _nnx(module: Any) -> tuple[Apply, Mapping[str, Any]]:
    from flax import nnx

    # A model under MPC draws no random number: the state of dropout is no weight.
    definition, random, state = nnx.split(module, nnx.RngState, ...)
    leaves, tree = jax.tree_util.tree_flatten_with_path(state)
    names = [_SEPARATOR.join(_key(key) for key in path[:-1]) for path, _ in leaves]
    variables = {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True)}

    def apply(flat: Mapping[str, Any], *inputs: Any, **options: Any) -> Any:
        found = _flatten(flat, as_arrays=False)
        filled = jax.tree_util.tree_unflatten(tree, [found[name] for name in names])
        return nnx.merge(definition, random, filled)(*inputs, **options)

    return apply, variables


def _key(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _output_names(
    apply: Apply, params: Mapping[str, Any], inputs: Sequence[TensorSpec], options: Mapping[str, Any]
) -> tuple[str, ...]:
    """Keys of a dict or fields of a data class; ``output_0`` and so on where there are none."""
    arrays = [jax.ShapeDtypeStruct(spec.with_batch(2), spec.dtype) for spec in inputs]
    result = jax.eval_shape(lambda flat, *xs: apply(_unflatten(flat), *xs, **options), dict(params), *arrays)
    leaves, _ = jax.tree_util.tree_flatten_with_path(result)
    paths = ["_".join(_key(key).strip(".") for key in path) for path, _ in leaves]
    readable = [path if path and not path[0].isdigit() else f"output_{path or 0}" for path in paths]
    return (
        tuple(readable)
        if len(set(readable)) == len(readable)
        else tuple(f"output_{index}" for index in range(len(leaves)))
    )


def _flatten(variables: Mapping[str, Any], *, as_arrays: bool = True) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in variables.items():
        if isinstance(value, Mapping):
            inner = _flatten(value, as_arrays=as_arrays)
            flat.update({f"{key}{_SEPARATOR}{name}": leaf for name, leaf in inner.items()})
        else:
            flat[key] = _canonical(np.asarray(value)) if as_arrays else value
    return flat


def _canonical(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """float32 for every float, int32 for 64-bit integers: JAX and the ring have no others here."""
    if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
        return value.astype(np.float32)
    return value.astype(np.int32) if value.dtype == np.int64 else value


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split(_SEPARATOR)
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = leaf
    return tree


def _dtype(value: Any) -> str:
    return str(jnp.asarray(value).dtype)
