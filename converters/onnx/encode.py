"""First steps of a model that the data owner takes in the clear, on its own values, before sharing.

- Categories (strings always, numbers too) become codes or rows of 0 and 1: equality costs ten comparisons
  under MPC and nothing in the clear. The categories travel in the manifest, so all parties know them; a
  trained number for each category (target encoding) stays secret.
- Missing values become 0 and a mark in a second input. What is imputed for them stays secret, and which
  values were missing is known to the data owner alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from converters.errors import Problem, UnsupportedModelError
from converters.local_steps import LocalStep
from converters.model import TensorSpec
from converters.onnx.dtypes import STRING
from converters.onnx.graph import Graph, Node
from converters.onnx.registry import INTERNAL, ML
from converters.passes.local_forms import local_step

__all__ = ["encode_inputs"]

_MAPPINGS = ("LabelEncoder", "CategoryMapper", "OneHotEncoder")
_LAYOUT = {
    "ArrayFeatureExtractor",
    "Cast",
    "Concat",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
_STRING_TYPE = 8


def encode_inputs(graph: Graph) -> int:
    """Move categories and marks of missing values in front of the model; returns how many nodes moved.

    Raises:
        UnsupportedModelError: strings are left for the model itself.
    """
    moved = 0
    for node in list(graph.nodes):
        if node.domain != ML or "refusal" in node.attrs:
            continue
        if node.op in _MAPPINGS:
            moved += _labels_behind(graph, node) or _categories_in_front(graph, node)
        elif node.op == "Imputer":
            moved += _missing_in_front(graph, node)
    if moved:
        graph.prune()
        read = {name for node in graph.walk() for name in node.reads} | set(graph.outputs)
        steps = {name for step in graph.encode for name in step.inputs}
        graph.inputs = [spec for spec in graph.inputs if spec.name in read or spec.name not in steps]
    _refuse_strings(graph)
    return moved


def _refuse_strings(graph: Graph) -> None:
    strings = {spec.name for spec in graph.inputs if spec.dtype == STRING}
    problems = [
        Problem(
            node.name,
            node.op,
            node.domain,
            node.version,
            f"it reads the strings of {', '.join(sorted(strings.intersection(node.reads)))}.",
            "map strings by LabelEncoder, CategoryMapper or OneHotEncoder, or encode them before the model.",
        )
        for node in graph.nodes
        if strings.intersection(node.reads)
    ]
    if problems:
        raise UnsupportedModelError(problems)


def _labels_behind(graph: Graph, node: Node) -> bool:
    """A mapping from numbers to strings is a lookup, which goes to the data owner with the outputs."""
    table = node.attrs.get("values")
    if not table or "keys_array" not in node.weights:
        return False
    entries = (*table, node.attrs["default"])
    keys = graph.constants[node.weights["keys_array"]]
    index, label = node.inputs[0], node.outputs[0]
    place = graph.nodes.index(node)
    if not np.array_equal(keys, np.arange(keys.size)):
        index = graph.fresh_name(f"{label}.index")
        weights = dict(node.weights)
        positions = np.arange(len(entries), dtype=np.int32)
        weights["values_array"] = graph.add_constant(f"{label}.positions", positions[:-1])
        weights["default_array"] = graph.add_constant(f"{label}.default", positions[-1:])
        graph.nodes.insert(
            place, Node(node.op, [*node.inputs], [index], {}, weights, ML, node.version, node.name)
        )
        place += 1
    graph.nodes[place] = Node("Lookup", [index], [label], {"table": entries}, {}, INTERNAL, name=node.name)
    return True


def _categories_in_front(graph: Graph, node: Node) -> bool:
    steps = _path(graph, node.inputs[0])
    known = graph.shapes.get(node.inputs[0])
    if steps is None or known is None or node.attrs.get("values"):
        return False
    name, shape = node.outputs[0], known[0]
    keys = _public_keys(graph, node)
    if node.op == "OneHotEncoder":
        step, spec = _rows(node.inputs[0], name, keys, shape, "float32")
    elif graph.constants[node.weights["values_array"]].dtype.kind == "f":
        rows = graph.fresh_name(f"{name}.category")
        step, spec = _rows(node.inputs[0], rows, keys, shape, "int32")
        weights = {key: node.weights[key] for key in ("values_array", "default_array")}
        weighted = Node("WeightedCategories", [rows], [name], {}, weights, INTERNAL, name=node.name)
        graph.nodes.insert(graph.nodes.index(node), weighted)
    else:
        values, default = (graph.constants[node.weights[key]] for key in ("values_array", "default_array"))
        dtype = values.dtype.name
        attrs = {"keys": keys, "values": values.tolist(), "default": int(default[0]), "dtype": dtype}
        step = LocalStep("encode_labels", (node.inputs[0],), (name,), attrs)
        spec = TensorSpec(name, dtype, shape)
    _append_steps(graph, [*steps, step])
    graph.inputs.append(spec)
    graph.nodes.remove(node)
    graph.statements.append(
        f"{name!r}: the data owner maps its value to one of {len(keys)} categories before sharing it. The "
        "categories are public."
    )
    return True


def _public_keys(graph: Graph, node: Node) -> list[Any]:
    if "keys" in node.attrs:
        return list(node.attrs["keys"])
    keys: list[Any] = graph.constants[node.weights.get("keys_array") or node.weights["categories"]].tolist()
    return keys


def _rows(
    source: str, name: str, keys: list[Any], shape: tuple[int | None, ...], dtype: str
) -> tuple[LocalStep, TensorSpec]:
    step = LocalStep("one_hot_categories", (source,), (name,), {"categories": keys, "dtype": dtype})
    return step, TensorSpec(name, dtype, (*shape, len(keys)))


def _missing_in_front(graph: Graph, node: Node) -> bool:
    """Imputer on inputs: 0 in the place of a missing value, and its mark along the same way."""
    replaced = float(node.attrs.get("replaced", 0.0))
    marks = _marks(graph, node.inputs[0], replaced)
    if marks is None:
        if np.isnan(replaced):
            graph.warnings.append(
                f"{node.name}: it imputes values that are computed inside the model or used elsewhere; it is "
                "left out, and a request with a missing value is refused."
            )
        return False
    nodes, name = marks
    place = graph.nodes.index(node)
    weights = {"imputed": node.weights["imputed"]}
    filled = Node(
        "FillMissing", [node.inputs[0], name], list(node.outputs), {}, weights, INTERNAL, name=node.name
    )
    graph.nodes[place : place + 1] = [*nodes, filled]
    return True


def _marks(graph: Graph, name: str, replaced: float) -> tuple[list[Node], str] | None:
    """Nodes that bring the marks of a value's missing entries to the same place, and the marks' name."""
    spec = next((spec for spec in graph.inputs if spec.name == name), None)
    if spec is not None and graph.uses().get(name) != 1:
        return None  # elsewhere a missing value would silently be 0
    if spec is not None:
        return ([], _mark_input(graph, spec, replaced)) if spec.dtype == "float32" else None
    producer = graph.producers().get(name)
    if producer is None or producer.op not in _LAYOUT or producer.outputs[0] in graph.outputs:
        return None
    if graph.uses().get(name) != 1:
        return None
    before = list(producer.inputs)  # marking an input renames it in the node
    moving = before if producer.op == "Concat" else before[:1]
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for source in moving:
        found = _marks(graph, source, replaced) if graph.uses().get(source) == 1 else None
        if found is None:
            return None
        nodes.extend(found[0])
        renamed[source] = found[1]
    output = graph.fresh_name(f"{name}.missing")
    inputs = [renamed.get(source, source) for source in before]
    attrs: Mapping[str, Any] = producer.attrs if producer.op != "Cast" else {"to": 6}
    clone = Node(
        producer.op, inputs, [output], dict(attrs), {}, producer.domain, producer.version, producer.name
    )
    return [*nodes, clone], output


def _mark_input(graph: Graph, spec: TensorSpec, replaced: float) -> str:
    marks, filled = f"{spec.name}.missing", f"{spec.name}.filled"
    if all(marks != known.name for known in graph.inputs):
        number = None if np.isnan(replaced) else replaced
        graph.encode.append(LocalStep("mark_missing", (spec.name,), (filled, marks), {"replaced": number}))
        index = graph.inputs.index(spec)
        graph.inputs[index] = TensorSpec(filled, spec.dtype, spec.shape)
        graph.inputs.append(TensorSpec(marks, "int32", spec.shape))
        graph.shapes[filled], graph.shapes[marks] = (spec.shape, "float32"), (spec.shape, "int32")
        graph.replace_uses(spec.name, filled)
        graph.statements.append(
            f"{spec.name!r} may hold missing values: which ones is known to the data owner alone, and what "
            "is imputed for them to the model owner alone."
        )
    return marks


def _path(graph: Graph, name: str) -> list[LocalStep] | None:
    """The steps from the model's inputs to a value, if the data owner can take all of them."""
    if any(spec.name == name for spec in graph.inputs) or _is_encoded(graph, name):
        return []
    node = graph.producers().get(name)
    if node is None or node.op not in _LAYOUT:
        return None
    step = _as_step(graph, node)
    if step is None:
        return None
    steps: list[LocalStep] = []
    for source in step.inputs:
        before = _path(graph, source)
        if before is None:
            return None
        steps.extend(before)
    return [*steps, step]


def _as_step(graph: Graph, node: Node) -> LocalStep | None:
    if node.op == "Cast" and node.attrs.get("to") == _STRING_TYPE:
        is_string = any(spec.name == node.inputs[0] and spec.dtype == STRING for spec in graph.inputs)
        return LocalStep("identity", (node.inputs[0],), (node.outputs[0],)) if is_string else None
    return local_step(graph, node)


def _is_encoded(graph: Graph, name: str) -> bool:
    return any(name in step.outputs for step in graph.encode) or any(name == spec.name for spec in graph.sent)


def _append_steps(graph: Graph, steps: list[LocalStep]) -> None:
    for step in steps:
        if not any(step.outputs == known.outputs for known in graph.encode):
            graph.encode.append(step)
