"""If, Loop and Scan: decided, unrolled or vectorised while tracing.

A condition or trip count that depends on a private value cannot be followed without revealing it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from converters.errors import NodeError
from converters.onnx.graph import Graph, Node

if TYPE_CHECKING:
    from converters.onnx.trace import Tracer

__all__ = ["CONTROL"]

_LONGEST_LOOP = 4096


def run_if(tracer: Tracer, node: Node) -> None:
    """Take the branch that a known condition chooses."""
    if not tracer.is_static(node.inputs[0]):
        raise NodeError(
            "its condition depends on a private value, and taking a branch would reveal it.",
            "compute both branches and choose with Where.",
        )
    taken = bool(tracer.known(node.inputs[0]).reshape(()))
    body: Graph = node.attrs["then_branch" if taken else "else_branch"]
    tracer.run_nodes(body)
    tracer.bind(node.outputs, [_current(tracer, name) for name in body.outputs])


def run_loop(tracer: Tracer, node: Node) -> None:
    """Unroll a loop with a known trip count."""
    body: Graph = node.attrs["body"]
    count = _trip_count(tracer, node)
    going: Any = True
    if len(node.inputs) > 1 and node.inputs[1]:
        going = _known_condition(tracer, node.inputs[1])
    state = [_current(tracer, name) for name in node.inputs[2:]]
    collected: list[list[Any]] = [[] for _ in body.outputs[1 + len(state) :]]
    step = 0
    while going and step < count:
        if step >= _LONGEST_LOOP:
            raise NodeError(f"the loop runs more than {_LONGEST_LOOP} times.", "export the model without it.")
        tracer.bind([spec.name for spec in body.inputs], [np.asarray(step), np.asarray(True), *state])
        tracer.run_nodes(body)
        going = _known_condition(tracer, body.outputs[0])
        state = [_current(tracer, name) for name in body.outputs[1 : 1 + len(state)]]
        for rows, name in zip(collected, body.outputs[1 + len(state) :], strict=True):
            rows.append(tracer.value(name))
        step += 1
    if collected and not step:
        raise NodeError("the loop never runs, and what it would collect has no shape.", "remove it.")
    tracer.bind(node.outputs, [*state, *(jnp.stack(rows) for rows in collected)])


def _trip_count(tracer: Tracer, node: Node) -> float:
    name = node.inputs[0]
    if not name:
        return float("inf")
    if not tracer.is_static(name):
        raise NodeError("its trip count depends on a private value.", "export the model with a fixed count.")
    return int(tracer.known(name).reshape(()))


def _known_condition(tracer: Tracer, name: str) -> bool:
    if not tracer.is_static(name):
        raise NodeError(
            "whether it goes on depends on a private value, and stopping would reveal it.",
            "run it a fixed number of times.",
        )
    return bool(tracer.known(name).reshape(()))


def run_scan(tracer: Tracer, node: Node) -> None:
    """A Scan without state is a map over rows, and is vectorised; with state it is unrolled."""
    body: Graph = node.attrs["body"]
    if node.version < 9:
        _scan_8(tracer, node, body)
        return
    scanned = node.attrs["num_scan_inputs"]
    states = [_current(tracer, name) for name in node.inputs[: len(node.inputs) - scanned]]
    axes_in = node.attrs.get("scan_input_axes") or (0,) * scanned
    columns = [
        jnp.moveaxis(tracer.value(name), axis, 0)
        for name, axis in zip(node.inputs[len(states) :], axes_in, strict=True)
    ]
    results = len(body.outputs) - len(states)
    states, rows = _scan(
        tracer,
        body,
        states,
        columns,
        node.attrs.get("scan_input_directions") or (0,) * scanned,
        node.attrs.get("scan_output_directions") or (0,) * results,
    )
    axes_out = node.attrs.get("scan_output_axes") or (0,) * results
    moved = [jnp.moveaxis(row, 0, axis) for row, axis in zip(rows, axes_out, strict=True)]
    tracer.bind(node.outputs, [*states, *moved])


def _scan_8(tracer: Tracer, node: Node, body: Graph) -> None:
    """Opset 8: everything has a batch dimension in front, and the lengths come first."""
    if node.inputs[0]:
        raise NodeError("sequences of unequal length are not supported.", "pad them to one length.")
    scanned = node.attrs["num_scan_inputs"]
    names = node.inputs[1:]
    directions = node.attrs.get("directions") or (0,) * scanned
    count = len(names) - scanned
    values = [tracer.value(name) for name in names]
    batches = []
    for index in range(values[0].shape[0]):
        states, rows = _scan(
            tracer,
            body,
            [value[index] for value in values[:count]],
            [value[index] for value in values[count:]],
            directions,
            (0,) * (len(body.outputs) - count),
        )
        batches.append([*states, *rows])
    tracer.bind(node.outputs, [jnp.stack(column) for column in zip(*batches, strict=True)])


def _scan(
    tracer: Tracer,
    body: Graph,
    states: list[Any],
    columns: list[Any],
    directions_in: tuple[int, ...],
    directions_out: tuple[int, ...],
) -> tuple[list[Any], list[Any]]:
    columns = [jnp.flip(c, 0) if back else c for c, back in zip(columns, directions_in, strict=True)]
    formals = [spec.name for spec in body.inputs]

    def step(current: list[Any], rows: list[Any]) -> list[Any]:
        tracer.bind(formals, [*current, *rows])
        tracer.run_nodes(body)
        return [tracer.value(name) for name in body.outputs]

    if not states:
        collected = list(jax.vmap(lambda *rows: tuple(step([], list(rows))))(*columns))
    else:
        gathered: list[list[Any]] = []
        for index in range(columns[0].shape[0]):
            results = step(states, [column[index] for column in columns])
            states = results[: len(states)]
            gathered.append(results[len(states) :])
        collected = [jnp.stack(rows) for rows in zip(*gathered, strict=True)]
    return states, [jnp.flip(c, 0) if back else c for c, back in zip(collected, directions_out, strict=True)]


def _current(tracer: Tracer, name: str) -> Any:
    """The value as it stands: static values stay static."""
    return tracer.known(name) if tracer.is_static(name) else tracer.value(name)


CONTROL: dict[str, Callable[[Tracer, Node], None]] = {"If": run_if, "Loop": run_loop, "Scan": run_scan}
