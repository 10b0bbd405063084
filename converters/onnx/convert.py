"""`from_onnx`: the steps of a conversion in their order."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

import converters.onnx.ops  # noqa: F401  registers the operators
from converters.calibration import calibrated
from converters.errors import InputSpecError
from converters.local_steps import LocalStep, apply_steps
from converters.model import ConversionReport, ConvertedModel, Numeric, TensorSpec
from converters.onnx.dtypes import STRING
from converters.onnx.encode import encode_inputs
from converters.onnx.fold import fold_constants
from converters.onnx.graph import Graph
from converters.onnx.inputs import InputShapes, resolve_inputs
from converters.onnx.labels import separate_labels
from converters.onnx.load import load_graph, load_model
from converters.onnx.probe import common_shape, probe, probe_batches, record_shapes
from converters.onnx.rebatch import check_rows_apart, free_batch
from converters.onnx.secrets import check_public, partition, to_params
from converters.onnx.trace import PrivateFunction
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
        calibration: sample inputs, one array for each input (or several such lists). They are run in
            floating point to choose the ring and the input ranges, see `converters.calibration`.
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
    model = load_model(source)
    fixed = {name: np.asarray(value) for name, value in (static or {}).items()}
    settings = _Settings(input_shapes, fixed, rewrites, TreeOptions(tree_formulation, tree_topology))
    converted = _converted(model, settings, Numeric())
    if calibration is None:
        return converted
    chosen = calibrated(converted, calibration)
    if chosen.numeric.fraction_bits == converted.numeric.fraction_bits:
        return chosen
    # Thresholds of trees are rounded to the fraction bits: convert again for the new ring.
    return calibrated(_converted(model, settings, chosen.numeric), calibration)


@dataclass(frozen=True)
class _Settings:
    input_shapes: InputShapes | None
    fixed: Mapping[str, np.ndarray[Any, Any]]
    rewrites: Rewrites
    trees: TreeOptions


def _converted(model: onnx.ModelProto, settings: _Settings, numeric: Numeric) -> ConvertedModel:
    fixed = settings.fixed
    graph = load_graph(model)
    graph.inputs = resolve_inputs(model, settings.input_shapes, dict(fixed))
    graph.sent = list(graph.inputs)
    graph.constants.update(fixed)
    separate_labels(graph)
    fold_constants(graph)
    freed = free_batch(graph, model)
    record_shapes(graph)
    if encode_inputs(graph):
        record_shapes(graph)
    ranges: dict[str, tuple[float, float]] = {}
    if lay_out_trees(graph, settings.trees):
        ranges = lift_features(graph)
        record_shapes(graph)
    applied = ["lift_features"] if ranges else []
    applied += [entry.name for entry in chosen_passes(settings.rewrites) if entry.apply(graph)]
    fold_constants(graph)
    numeric = replace(numeric, input_ranges={**graph.input_ranges, **ranges})
    converted = _finish(graph, applied, frozenset(fixed), numeric)
    if freed is not None:
        check_rows_apart(converted, freed)
    return converted


def _finish(
    graph: Graph,
    applied: list[str],
    fixed: frozenset[str],
    numeric: Numeric,
) -> ConvertedModel:
    round_thresholds(graph, numeric.fraction_bits)
    parts = partition(graph, fixed)
    public = parts.public
    tracer, results = probe(graph, parts)
    public_names = [name for name in public if name in tracer.used_constants]
    check_public(graph, public, [name for name in public_names if name not in fixed])
    params, aliases = to_params(parts.secret, tracer.used_params)
    graph.constants = {name: public[name] for name in public_names}
    private_outputs = tuple(
        TensorSpec(name, str(np.dtype(first.dtype)), common_shape(first.shape, second.shape))
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


def _received(graph: Graph, private_outputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """What decode makes of the private outputs: their dtypes and shapes."""
    decoded = [_decoded(graph.decode, private_outputs, batch) for batch in probe_batches(graph)]
    first, second = decoded[0], decoded[-1]
    missing = [name for name in graph.received if name not in first]
    if missing:
        raise InputSpecError(f"outputs {missing} are neither computed nor decoded.")
    return tuple(
        TensorSpec(
            name,
            STRING if first[name].dtype.kind in "UO" else str(first[name].dtype),
            common_shape(first[name].shape, second[name].shape),
        )
        for name in graph.received
    )


def _decoded(steps: list[LocalStep], specs: tuple[TensorSpec, ...], batch: int) -> dict[str, Any]:
    zeros = {spec.name: np.zeros(spec.with_batch(batch), spec.dtype) for spec in specs}
    return apply_steps(steps, zeros)
