"""Every operator once under SPU: the smallest case of ONNX's backend suite that holds it alone.

``python tests/spu/operators.py`` runs all of them under every protocol and writes
``docs/operators-under-spu.md``; with names of operators, it runs those. Weights and inputs are secret. All
parties are in one process, with the real protocols and ring; the process is replaced if SPU takes it down.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "conformance"))

import suite  # noqa: E402

PAGE = HERE.parent.parent / "docs" / "operators-under-spu.md"
PROTOCOLS = ("aby3", "semi2k", "cheetah")
TOLERANCE = 5e-3
"""Largest absolute error, or relative one for values above 1, unless the list says otherwise."""
TOLERANCES = {
    # Rounding to the next integer step: the exact half may go either way, which is one step of 255.
    "DynamicQuantizeLinear": 0.05,
    "QLinearConv": 0.02,
    "QLinearMatMul": 0.05,
    "QuantizeLinear": 0.02,
    # SPU's tanh overshoots by up to 5e-3, and these build on it.
    "GRU": 2e-2,
    "LSTM": 2e-2,
    "RNN": 2e-2,
    "Mish": 2e-2,
    "Gelu": 2e-2,
}
LARGEST_VALUE = 1e3


def choose() -> dict[str, str]:
    """For each operator the smallest case with that operator alone and values that a ring holds."""
    best: dict[str, tuple[int, str]] = {}
    for case in suite.cases():
        graph = case.model().graph
        excluded = case.name in suite.exclusions() or len(graph.node) != 1 or case.name.startswith("light/")
        if excluded or not _fits(case):
            continue
        (name,) = suite.operators(case)
        size = sum(np.size(array) for part in next(iter(case.data_sets(case.model()))) for array in part)
        if size and (name not in best or (size, case.name) < best[name]):
            best[name] = (size, case.name)
    return {name: case for name, (_, case) in sorted(best.items())}


def _fits(case: suite.Case) -> bool:
    arrays = [array for part in next(iter(case.data_sets(case.model()))) for array in part]
    numbers = [np.asarray(array, np.float64) for array in arrays if np.asarray(array).dtype.kind in "fiub"]
    if len(numbers) != len(arrays) or any(not array.size for array in numbers):
        return False
    return all(np.isfinite(array).all() and np.abs(array).max() <= LARGEST_VALUE for array in numbers)


def measure(name: str, case: suite.Case, protocol: str) -> dict[str, Any]:
    """Run one case. Returns the error and rank 0's traffic, or what went wrong."""
    from secure_runner.testing import run_private

    model = case.model()
    inputs, expected = next(iter(case.data_sets(model)))
    converted, arrays = suite.convert(model, inputs, rewrites=())
    result = run_private(converted, arrays, protocol=protocol, with_traffic=True)
    assert result.traffic is not None
    errors = [
        float(np.max(np.abs(found.astype(np.float64) - wanted) / np.maximum(np.abs(wanted), 1)))
        for found, wanted in zip(result.outputs, expected, strict=True)
    ]
    return {
        "error": max(errors),
        "bytes": result.traffic.sent_bytes,
        "messages": result.traffic.messages,
    }


def run(tasks: list[tuple[str, str, str]]) -> Iterator[tuple[tuple[str, str, str], dict[str, Any]]]:
    """Run (operator, case, protocol) one after the other in child processes that may die."""
    while tasks:
        command = [sys.executable, str(HERE / "operators.py"), "--child"]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps(tasks))
        child.stdin.close()
        done = 0
        for line in child.stdout:
            if line.startswith("RESULT "):
                yield tasks[done], json.loads(line.removeprefix("RESULT "))
                done += 1
        child.wait()
        if done < len(tasks):
            yield tasks[done], {"failure": "the process was ended by SPU"}
            done += 1
        tasks = tasks[done:]


def child() -> None:
    """Read tasks, write a line for each."""
    warnings.simplefilter("ignore")
    for name, case, protocol in json.loads(sys.stdin.read()):
        try:
            result = measure(name, suite.Case(case), protocol)
        except Exception as error:
            result = {"failure": f"{type(error).__name__}: " + " ".join(str(error).split())[:160]}
        sys.stdout.write("RESULT " + json.dumps(result) + "\n")
        sys.stdout.flush()


def tolerance(name: str) -> float:
    """The largest error that an operator may show."""
    return TOLERANCES.get(name, TOLERANCE)


def verdict(name: str, result: dict[str, Any]) -> str:
    """``works``, or what is wrong."""
    if "failure" in result:
        return str(result["failure"])
    return "works" if result["error"] <= tolerance(name) else "too inexact"


def page(results: dict[tuple[str, str], dict[str, Any]]) -> str:
    """The page for the documentation."""
    names = sorted({name for name, _ in results})
    header = "".join(f" {protocol} | error | kB | messages |" for protocol in PROTOCOLS)
    lines = [
        "# Operators under SPU",
        "",
        "Generated by `python tests/spu/operators.py`. Each operator runs once, on the smallest case of",
        "ONNX's backend suite that holds it alone, every input and weight secret and no rewrite applied:",
        "64-bit ring, 18 fraction bits, Padé exponential. The error is the largest absolute one (relative",
        "above 1) against the suite's outputs; kB and messages are what one party sends.",
        "",
        f"| operator | tolerance |{header}",
        "|---|---|" + "---|" * (4 * len(PROTOCOLS)),
    ]
    for name in names:
        cells = [name, f"{tolerance(name):g}"]
        for protocol in PROTOCOLS:
            result = results.get((name, protocol), {"failure": "not run"})
            cells.append(verdict(name, result))
            if "failure" in result:
                cells += ["", "", ""]
            else:
                error = f"{result['error']:.0e}" if result["error"] > 1e-9 else "0"
                cells += [
                    error,
                    f"{result['bytes'] / 1000:.1f}",
                    str(result["messages"]),
                ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Run the operators named, or all of them, and then write the page."""
    if arguments == ["--child"]:
        child()
        return
    chosen = {name: case for name, case in choose().items() if not arguments or name in arguments}
    tasks = [(name, case, protocol) for protocol in PROTOCOLS for name, case in chosen.items()]
    results = {}
    for (name, case, protocol), result in run(tasks):
        results[name, protocol] = result
        sys.stdout.write(f"{protocol} {name} {case}: {verdict(name, result)} {json.dumps(result)}\n")
        sys.stdout.flush()
    if not arguments:
        PAGE.write_text(page(results))


if __name__ == "__main__":
    main(sys.argv[1:])
