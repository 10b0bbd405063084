"""The maximum of rectified values is the rectified maximum: compare the few, not the many."""

from __future__ import annotations

from converters.onnx.graph import Graph, Node

__all__ = ["pool_before_activation"]

_POOLS = {"MaxPool", "GlobalMaxPool"}
_RISING = {"Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "Clip"}


def pool_before_activation(graph: Graph) -> int:
    """Swap an activation that keeps the order with the maximum pooling after it."""
    changed = 0
    for pool in list(graph.nodes):
        if pool.op not in _POOLS or pool.domain or any(pool.outputs[1:]):
            continue
        source = pool.inputs[0]
        activation = next((node for node in graph.nodes if source in node.outputs), None)
        if activation is None or not _swaps(graph, activation) or graph.uses().get(source) != 1:
            continue
        pooled, result = graph.fresh_name(f"{pool.outputs[0]}.pooled"), pool.outputs[0]
        pool.inputs[0], pool.outputs = activation.inputs[0], [pooled]
        activation.inputs[0], activation.outputs = pooled, [result]
        if result in graph.shapes:
            graph.shapes[pooled] = graph.shapes[result]
        graph.nodes = [node for node in graph.nodes if node is not activation]
        place = next(i for i, node in enumerate(graph.nodes) if node is pool)
        graph.nodes.insert(place + 1, activation)
        changed += 1
    return changed


def _swaps(graph: Graph, node: Node) -> bool:
    if node.domain or node.op not in _RISING:
        return False
    if node.op == "LeakyRelu":
        return float(node.attrs.get("alpha", 0.01)) >= 0
    if node.op == "HardSigmoid":
        return float(node.attrs.get("alpha", 0.2)) >= 0
    return all(name in graph.constants for name in node.inputs[1:] if name)
