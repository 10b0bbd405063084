"""ONNX's own backend test suite, run on the converters in plain JAX under `jax.jit`.

``python tests/conformance/suite.py`` runs every case and writes ``docs/onnx-conformance.md``; with words, it
runs the cases whose names contain one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.experimental
import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.runner import Runner

from converters import ConvertedModel, from_onnx
from converters.onnx.dtypes import canonical_dtype
from converters.onnx.inputs import resolve_inputs
from converters.onnx.load import load_graph
from converters.onnx.structure import required_static

RTOL, ATOL = 1e-3, 1e-5
HERE = Path(__file__).parent
_MOST_PROCESSES = 4
PAGE = HERE.parent.parent / "docs" / "onnx-conformance.md"
DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
EXACT = {"gelu_polynomial": False}
"""Without the one rewrite that approximates; all others run."""
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Each program runs once: compiling dominates."""


@dataclass(frozen=True)
class Case:
    """One case of the suite: a model with inputs and the outputs it must give."""

    name: str

    def model(self) -> onnx.ModelProto:
        return onnx.load(DATA / f"{self.name}.onnx" if self.is_light else DATA / self.name / "model.onnx")

    @property
    def is_light(self) -> bool:
        """A known network without its weights."""
        return self.name.startswith("light/")

    def data_sets(self, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
        """Inputs and expected outputs, in the model's order."""
        if self.is_light:
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
            _check(case, model, inputs, expected)
    except AssertionError as error:
        return " ".join(str(error).split())[:300]
    except Exception as error:
        return f"{type(error).__name__}: " + " ".join(str(error).split())[:300]
    return ""


def _check(case: Case, model: onnx.ModelProto, inputs: list[Any], expected: list[Any]) -> None:
    try:
        _compare(_outputs(model, inputs), expected)
    except AssertionError:
        if not case.is_light:
            raise
        # All weights of such a network are alike: it ends in a softmax over equal logits of up to 1e10, where
        # the last bit of a float32 is 1000. The order in which a processor adds decides the outcome.
        _compare(_outputs_in_float64(model, inputs), expected)


def convert(model: onnx.ModelProto, inputs: list[Any], **options: Any) -> tuple[ConvertedModel, list[Any]]:
    """Convert for these inputs. What an operator must know while converting is given as ``static``.

    Args:
        model: of a case.
        inputs: of the case, in the model's order.
        options: of `from_onnx`.

    Returns:
        The model and the arrays of its private inputs.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    wanted = [value.name for value in model.graph.input if value.name not in stored]
    named = dict(zip(wanted, inputs, strict=False))
    graph = load_graph(model)
    graph.inputs = resolve_inputs(model, {name: array.shape for name, array in named.items()}, {})
    static = {name: named[name] for name in required_static(graph)}
    private = {name: array for name, array in named.items() if name not in static}
    shapes = {name: array.shape for name, array in private.items()}
    converted = from_onnx(model, input_shapes=shapes, static=static, **{"rewrites": EXACT, **options})
    pairs = zip(private.values(), converted.inputs, strict=True)
    return converted, [np.asarray(array, spec.dtype) for array, spec in pairs]


def _outputs(model: onnx.ModelProto, inputs: list[Any]) -> tuple[Any, ...]:
    converted, arrays = convert(model, inputs)
    if any(array.dtype.kind in "UO" for array in arrays):  # strings end at the data owner, outside JAX
        return converted.predict(converted.params, *arrays)
    return _compiled(converted, converted.params, arrays)


def _outputs_in_float64(model: onnx.ModelProto, inputs: list[Any]) -> tuple[Any, ...]:
    converted, arrays = convert(model, inputs)
    with jax.experimental.enable_x64():
        params = {name: _widened(array) for name, array in converted.params.items()}
        outputs = _compiled(converted, params, [_widened(array) for array in arrays])
    return tuple(np.asarray(output).astype(canonical_dtype(output.dtype)) for output in outputs)


def _compiled(converted: ConvertedModel, params: Mapping[str, Any], arrays: list[Any]) -> tuple[Any, ...]:
    lowered = jax.jit(converted.predict).lower(params, *arrays)
    return tuple(lowered.compile(compiler_options=FAST_COMPILE)(params, *arrays))


def _widened(array: Any) -> Any:
    return np.asarray(array, np.float64) if np.asarray(array).dtype == np.float32 else array


def _compare(found: tuple[Any, ...], expected: list[Any]) -> None:
    assert len(found) == len(expected), f"{len(found)} outputs, not {len(expected)}"
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        wanted = canonical_dtype(other.dtype)
        assert one.dtype == wanted, f"output {index} is {one.dtype}, not {wanted}"
        assert one.shape == other.shape, f"output {index} has shape {one.shape}, not {other.shape}"
        np.testing.assert_allclose(np.asarray(one), other.astype(wanted), rtol=RTOL, atol=ATOL)


def run_all(chosen: Iterable[Case]) -> dict[str, str]:
    """What went wrong, by case name; an empty string for a case that passes."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index, case in enumerate(chosen):
            found[case.name] = run(case)
            if index % 200 == 199:
                jax.clear_caches()
    return found


def run_apart(words: list[str]) -> dict[str, str]:
    """`run_all` in processes of their own, one a core, with XLA as it has to be set up before it starts.

    jaxlib 0.4.26 replaces every softmax on the CPU, along whatever dimension, by oneDNN's along the last one;
    that rewrite is switched off. So is fusion, which may compute a value twice with different rounding: the
    suite's large networks have logits of 1e10, where the difference is a thousand. SPU has neither.
    """
    environment = {**os.environ, "XLA_FLAGS": "--xla_disable_hlo_passes=onednn-ops-rewriter,fusion"}
    count = min(os.cpu_count() or 1, _MOST_PROCESSES)

    def run_part(index: int) -> dict[str, str]:
        command = [sys.executable, str(HERE / "suite.py"), "--part", str(index), str(count), *words]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return dict(json.loads(result.stdout.splitlines()[-1]))

    with ThreadPoolExecutor(count) as threads:
        parts = threads.map(run_part, range(count))
        found = {name: reason for part in parts for name, reason in part.items()}
    return {case.name: found[case.name] for case in cases() if case.name in found}


def exclusions() -> dict[str, str]:
    """Cases that cannot pass, with the reason."""
    return dict(json.loads((HERE / "exclusions.json").read_text()))


def operators(case: Case) -> set[str]:
    """The operators in a case's model, subgraphs left aside."""
    graph = case.model().graph
    return {f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in graph.node}


def table(results: dict[str, str]) -> str:
    """The page for the documentation."""
    total, passed = len(results), sum(not reason for reason in results.values())
    seen: dict[str, list[bool]] = defaultdict(list)
    for case in cases():
        for name in operators(case):
            seen[name].append(not results[case.name])
    lines = [
        "# Conformance with ONNX's backend test suite",
        "",
        "Generated by `python tests/conformance/suite.py`; a test compares it with a new run.",
        "",
        f"The suite of onnx {onnx.__version__} holds 1914 cases. {total} of them make sense under MPC: those",
        "with strings, sequences, optional values, training, random numbers, 8-bit and 4-bit floats,",
        "data-dependent shapes and Fourier transforms are left out. Each case is converted, compiled by",
        f"`jax.jit` and compared with the suite's own outputs: relative tolerance {RTOL:g}, absolute",
        f"tolerance {ATOL:g}, dtype and shape exactly. Networks without weights (`light/`) end in a softmax",
        "over equal logits of up to 1e10, where it depends on the processor whether float32 sums come out",
        "equal; where they do not, the case counts as it comes out in float64.",
        "",
        f"**{passed} of {total} pass.**",
        "",
        "## Cases that do not pass",
        "",
        "| case | reason |",
        "|---|---|",
        *(f"| `{name}` | {reason} |" for name, reason in sorted(exclusions().items())),
        "",
        "## By operator",
        "",
        "Cases whose model contains the operator, and how many of them pass.",
        "",
        "| operator | cases | pass |",
        "|---|---|---|",
        *(f"| {name} | {len(marks)} | {sum(marks)} |" for name, marks in sorted(seen.items())),
    ]
    return "\n".join(lines) + "\n"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main(arguments: list[str]) -> None:
    """Run the cases whose name contains one of the words, or all and write the page."""
    if arguments[:1] == ["--part"]:
        first, step, words = int(arguments[1]), int(arguments[2]), arguments[3:]
        chosen = [case for case in cases() if not words or any(word in case.name for word in words)]
        _say(json.dumps(run_all(chosen[first::step])))
        return
    results = run_apart(arguments)
    for name, reason in results.items():
        if reason:
            _say(f"{name}: {reason}")
    _say(f"{sum(not reason for reason in results.values())} of {len(results)} pass")
    if not arguments:
        PAGE.write_text(table(results))


if __name__ == "__main__":
    main(sys.argv[1:])
