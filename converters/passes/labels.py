"""Class labels are looked up by the data owner: only the index of the class is computed under MPC."""

from __future__ import annotations

from converters.local_steps import LocalStep
from converters.onnx.graph import Graph, Node
from converters.onnx.registry import INTERNAL

__all__ = ["peel_labels"]

_SHAPE_KEEPING = {"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}


def peel_labels(graph: Graph) -> int:
    """Move each lookup of a label that feeds an output into ``decode``; returns how many."""
    lookups = [node for node in graph.nodes if node.op == "Lookup" and node.domain == INTERNAL]
    for lookup in lookups:
        _move_to_the_end(graph, lookup)
    peeled = 0
    for lookup in lookups:
        (index,), (label,) = lookup.inputs, lookup.outputs
        if label not in graph.outputs:
            continue
        position = graph.outputs.index(label)
        graph.outputs[position : position + 1] = [] if index in graph.outputs else [index]
        graph.decode.insert(
            0, LocalStep("lookup", (index,), (label,), {"table": list(lookup.attrs["table"])})
        )
        peeled += 1
    graph.prune()
    return peeled


def _move_to_the_end(graph: Graph, lookup: Node) -> None:
    """Swap the lookup with the casts and reshapes after it: to them an index is as good as a label."""
    while True:
        label = lookup.outputs[0]
        readers = graph.consumers().get(label, [])
        if graph.uses().get(label) != 1 or len(readers) != 1 or readers[0].op not in _SHAPE_KEEPING:
            return
        after = readers[0]
        if after.inputs[0] != label or not any(after is node for node in graph.nodes):
            return
        if after.op == "Cast":
            lookup.outputs = after.outputs
            graph.nodes = [node for node in graph.nodes if node is not after]
        else:
            if after.outputs[0] in graph.shapes:
                graph.shapes[label] = (graph.shapes[after.outputs[0]][0], "int32")
            after.inputs[0], lookup.inputs = lookup.inputs[0], [label]
            lookup.outputs, after.outputs = after.outputs, [label]
        # The lookup is computed after what it now reads.
        graph.nodes = [node for node in graph.nodes if node is not lookup]
        place = max((i for i, node in enumerate(graph.nodes) if lookup.inputs[0] in node.outputs), default=-1)
        graph.nodes.insert(place + 1, lookup)
