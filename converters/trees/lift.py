"""Finer features for trees: a power of two at the data owner.

A tree compares and never multiplies its features, so they need range and digits in another measure than the
rest of a model. Multiplied by 2**16 before sharing, a float32 above 2**-11 keeps all its bits in a ring of 18
fraction bits, features of the order 1e-3 or less no longer flip decisions, and ties are those of floats.
"""

from __future__ import annotations

from converters.local_steps import LocalStep
from converters.model import TensorSpec
from converters.onnx.graph import Graph, Node
from converters.onnx.registry import INTERNAL

__all__ = ["FACTOR", "LAID_OUT", "LARGEST_FEATURE", "lift_features"]

LAID_OUT = ("CompleteTrees", "HiddenTrees", "PublicTrees")

FACTOR = 2.0**16
LARGEST_FEATURE = 2.0**28
"""Times 2**16 and 2**18 it is 2**62: a difference of two still fits a 64-bit ring."""

_LAYOUT = {
    "ArrayFeatureExtractor",
    "Cast",
    "Concat",
    "FeatureVectorizer",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "Squeeze",
    "Unsqueeze",
}
_FLOAT_TYPES = {1, 10, 11}


def lift_features(graph: Graph) -> dict[str, tuple[float, float]]:
    """Scale the inputs that reach trees and nothing else, and the trees' thresholds with them.

    Returns:
        The range of each scaled input, by the name under which a client sends it.
    """
    trees = [node for node in graph.nodes if node.domain == INTERNAL and node.op in LAID_OUT]
    found = [(tree, _sources(graph, tree.inputs[0])) for tree in trees]
    reached = set().union(*(values for _, values in found if values is not None)) if found else set()
    names = {spec.name for spec in graph.inputs}
    exclusive = all(_leads_to_trees(graph, value, reached, trees) for value in reached)
    if not exclusive or not trees or any(values is None for _, values in found):
        return {}
    for tree in trees:
        name = tree.weights["thresholds"]
        graph.constants[name] = graph.constants[name] * graph.constants[name].dtype.type(FACTOR)
    for name in sorted(reached & names):
        _scale(graph, name)
    sent = {spec.name for spec in graph.sent}
    return dict.fromkeys(sorted(reached & sent), (-LARGEST_FEATURE, LARGEST_FEATURE))


def _sources(graph: Graph, name: str) -> set[str] | None:
    """All values between the inputs and this one, if only layout lies between them."""
    spec = next((spec for spec in graph.inputs if spec.name == name), None)
    if spec is not None:
        return {name} if spec.dtype in ("float32", "int32") else None
    node = graph.producers().get(name)
    if node is None or node.op not in _LAYOUT or (node.op == "Cast" and node.attrs["to"] not in _FLOAT_TYPES):
        return None
    values = {name}
    for source in _moved(node):
        before = _sources(graph, source)
        if before is None:
            return None
        values |= before
    return values


def _moved(node: Node) -> list[str]:
    return node.inputs if node.op in ("Concat", "FeatureVectorizer") else node.inputs[:1]


def _leads_to_trees(graph: Graph, value: str, reached: set[str], trees: list[Node]) -> bool:
    readers = graph.consumers().get(value, [])
    return (
        value not in graph.outputs
        and graph.uses().get(value) == len(readers)
        and all(
            any(reader is tree for tree in trees) or reached.issuperset(reader.outputs) for reader in readers
        )
    )


def _scale(graph: Graph, name: str) -> None:
    index, spec = next((i, spec) for i, spec in enumerate(graph.inputs) if spec.name == name)
    scaled = graph.fresh_name(f"{name}.scaled")
    graph.encode.append(LocalStep("scale", (name,), (scaled,), {"factor": FACTOR}))
    graph.inputs[index] = TensorSpec(scaled, "float32", spec.shape)
    graph.shapes[scaled] = (spec.shape, "float32")
    graph.replace_uses(name, scaled)
