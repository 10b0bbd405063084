"""Models that were exported for one batch size, opened for any.

Exporters write the batch size into Reshape nodes: ``Reshape(x, [1, -1])`` makes one row of three. Where the
user asks for an open batch (``None`` in ``input_shapes``) and the file fixes it, those nodes are rewritten,
and the result is checked by computing rows together and apart.
"""

from __future__ import annotations

import jax
import numpy as np
import onnx

from converters.errors import InputSpecError
from converters.local_steps import apply_steps
from converters.model import ConvertedModel, TensorSpec
from converters.onnx.dtypes import STRING
from converters.onnx.graph import Graph, NDArray
from converters.onnx.probe import trace_abstract
from converters.onnx.secrets import partition

__all__ = ["check_rows_apart", "free_batch"]

_ROWS = 3
_TOLERANCE = 1e-3


def free_batch(graph: Graph, model: onnx.ModelProto) -> int | None:
    """Let Reshape nodes of constant shape follow the batch; returns the batch size that the file fixes."""
    fixed = _fixed_batch(graph, model)
    if fixed is None:
        return None
    tracer, _ = trace_abstract(graph, partition(graph), fixed, problems=[])
    for node in graph.nodes:
        if node.op != "Reshape" or len(node.inputs) < 2 or node.inputs[1] not in graph.constants:
            continue
        after = tracer.traced.get(node.outputs[0])
        if after is None or not after.shape:
            continue
        shape = np.array([-1, *after.shape[1:]], np.int64)
        node.inputs[1] = graph.add_constant(f"{node.outputs[0]}.shape", shape)
        node.attrs = {}
    return fixed


def _fixed_batch(graph: Graph, model: onnx.ModelProto) -> int | None:
    declared = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    sizes = {
        declared[spec.name][axis].dim_value
        for spec in graph.inputs
        for axis, dim in enumerate(spec.shape)
        if dim is None and len(declared[spec.name]) > axis and declared[spec.name][axis].HasField("dim_value")
    }
    if len(sizes) > 1:
        raise InputSpecError(f"the inputs were exported for different batch sizes: {sorted(sizes)}.")
    return sizes.pop() if sizes and min(sizes) > 0 else None


def check_rows_apart(model: ConvertedModel, batch: int) -> None:
    """Compute three batches at once and one after the other, on random inputs.

    Raises:
        InputSpecError: the results differ, so the batch is fixed somewhere else in the model.
    """
    if any(spec.dtype == STRING for spec in model.inputs):
        return
    generator = np.random.default_rng(0)
    whole = [_random(generator, spec, batch * _ROWS) for spec in model.inputs]
    together = _predict(model, whole)
    for row in range(_ROWS):
        own_inputs = [_part(a, s, row, batch) for a, s in zip(whole, model.inputs, strict=True)]
        for spec, rows, own in zip(model.private_outputs, together, _predict(model, own_inputs), strict=True):
            share = own.shape[_batch_axis(spec)] if own.ndim else 0
            expected = _part(rows, spec, row, share)
            if expected.shape != own.shape or not np.allclose(expected, own, _TOLERANCE, _TOLERANCE):
                raise InputSpecError(
                    f"this model was exported for a batch of {batch}, and its output {spec.name!r} is wrong "
                    "for any other: export it with a dynamic batch dimension, or leave the batch as it is."
                )


def _predict(model: ConvertedModel, arrays: list[NDArray]) -> list[NDArray]:
    sent = {spec.name: array for spec, array in zip(model.inputs, arrays, strict=True)}
    shared = apply_steps(model.encode, sent)
    private = [shared[spec.name] for spec in model.private_inputs]
    return [np.asarray(value) for value in jax.jit(model.private_predict)(model.params, *private)]


def _part(array: NDArray, spec: TensorSpec, row: int, size: int) -> NDArray:
    axis = _batch_axis(spec)
    first = min(row * size, max(array.shape[axis] - size, 0)) if array.ndim else 0
    return np.take(array, range(first, first + size), axis=axis) if array.ndim else array


def _batch_axis(spec: TensorSpec) -> int:
    return spec.shape.index(None) if None in spec.shape else 0


def _random(generator: np.random.Generator, spec: TensorSpec, batch: int) -> NDArray:
    values = generator.standard_normal(spec.with_batch(batch))
    return (values if np.dtype(spec.dtype).kind == "f" else np.abs(values)).astype(spec.dtype)
