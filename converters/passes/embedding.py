"""Word indices become one-hot rows before they are shared: the data owner knows them anyway."""

from __future__ import annotations

from converters.local_steps import LocalStep
from converters.model import TensorSpec
from converters.onnx.graph import Graph, Node

__all__ = ["embed_at_data_owner"]

_OPSET = 13
_RELABELLING = {"Cast", "Identity"}


def embed_at_data_owner(graph: Graph) -> int:
    """Turn lookups by an input, and by nothing but the input, into products with one-hot rows."""
    changed = 0
    for spec in list(graph.inputs):
        lookups = _lookups(graph, spec)
        depths = {graph.constants[node.inputs[0]].shape[0] for node in lookups}
        if len(depths) == 1:
            _expand(graph, spec, lookups, depths.pop())
            changed += len(lookups)
    graph.prune()
    return changed


def _lookups(graph: Graph, spec: TensorSpec) -> list[Node]:
    """The lookups by this input, if it is used for lookups and shapes alone."""
    if not spec.dtype.startswith(("int", "uint")):
        return []
    consumers, pending, found = graph.consumers(), [spec.name], []
    while pending:
        name = pending.pop()
        if name in graph.outputs:
            return []
        for node in consumers.get(name, []):
            if not node.domain and node.op in _RELABELLING and _keeps_integers(graph, node):
                pending.append(node.outputs[0])
            elif _is_lookup(graph, node, name):
                found.append(node)
            elif node.domain or node.op not in ("Shape", "Size"):
                return []
    return found


def _keeps_integers(graph: Graph, node: Node) -> bool:
    known = graph.shapes.get(node.outputs[0])
    return known is not None and known[1].startswith(("int", "uint"))


def _is_lookup(graph: Graph, node: Node, name: str) -> bool:
    if node.domain or node.op != "Gather" or int(node.attrs.get("axis", 0)) != 0:
        return False
    table = graph.constants.get(node.inputs[0])
    return node.inputs[1] == name and table is not None and table.ndim == 2 and table.dtype.kind == "f"


def _expand(graph: Graph, spec: TensorSpec, lookups: list[Node], depth: int) -> None:
    rows = graph.fresh_name(f"{spec.name}.rows")
    for node in lookups:
        node.op, node.version, node.attrs = "MatMul", _OPSET, {}
        node.inputs = [rows, node.inputs[0]]
    expanded = TensorSpec(rows, "float32", (*spec.shape, depth))
    graph.inputs = [expanded if other.name == spec.name else other for other in graph.inputs]
    if any(spec.name in node.inputs for node in graph.walk()):
        # Only shapes are read from the indices any more: a value of their shape is all that is needed.
        attrs = {"axes": (len(spec.shape),), "keepdims": 0}
        graph.nodes.insert(0, Node("ReduceMax", [rows], [spec.name], attrs, version=12))
    graph.shapes[rows] = (expanded.shape, "float32")
    graph.encode.append(LocalStep("one_hot", (spec.name,), (rows,), {"depth": depth}))
    graph.input_ranges[spec.name] = (0.0, float(depth - 1))
    graph.statements.append(
        f"{spec.name!r}: the data owner shares one-hot rows of {depth} entries for each index; the number of "
        f"entries of the table ({depth}) is public."
    )
