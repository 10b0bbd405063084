"""ONNX's own backend test suite, run on the converters in plain JAX under `jax.jit`.

``python -m tests.conformance.suite`` runs every case and writes ``docs/onnx-conformance.md``.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.runner import Runner

from converters import from_onnx
from converters.onnx.dtypes import canonical_dtype
from converters.onnx.inputs import resolve_inputs
from converters.onnx.load import load_graph
from converters.onnx.structure import required_static

RTOL, ATOL = 1e-3, 1e-5
HERE = Path(__file__).parent
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Each program runs once: compiling dominates."""


@dataclass(frozen=True)
class Case:
    """One case of the suite: a model with inputs and the outputs it must give."""

    name: str

    def model(self) -> onnx.ModelProto:
        path = (
            DATA / f"{self.name}.onnx" if self.name.startswith("light/") else DATA / self.name / "model.onnx"
        )
        return onnx.load(path)

    def data_sets(self, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
        """Inputs and expected outputs, in the model's order."""
        if self.name.startswith("light/"):
            stored = {tensor.name for tensor in model.graph.initializer}
            inputs = [
                Runner.generate_dummy_data(value, seed=0, name=self.name, random=False)
                for value in model.graph.input
                if value.name not in stored
            ]
            yield inputs, [_tensor(DATA / f"{self.name}_output_0.pb")]
            return
        for folder in sorted((DATA / self.name).glob("test_data_set_*")):
            yield _tensors(folder, "input"), _tensors(folder, "output")


def _tensors(folder: Path, kind: str) -> list[Any]:
    return [_tensor(folder / f"{kind}_{index}.pb") for index in range(len(list(folder.glob(f"{kind}_*.pb"))))]


def _tensor(path: Path) -> Any:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


@cache
def cases() -> tuple[Case, ...]:
    """The cases that make sense under MPC: no strings, sequences, random numbers or 8-bit floats."""
    return tuple(Case(name) for name in sorted(json.loads((HERE / "cases.json").read_text())))


def run(case: Case) -> str:
    """Convert, trace, compile, run and compare. Returns an empty string, or what went wrong."""
    model = case.model()
    try:
        for inputs, expected in case.data_sets(model):
            _compare(_outputs(model, inputs), expected)
    except AssertionError as error:
        return " ".join(str(error).split())[:300]
    except Exception as error:
        return f"{type(error).__name__}: " + " ".join(str(error).split())[:300]
    return ""


def _outputs(model: onnx.ModelProto, inputs: list[Any]) -> tuple[Any, ...]:
    stored = {tensor.name for tensor in model.graph.initializer}
    named = {
        value.name: array
        for value, array in zip([v for v in model.graph.input if v.name not in stored], inputs, strict=False)
    }
    shapes = {name: array.shape for name, array in named.items()}
    graph = load_graph(model)
    graph.inputs = resolve_inputs(model, shapes, {})
    static = {name: named[name] for name in required_static(graph)}
    private = {name: array for name, array in named.items() if name not in static}
    converted = from_onnx(
        model, input_shapes={name: array.shape for name, array in private.items()}, static=static
    )
    arrays = [
        np.asarray(array, spec.dtype) for array, spec in zip(private.values(), converted.inputs, strict=True)
    ]
    lowered = jax.jit(converted.predict).lower(converted.params, *arrays)
    return tuple(lowered.compile(compiler_options=FAST_COMPILE)(converted.params, *arrays))


def _compare(found: tuple[Any, ...], expected: list[Any]) -> None:
    assert len(found) == len(expected), f"{len(found)} outputs, not {len(expected)}"
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        wanted = canonical_dtype(other.dtype)
        assert one.dtype == wanted, f"output {index} is {one.dtype}, not {wanted}"
        assert one.shape == other.shape, f"output {index} has shape {one.shape}, not {other.shape}"
        np.testing.assert_allclose(np.asarray(one), other.astype(wanted), rtol=RTOL, atol=ATOL)


def run_all(names: list[Case]) -> dict[str, str]:
    """Failures by case name."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, case in enumerate(names):
            reason = run(case)
            if reason:
                found[case.name] = reason
            if index % 200 == 199:
                jax.clear_caches()
    return found


if __name__ == "__main__":
    chosen = [case for case in cases() if not sys.argv[1:] or any(word in case.name for word in sys.argv[1:])]
    failures = run_all(chosen)
    for name, reason in failures.items():
        print(f"{name}: {reason}")
    print(Counter(reason[:60] for reason in failures.values()).most_common(40))
    print(len(chosen) - len(failures), "of", len(chosen))
