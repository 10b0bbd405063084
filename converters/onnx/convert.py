"""`from_onnx`: the steps of a conversion in their order."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import onnx

import converters.onnx.ops  # noqa: F401  registers the operators
from converters.errors import InputSpecError, Problem, UnsupportedModelError
from converters.local_steps import LocalStep, apply_steps
from converters.model import ConversionReport, ConvertedModel, Numeric, TensorSpec
from converters.onnx.dtypes import STRING, canonical_dtype
from converters.onnx.encode import encode_inputs
from converters.onnx.fold import fold_constants
from converters.onnx.graph import Graph
from converters.onnx.inputs import InputShapes, resolve_inputs
from converters.onnx.labels import separate_labels
from converters.onnx.load import load_graph, load_model
from converters.onnx.secrets import Partition, check_public, partition, to_params
from converters.onnx.trace import PrivateFunction, Tracer
from converters.onnx.trees import lay_out_trees, round_thresholds
from converters.passes import Rewrites, chosen_passes
from converters.trees import Formulation, Topology, TreeOptions
from converters.trees.lift import lift_features

__all__ = ["from_onnx"]


def from_onnx(
    source: str | os.PathLike[str] | onnx.ModelProto,
    *,
    input_shapes: InputShapes | None = None,
    static: Mapping[str, Any] | None = None,
    calibration: Sequence[Any] | None = None,
    rewrites: Rewrites = None,
    tree_formulation: Formulation = "auto",
    tree_topology: Topology = "auto",
) -> ConvertedModel:
    """Convert an ONNX model (ai.onnx 7 to 27, ai.onnx.ml 1 to 5).

    Args:
        source: path of the file, or the model itself.
        input_shapes: shape by input name, ``None`` for the batch; for dimensions that the model leaves open.
        static: value by input name: fixed while converting, and public.
        calibration: sample inputs, one array for each input (or several such lists).
        rewrites: which rewrites run, see `converters.passes.chosen_passes`.
        tree_formulation: how tree ensembles are computed, see `converters.trees.Formulation`.
        tree_topology: who knows the shape of the trees, see `converters.trees.Topology`.

    Returns:
        The model as a pure JAX function with its weights apart: no trained value is in the function.

    Raises:
        ModelFileError: the file cannot be read or refers to data outside its folder.
        InputSpecError: an input's shape is not known or does not fit.
        UnsupportedModelError: with every node that cannot be converted.
    """
    tree_options = TreeOptions(tree_formulation, tree_topology)
    model = load_model(source)
    fixed = {name: np.asarray(value) for name, value in (static or {}).items()}
    graph = load_graph(model)
    graph.inputs = resolve_inputs(model, input_shapes, fixed)
    graph.sent = list(graph.inputs)
    graph.constants.update(fixed)
    separate_labels(graph)
    fold_constants(graph)
    _record_shapes(graph)
    if encode_inputs(graph):
        _record_shapes(graph)
    ranges: dict[str, tuple[float, float]] = {}
    if lay_out_trees(graph, tree_options):
        ranges = lift_features(graph)
        _record_shapes(graph)
    applied = ["lift_features"] if ranges else []
    applied += [entry.name for entry in chosen_passes(rewrites) if entry.apply(graph)]
    fold_constants(graph)
    return _finish(graph, applied, frozenset(fixed), ranges)


def _finish(
    graph: Graph,
    applied: list[str],
    fixed: frozenset[str],
    ranges: Mapping[str, tuple[float, float]],
) -> ConvertedModel:
    numeric = Numeric(input_ranges=ranges)
    round_thresholds(graph, numeric.fraction_bits)
    parts = partition(graph, fixed)
    public = parts.public
    tracer, results = _probe(graph, parts)
    public_names = [name for name in public if name in tracer.used_constants]
    check_public(graph, public, [name for name in public_names if name not in fixed])
    params, aliases = to_params(parts.secret, tracer.used_params)
    graph.constants = {name: public[name] for name in public_names}
    private_outputs = tuple(
        TensorSpec(name, str(np.dtype(first.dtype)), _common_shape(first.shape, second.shape))
        for name, first, second in zip(graph.outputs, results[0], results[-1], strict=True)
    )
    report = ConversionReport(
        ops=dict(Counter(node.op for node in graph.walk())),
        rewrites=tuple(applied),
        warnings=tuple(graph.warnings),
        statements=tuple(graph.statements),
        public_constants=tuple(
            f"{name} {public[name].dtype}{list(public[name].shape)}"
            for name in public_names
            if name not in fixed
        ),
    )
    return ConvertedModel(
        params=params,
        inputs=tuple(graph.sent),
        outputs=_received(graph, private_outputs),
        private_inputs=tuple(graph.inputs),
        private_outputs=private_outputs,
        private_predict=PrivateFunction(graph, parts.demanded, aliases),
        encode=tuple(graph.encode),
        decode=tuple(graph.decode),
        numeric=numeric,
        report=report,
    )


def _probe(graph: Graph, parts: Partition) -> tuple[Tracer, list[list[Any]]]:
    """Trace with abstract values at two batch sizes; all problems are raised at once."""
    problems: list[Problem] = []
    merged: Tracer | None = None
    results = []
    for batch in _probe_batches(graph):
        tracer, outputs = _trace_abstract(graph, parts, batch, problems)
        if problems:
            raise UnsupportedModelError(problems)
        results.append(outputs)
        if merged is not None:
            tracer.used_params |= merged.used_params
            tracer.used_constants |= merged.used_constants
        merged = tracer
    assert merged is not None
    return merged, results


def _trace_abstract(
    graph: Graph, parts: Partition, batch: int, problems: list[Problem]
) -> tuple[Tracer, list[Any]]:
    holder: list[Tracer] = []
    full = graph.constants
    graph.constants = parts.public

    def function(params: dict[str, Any], *inputs: Any) -> dict[str, Any]:
        tracer = Tracer(graph, parts.demanded, {}, params, problems=problems)
        holder.append(tracer)
        outputs = tracer.run(inputs)
        shapes = {name: value for name, value in tracer.traced.items() if name not in tracer.failed}
        return {"outputs": outputs, "values": _own_level(shapes, inputs)}

    numeric = {name: value for name, value in parts.secret.items() if value.dtype.kind in "fiub"}
    params = {
        name: jax.ShapeDtypeStruct(value.shape, canonical_dtype(value.dtype))
        for name, value in numeric.items()
    }
    arrays = [jax.ShapeDtypeStruct(spec.with_batch(batch), _abstract_dtype(spec)) for spec in graph.inputs]
    try:
        result = jax.eval_shape(function, params, *arrays)
    finally:
        graph.constants = full
    holder[0].traced = result["values"]
    return holder[0], list(result["outputs"])


def _own_level(values: dict[str, Any], inputs: Sequence[Any]) -> dict[str, Any]:
    """Without values that only exist inside a vectorised Scan."""
    level = max((getattr(x._trace, "level", 0) for x in inputs if hasattr(x, "_trace")), default=0)
    return {n: v for n, v in values.items() if getattr(getattr(v, "_trace", None), "level", level) <= level}


def _probe_batches(graph: Graph) -> tuple[int, ...]:
    """Two sizes tell which dimensions follow the batch; a model without one needs none."""
    return (2, 3) if any(None in spec.shape for spec in graph.inputs) else (1,)


def _abstract_dtype(spec: TensorSpec) -> str:
    return "int32" if spec.dtype == STRING else spec.dtype


def _record_shapes(graph: Graph) -> None:
    """Shapes of all values that can be traced now, for the passes. Problems are raised later."""
    parts = partition(graph)
    runs = []
    for batch in _probe_batches(graph):
        tracer, _ = _trace_abstract(graph, parts, batch, problems=[])
        runs.append(tracer.traced)
    for name, first in runs[0].items():
        second = runs[-1].get(name)
        if second is not None:
            graph.shapes[name] = (_common_shape(first.shape, second.shape), str(np.dtype(first.dtype)))


def _common_shape(first: Sequence[int], second: Sequence[int]) -> tuple[int | None, ...]:
    return tuple(a if a == b else None for a, b in zip(first, second, strict=True))


def _received(graph: Graph, private_outputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """What decode makes of the private outputs: their dtypes and shapes."""
    decoded = [_decoded(graph.decode, private_outputs, batch) for batch in _probe_batches(graph)]
    first, second = decoded[0], decoded[-1]
    missing = [name for name in graph.received if name not in first]
    if missing:
        raise InputSpecError(f"outputs {missing} are neither computed nor decoded.")
    return tuple(
        TensorSpec(
            name,
            STRING if first[name].dtype.kind in "UO" else str(first[name].dtype),
            _common_shape(first[name].shape, second[name].shape),
        )
        for name in graph.received
    )


def _decoded(steps: list[LocalStep], specs: tuple[TensorSpec, ...], batch: int) -> dict[str, Any]:
    zeros = {spec.name: np.zeros(spec.with_batch(batch), spec.dtype) for spec in specs}
    return apply_steps(steps, zeros)
