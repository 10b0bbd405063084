"""Puts computing operators in the place of the standard's tree ensembles, once the inputs' widths are known.

What follows the trees (labels, probabilities) becomes ordinary nodes, so that rewrites see them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from converters.errors import NodeError
from converters.onnx.graph import Graph, Node
from converters.onnx.registry import INTERNAL, ML
from converters.onnx.tail import Tail
from converters.trees.ensemble import Ensemble
from converters.trees.layout import Layout, complete, describe, hidden_is_complete, path_blocks, public
from converters.trees.lift import LAID_OUT
from converters.trees.options import TreeOptions
from converters.trees.rounding import on_grid

__all__ = ["lay_out_trees", "round_thresholds"]

_LARGEST_DEPTH = 12
"""Levels to which trees are padded where a formulation asks for it."""
_TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble")


def lay_out_trees(graph: Graph, options: TreeOptions) -> int:
    """Replace tree ensembles, and return how many; the others keep the reason as their ``refusal``."""
    nodes: list[Node] = []
    count = 0
    for node in graph.nodes:
        if _is_trees(node) and "refusal" not in node.attrs:
            try:
                nodes.extend(_replacement(graph, node, options))
                count += 1
                continue
            except NodeError as error:
                node.attrs["refusal"] = (error.reason, error.remedy)
        nodes.append(node)
    graph.nodes = nodes
    for node in graph.walk():
        if _is_trees(node):
            node.attrs.setdefault(
                "refusal", ("it stands inside a subgraph.", "move it out of If, Loop or Scan.")
            )
    return count


def round_thresholds(graph: Graph, fraction_bits: int) -> None:
    """Put all thresholds on the ring's grid, see `converters.trees.rounding`."""
    for node in graph.walk():
        if node.domain == INTERNAL and node.op in LAID_OUT:
            name = node.weights["thresholds"]
            graph.constants[name] = on_grid(graph.constants[name], fraction_bits)


def _is_trees(node: Node) -> bool:
    return node.domain == ML and node.op in _TREES


def _replacement(graph: Graph, node: Node, options: TreeOptions) -> list[Node]:
    shape, _ = graph.shapes.get(node.inputs[0], (None, ""))
    if shape is None or len(shape) != 2 or shape[1] is None:
        raise NodeError(
            f"its input has shape {shape}; trees read rows of a known number of columns.",
            "give the input's shape as input_shapes={...}, for example (None, 30).",
        )
    ensemble: Ensemble = node.attrs["ensemble"]
    layout = _layout(ensemble, shape[1], options)
    graph.statements.append(describe(layout, ensemble))
    if ensemble.tracks_missing:
        graph.warnings.append(
            f"{node.name}: the trees say where missing values go; a request with a missing value is refused "
            "all the same. Impute before the trees."
        )
    tail = Tail(graph, node)
    raw = tail.value("raw")
    trees = _scores(graph, node, layout, options, raw)
    raw = _with_base(tail, node.attrs["base"], raw, ensemble.leaf_values.shape[1])
    if node.op == "TreeEnsembleClassifier":
        _classify(tail, raw, ensemble.leaf_values.shape[1])
    else:
        tail.transformed(raw, node.attrs["post_transform"], node.outputs[0])
    return [trees, *tail.nodes]


def _layout(ensemble: Ensemble, width: int, options: TreeOptions) -> Layout:
    if options.topology == "public":
        return public(ensemble, width)
    if hidden_is_complete(ensemble):
        return complete(ensemble, width)
    if options.formulation in ("level", "mux"):  # they know complete trees only
        if ensemble.depth > _LARGEST_DEPTH:
            raise NodeError(
                f"trees of {ensemble.depth} levels cannot be padded to complete ones, which "
                f"tree_formulation={options.formulation!r} needs.",
                "use tree_formulation='auto', or train trees of limited depth.",
            )
        return complete(ensemble, width)
    return path_blocks(ensemble, width)


def _scores(graph: Graph, node: Node, layout: Layout, options: TreeOptions, raw: str) -> Node:
    aggregate = node.attrs.get("aggregate_function", "SUM")
    arrays, trees = dict(layout.arrays), layout.structure["trees"]
    if aggregate == "AVERAGE":
        arrays["leaves"], aggregate = (arrays["leaves"] / np.float32(trees)).astype(np.float32), "SUM"
    attrs: dict[str, Any] = {**layout.structure, "aggregate": aggregate}
    if layout.op == "CompleteTrees":
        attrs["formulation"] = options.formulation
    stem = next(name for name in reversed(node.outputs) if name)
    weights = {key: graph.add_constant(f"{stem}.{key}", array) for key, array in arrays.items()}
    return Node(layout.op, [node.inputs[0]], [raw], attrs, weights, INTERNAL, name=node.name)


def _with_base(tail: Tail, base: np.ndarray[Any, Any], raw: str, targets: int) -> str:
    if not base.size:
        return raw
    if targets == 1:
        base = base[-1:]  # of two classes' values, the second's
    elif base.size not in (1, targets):
        raise NodeError(f"it has {base.size} base values for {targets} targets.", "export the model again.")
    name = tail.graph.add_constant(f"{raw}.base", base.astype(np.float32))
    return tail.add("Add", [raw, name])


def _classify(tail: Tail, raw: str, columns: int) -> None:
    label, scores = (*tail.node.outputs, "")[:2]
    transform = tail.node.attrs["post_transform"]
    if columns > 1:
        if scores:
            tail.transformed(raw, transform, scores)
        if label:
            # Read from an output, the label costs nothing; but a sigmoid near 1 hides the order.
            seen = scores if scores and transform in ("NONE", "SOFTMAX") else raw
            tail.add("ArgMax", [seen], label, axis=1, keepdims=0)
        return
    # Votes that are all positive are shares of a probability, unless they are made into one below.
    share = tail.node.attrs["shares"] and transform == "NONE"
    if label:
        above = tail.add("Greater", [raw, tail.constant(np.float32(0.5 if share else 0))])
        flat = tail.add("Squeeze", [above, tail.constant(np.array([1], np.int64))])
        tail.add("Cast", [flat], label, to=6)
    if not scores:
        return
    if share or transform == "LOGISTIC":
        chance = raw if share else tail.add("Sigmoid", [raw])
        other = tail.add("Sub", [tail.constant(np.float32(1)), chance])
        tail.add("Concat", [other, chance], scores, axis=1)
    else:
        mirrored = tail.add("Concat", [tail.add("Neg", [raw]), raw], axis=1)
        tail.transformed(mirrored, transform, scores)
