"""Traces with abstract values: which nodes cannot be converted, what shape everything has, what is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from converters.errors import Problem, UnsupportedModelError
from converters.model import TensorSpec
from converters.onnx.dtypes import STRING, canonical_dtype
from converters.onnx.graph import Graph
from converters.onnx.secrets import Partition, partition
from converters.onnx.trace import Tracer

__all__ = ["common_shape", "probe", "probe_batches", "record_shapes", "trace_abstract"]


def probe(graph: Graph, parts: Partition) -> tuple[Tracer, list[list[Any]]]:
    """Trace with abstract values at two batch sizes; all problems are raised at once."""
    problems: list[Problem] = []
    merged: Tracer | None = None
    results = []
    for batch in probe_batches(graph):
        tracer, outputs = trace_abstract(graph, parts, batch, problems)
        if problems:
            raise UnsupportedModelError(problems)
        results.append(outputs)
        if merged is not None:
            tracer.used_params |= merged.used_params
            tracer.used_constants |= merged.used_constants
        merged = tracer
    assert merged is not None
    return merged, results


def trace_abstract(
    graph: Graph, parts: Partition, batch: int, problems: list[Problem]
) -> tuple[Tracer, list[Any]]:
    """Trace one batch size. Nodes that fail are added to ``problems``; what depends on them is left out.

    Returns:
        The tracer, whose ``traced`` holds shapes and dtypes by name, and the outputs (None where one failed).
    """
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


def probe_batches(graph: Graph) -> tuple[int, ...]:
    """Two sizes tell which dimensions follow the batch; a model without one needs none."""
    return (2, 3) if any(None in spec.shape for spec in graph.inputs) else (1,)


def _abstract_dtype(spec: TensorSpec) -> str:
    return "int32" if spec.dtype == STRING else spec.dtype


def record_shapes(graph: Graph) -> None:
    """Shapes of all values that can be traced now, for the passes. Problems are raised later."""
    parts = partition(graph)
    runs = []
    for batch in probe_batches(graph):
        tracer, _ = trace_abstract(graph, parts, batch, problems=[])
        runs.append(tracer.traced)
    for name, first in runs[0].items():
        second = runs[-1].get(name)
        if second is not None:
            graph.shapes[name] = (common_shape(first.shape, second.shape), str(np.dtype(first.dtype)))


def common_shape(first: Sequence[int], second: Sequence[int]) -> tuple[int | None, ...]:
    """A shape with ``None`` where two batch sizes gave two lengths."""
    return tuple(a if a == b else None for a, b in zip(first, second, strict=True))
