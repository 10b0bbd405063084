"""Peeling: what the data owner can compute from what it reconstructs anyway does not run under MPC.

Two steps, until nothing changes:

- *derive*: an output that follows from the other outputs by public steps (the label from the probabilities,
  ``1 - p`` from ``p``) is no longer revealed, but computed by the data owner;
- *peel*: an output of an invertible node (sigmoid, tanh, exp, …) is replaced by the node's input. A softmax
  tells its input up to one number for each row, so its input minus the mean of the row is revealed instead.

What is revealed afterwards and the model's outputs determine each other: nobody learns more than the model
tells. An output that tells less than its input (a label, a top-k, a maximum) stays under MPC.
"""

from __future__ import annotations

from dataclasses import dataclass

from converters.local_steps import LocalStep
from converters.onnx.graph import Graph, Node
from converters.onnx.registry import INTERNAL
from converters.passes.local_forms import (
    is_activation,
    is_bijection,
    local_step,
    private_reads,
    shape_of,
    softmax_axis,
)

__all__ = ["peel_outputs"]


def peel_outputs(graph: Graph) -> int:
    """Reveal the fewest and cheapest values that the outputs follow from; returns how many steps moved."""
    peeling = _Peeling(graph, list(dict.fromkeys(graph.outputs)))
    while peeling.derive() or peeling.peel():
        pass
    return peeling.commit()


@dataclass
class _Peeling:
    graph: Graph
    revealed: list[str]

    def __post_init__(self) -> None:
        self.producers = {output: node for node in self.graph.nodes for output in node.outputs if output}
        self.steps: dict[str, LocalStep] = {}
        self.centred: dict[str, str] = {}
        """Value to reveal -> the softmax's input that it is made of."""
        self.statements: list[str] = []

    def derive(self) -> bool:
        """Drop one revealed value that follows from the others."""
        for name in self.revealed:
            others = set(self.revealed) - {name}
            if others and self._follows(name, others):
                self.revealed.remove(name)
                return True
        return False

    def _follows(self, name: str, known: set[str]) -> bool:
        if name in known:
            return True
        step = self._step(name)
        return step is not None and all(self._follows(read, known) for read in step.inputs)

    def _step(self, name: str) -> LocalStep | None:
        if name in self.steps:
            return self.steps[name]
        node = self.producers.get(name)
        if node is None:
            return None
        step = local_step(self.graph, node)
        return step if step is not None and step.inputs else None

    def peel(self) -> bool:
        """Replace one revealed value by what it was made of, where that is worth it."""
        for index, name in enumerate(self.revealed):
            node = self.producers.get(name)
            if node is None or name in self.centred or not self._worth_it(name):
                continue
            new = self._sources(node)
            self.revealed[index : index + 1] = [value for value in new if value not in self.revealed]
            return True
        return False

    def _worth_it(self, name: str) -> bool:
        """Whether an activation, or a value that follows from its neighbours, comes out."""
        node = self.producers.get(name)
        if node is None:
            return False
        if is_activation(self.graph, node):
            return True
        if not is_bijection(self.graph, node):
            return False
        reads = private_reads(self.graph, node)
        redundant = any(self._follows(read, set(reads) - {read}) for read in reads if len(reads) > 1)
        return redundant or any(self._worth_it(read) for read in reads)

    def _sources(self, node: Node) -> list[str]:
        if not is_activation(self.graph, node):
            return private_reads(self.graph, node)
        source, output = node.inputs[0], node.outputs[0]
        axis = softmax_axis(self.graph, node) if node.op in ("Softmax", "LogSoftmax") else None
        if axis is None:
            self.statements.append(
                f"{output!r}: the data owner reconstructs the value before {node.op} and applies it itself. "
                f"{node.op} is invertible, so this tells what the output tells (with all its digits, also "
                "where the output is rounded to its limit)."
            )
            return [source]
        centred = self.graph.fresh_name(f"{source}.centred")
        self.centred[centred] = source
        step = local_step(self.graph, node)
        assert step is not None
        self.steps[output] = LocalStep(step.op, (centred,), step.outputs, step.attrs)
        self.producers[centred] = Node(
            "Centre", [source], [centred], attrs={"axis": axis}, domain=INTERNAL, name=node.name
        )
        self._decide_on(centred, source, axis)
        self.statements.append(
            f"{output!r}: the data owner reconstructs the logits minus their mean and applies {node.op} "
            "itself. That is exactly what the output tells: softmax forgets the mean and nothing else."
        )
        return [centred]

    def _decide_on(self, centred: str, source: str, axis: int) -> None:
        """The class with the largest logit is also the one with the largest centred logit."""
        for node in self.graph.nodes:
            step = local_step(self.graph, node) if node.op == "ArgMax" and source in node.inputs else None
            shape = shape_of(self.graph, source)
            if step is not None and shape is not None and step.attrs["axis"] in (axis, axis + len(shape)):
                self.steps[node.outputs[0]] = LocalStep(step.op, (centred,), step.outputs, step.attrs)

    def commit(self) -> int:
        """Write the result into the graph."""
        if self.revealed == self.graph.outputs:
            return 0
        order = {name: index for index, name in enumerate(self.producers)}
        wanted: dict[str, LocalStep] = {}
        pending = [name for name in self.graph.outputs if name not in self.revealed]
        while pending:
            name = pending.pop()
            step = self._step(name)
            assert step is not None
            if name in wanted:
                continue
            wanted[name] = step
            pending.extend(read for read in step.inputs if read not in self.revealed)
        self.graph.decode[:0] = [wanted[name] for name in sorted(wanted, key=order.__getitem__)]
        for name, source in self.centred.items():
            if name in self.revealed:
                _insert_after(self.graph, source, self.producers[name])
        self.graph.outputs = self.revealed
        self.graph.statements.extend(self.statements)
        self.graph.prune()
        return len(wanted)


def _insert_after(graph: Graph, name: str, node: Node) -> None:
    place = max((i for i, other in enumerate(graph.nodes) if name in other.outputs), default=-1)
    graph.nodes.insert(place + 1, node)
