"""The graph that conversion works on: plain data, names unique over all subgraphs.

ONNX scopes names by subgraph; here every value has one name in one flat table, so a pass can ask for the
producer or the consumers of a value without knowing where it sits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from converters.local_steps import LocalStep
from converters.model import TensorSpec

__all__ = ["Constants", "Graph", "Node"]

NDArray = np.ndarray[Any, Any]
Constants = dict[str, NDArray]


@dataclass
class Node:
    """One operator call."""

    op: str
    inputs: list[str]
    """Names of values; an empty string is an input left out."""
    outputs: list[str]
    attrs: dict[str, Any] = field(default_factory=dict)
    """Numbers, strings, tuples, numpy arrays, and `Graph` for subgraphs. None of them is secret."""
    weights: dict[str, str] = field(default_factory=dict)
    """Keyword of the operator -> name of a constant: trained values that came as attributes."""
    domain: str = ""
    version: int = 1
    """Opset version of the domain under which the node is meant."""
    name: str = ""

    @property
    def subgraphs(self) -> list[Graph]:
        """Graphs among the attributes, in their order."""
        return [value for value in self.attrs.values() if isinstance(value, Graph)]

    @property
    def reads(self) -> list[str]:
        """Every value that the node itself reads; of its subgraphs, none."""
        return [name for name in self.inputs if name] + list(self.weights.values())


@dataclass
class Graph:
    """Nodes in an order in which they can be computed."""

    nodes: list[Node]
    inputs: list[TensorSpec]
    outputs: list[str]
    constants: Constants = field(default_factory=dict)
    """Values of the file; one table, shared with all subgraphs."""
    opsets: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[tuple[int | None, ...], str]] = field(default_factory=dict)
    """Shape (``None`` = batch) and dtype of traced values, as far as known before the passes run."""
    derived: set[str] = field(default_factory=set)
    """Constants computed from trained ones while folding: secret whatever their dtype."""
    sent: list[TensorSpec] = field(default_factory=list)
    """What a client sends. A pass that adds an encode step changes ``inputs`` and leaves this."""
    received: list[str] = field(default_factory=list)
    """What a client receives. A pass that peels changes ``outputs`` and leaves this."""
    encode: list[LocalStep] = field(default_factory=list)
    """Steps before sharing."""
    decode: list[LocalStep] = field(default_factory=list)
    """Steps after reconstruction, in order; a pass that peels the last node puts its step at the front."""
    input_ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Closed interval of what the model can take, per name of ``sent``."""
    statements: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """All nodes, those of subgraphs after the node that holds them."""
        for node in self.nodes:
            yield node
            for subgraph in node.subgraphs:
                yield from subgraph.walk()

    def producers(self) -> dict[str, Node]:
        """The node that gives each value."""
        return {output: node for node in self.walk() for output in node.outputs if output}

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each value. Outputs of graphs are not in it: see `uses`."""
        found: dict[str, list[Node]] = {}
        for node in self.walk():
            for name in node.reads:
                found.setdefault(name, []).append(node)
        return found

    def uses(self) -> dict[str, int]:
        """How often each value is read, by nodes or as an output of a graph."""
        counts: dict[str, int] = {}
        for name in self.outputs:
            counts[name] = counts.get(name, 0) + 1
        for node in self.walk():
            for name in [*node.reads, *(out for graph in node.subgraphs for out in graph.outputs)]:
                counts[name] = counts.get(name, 0) + 1
        return counts

    def names(self) -> set[str]:
        """Every name in use."""
        found = {spec.name for spec in self.inputs} | set(self.constants)
        for node in self.walk():
            found.update(output for output in node.outputs if output)
            found.update(spec.name for graph in node.subgraphs for spec in graph.inputs)
        return found

    def fresh_name(self, stem: str) -> str:
        """``stem``, with a number if it is taken. Stable for the same graph."""
        taken = self.names()
        name, number = stem, 1
        while name in taken:
            name, number = f"{stem}_{number}", number + 1
        return name

    def add_constant(self, stem: str, value: NDArray) -> str:
        """Put a (secret) constant into the table and return its name."""
        name = self.fresh_name(stem)
        self.constants[name] = value
        return name

    def replace_uses(self, old: str, new: str) -> None:
        """Let everything that reads ``old`` read ``new``, but keep the names of the model's outputs."""
        for node in self.walk():
            node.inputs = [new if name == old else name for name in node.inputs]
            node.weights = {key: new if name == old else name for key, name in node.weights.items()}
            for graph in node.subgraphs:
                graph.outputs = [new if name == old else name for name in graph.outputs]

    def prune(self) -> None:
        """Drop nodes and constants on which no output depends."""
        needed = set(self.outputs)
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if not needed.intersection(node.outputs):
                continue
            kept.append(node)
            needed.update(_read_inside(node))
        self.nodes = kept[::-1]
        for name in [name for name in self.constants if name not in needed]:
            del self.constants[name]


def _read_inside(node: Node) -> set[str]:
    names = set(node.reads)
    for graph in node.subgraphs:
        names.update(graph.outputs)
        for inner in graph.nodes:
            names |= _read_inside(inner)
    return names
