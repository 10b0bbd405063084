"""GELU as a polynomial of the absolute value, in place of an error function."""

from __future__ import annotations

from converters.onnx.graph import Graph, Node
from converters.onnx.registry import INTERNAL

__all__ = ["gelu_polynomial"]


def gelu_polynomial(graph: Graph) -> int:
    """Replace ``Gelu`` and the five nodes that exporters write for it; returns how many."""
    changed = 0
    for node in list(graph.nodes):
        source = _source(graph, node)
        if source is None:
            continue
        node.op, node.domain, node.inputs, node.attrs = "GeluPolynomial", INTERNAL, [source], {}
        changed += 1
    graph.prune()
    return changed


def _source(graph: Graph, node: Node) -> str | None:
    """x, if the node gives ``x * (1 + erf(x / sqrt(2))) / 2`` in any of the orders in which it is written."""
    if node.domain:
        return None
    if node.op == "Gelu":
        return node.inputs[0] if node.attrs.get("approximate", "none") == "none" else None
    if node.op != "Mul":
        return None
    factors, scale = _factors(graph, node.outputs[0])
    sums = [name for name in factors if _erf_argument(graph, name) is not None]
    others = [name for name in factors if name not in sums]
    if len(sums) != 1 or len(others) != 1 or abs(scale - 0.5) > 1e-6:
        return None
    argument = _erf_argument(graph, sums[0])
    return others[0] if argument == others[0] else None


def _factors(graph: Graph, name: str) -> tuple[list[str], float]:
    """What is multiplied to give a value: names, and the product of constant numbers."""
    node = _producer(graph, name)
    number = _number(graph, name)
    if number is not None:
        return [], number
    if node is None or node.domain or node.op not in ("Mul", "Div"):
        return [name], 1.0
    first, first_scale = _factors(graph, node.inputs[0])
    if node.op == "Div":
        divisor = _number(graph, node.inputs[1])
        return ([name], 1.0) if not divisor else (first, first_scale / divisor)
    second, second_scale = _factors(graph, node.inputs[1])
    return first + second, first_scale * second_scale


def _erf_argument(graph: Graph, name: str) -> str | None:
    """x, if the value is ``1 + erf(x / sqrt(2))``."""
    add = _producer(graph, name)
    if add is None or add.op != "Add" or add.domain:
        return None
    numbers = [_number(graph, term) for term in add.inputs]
    erf = next(
        (n for n in (_producer(graph, t) for t in add.inputs) if n is not None and n.op == "Erf"), None
    )
    if erf is None or 1.0 not in numbers:
        return None
    factors, scale = _factors(graph, erf.inputs[0])
    return factors[0] if len(factors) == 1 and abs(scale - 0.5**0.5) < 1e-5 else None


def _number(graph: Graph, name: str) -> float | None:
    value = graph.constants.get(name)
    return (
        float(value.reshape(()))
        if value is not None and value.size == 1 and value.dtype.kind == "f"
        else None
    )


def _producer(graph: Graph, name: str) -> Node | None:
    return next((node for node in graph.nodes if name in node.outputs), None)
