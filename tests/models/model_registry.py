"""Whole models, from training to secure output: a registry of cases that tests and a page of the docs share.

A file ``model_cases_<theme>.py`` beside this one registers its cases with `case`. ``python
tests/models/model_registry.py`` runs all of them, plain and under SPU, and writes ``docs/models.md``; with
words, it runs the cases whose names contain one of them.
"""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from converters import ConvertedModel
from secure_runner.testing import simulate

if TYPE_CHECKING:
    from benchmarks.dealt_models import DealtModels

__all__ = ["CASES", "Case", "Made", "case", "check_plain", "check_spu", "load_cases"]

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "models.md"
PLAIN_TOLERANCE = 1e-4
SPU_TOLERANCE = 1e-3
SPU_ROWS = 3

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Made:
    """A converted model, inputs for it, and what its own library says of them."""

    model: ConvertedModel
    inputs: tuple[Array, ...]
    """One array for each of ``model.inputs``, all of the same number of rows."""
    expected: tuple[Array, ...]
    """One array for each of ``model.outputs``."""


@dataclass(frozen=True)
class Case:
    """One model to train, convert and compare."""

    name: str
    source: str
    """Where it comes from: the library and the exporter."""
    make: Callable[[], Made]
    plain_tolerance: float = PLAIN_TOLERANCE
    """Largest error in plain JAX, relative to the largest expected value where that is above 1."""
    spu_tolerance: float = SPU_TOLERANCE
    """The same under SPU."""
    note: str = ""
    """What a reader of the tolerances should know."""


CASES: dict[str, Case] = {}


def case(source: str, **options: Any) -> Callable[[Callable[[], Made]], Callable[[], Made]]:
    """Register a function that makes a case, under the function's name."""

    def register(make: Callable[[], Made]) -> Callable[[], Made]:
        name = make.__name__.replace("_", " ")
        CASES[name] = Case(name, source, make, **options)
        return make

    return register


def load_cases() -> dict[str, Case]:
    """All cases, of every file beside this one."""
    for path in sorted(HERE.glob("model_cases_*.py")):
        importlib.import_module(path.stem)
    return CASES


def check_plain(chosen: Case, made: Made) -> float:
    """The largest error in plain JAX over all rows; raises AssertionError above the tolerance."""
    found = made.model.predict(made.model.params, *made.inputs)
    return _compare(found, made.expected, chosen.plain_tolerance, margin=1e-4)


def check_spu(chosen: Case, made: Made, predict: Callable[..., Sequence[Array]] = simulate) -> float:
    """The largest error of the first rows under SPU; raises AssertionError above the tolerance.

    ``predict`` takes the model and its inputs: ABY3 with all parties in this process, if nothing else.
    """
    few = [array[:SPU_ROWS] for array in made.inputs]
    found = predict(made.model, *few)
    expected = tuple(array[:SPU_ROWS] for array in made.expected)
    return _compare(found, expected, chosen.spu_tolerance, margin=2 * chosen.spu_tolerance)


def _compare(found: Sequence[Any], expected: Sequence[Array], tolerance: float, *, margin: float) -> float:
    assert len(found) == len(expected), f"{len(found)} outputs, not {len(expected)}"
    clear = _clear_rows(expected, margin)
    largest = 0.0
    for one, other in zip(map(np.asarray, found), expected, strict=True):
        assert one.shape == other.shape, f"shape {one.shape}, not {other.shape}"
        if other.dtype.kind in "iUO":
            assert (one[clear] == other[clear]).all(), (
                f"{(one != other)[clear].mean():.1%} of the labels differ"
            )
            continue
        scale = max(1.0, float(np.abs(other).max()))
        error = float(np.abs(one - other).max()) / scale
        assert error <= tolerance, f"error {error:.2e} above {tolerance:g}"
        largest = max(largest, error)
    return largest


def _clear_rows(expected: Sequence[Array], margin: float) -> Array:
    """Rows whose two best scores differ by more than the margin; elsewhere a label is rounding."""
    scores = next((array for array in expected if array.dtype.kind == "f" and array.ndim == 2), None)
    if scores is None or len(expected) == 1:
        return np.ones(expected[0].shape[0], bool)
    if scores.shape[1] == 1:
        return np.abs(scores[:, 0]) > margin
    best = np.sort(scores, axis=1)
    return np.asarray(best[:, -1] - best[:, -2] > margin)


def _row(chosen: Case, dealt: DealtModels) -> tuple[str, bool]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = chosen.make()
            plain = check_plain(chosen, made)
            secure = check_spu(chosen, made)
            with_dealer = check_spu(chosen, made, dealt.predict)
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(str(error).split())[:120]
        return f"| {chosen.name} | {chosen.source} | **{type(error).__name__}: {reason}** | | | | |", False
    kinds = ", ".join(
        f"{op} {count}" if count > 1 else op for op, count in sorted(made.model.report.ops.items())
    )
    errors = f"{plain:.0e} | {secure:.0e} | {with_dealer:.0e} | {chosen.spu_tolerance:g}"
    return f"| {chosen.name} | {chosen.source} | {errors} | {kinds} |", True


def main(words: Sequence[str]) -> int:
    """Run the cases and write the page; returns the number of failures."""
    from benchmarks.dealt_models import DealtModels

    rows = []
    chosen = [one for name, one in load_cases().items() if not words or any(word in name for word in words)]
    with DealtModels() as dealt:
        for one in sorted(chosen, key=lambda one: (one.source, one.name)):
            rows.append(_row(one, dealt))
            sys.stdout.write(rows[-1][0] + "\n")
            sys.stdout.flush()
    if not words:
        notes = [f"- {one.name}: {one.note}" for one in CASES.values() if one.note]
        PAGE.write_text(_HEADING + "\n".join(row for row, _ in rows) + "\n\n" + "\n".join(notes) + "\n")
    return sum(not good for _, good in rows)


_HEADING = """# Whole models, from training to secure output

Made by `python tests/models/model_registry.py`; the tests run the same cases. Each model is trained,
exported, converted, compared with its own library (ONNX models with onnxruntime) in plain JAX on all rows,
and run under SPU on three rows: with ABY3, all parties in one process, and with SEMI2K, two party processes
on a link, and a dealer process that holds them to the recorded transcript. Both with FM64 and 18 fraction
bits. Errors are the largest absolute ones, relative to the largest output where that is above 1; labels agree
on every row that is no tie.

| model | from | error, plain | error, ABY3 | error, SEMI2K and dealer | tolerance | operators under MPC |
|---|---|---|---|---|---|---|
"""


if __name__ == "__main__":
    # The cases import this module by its name: they must register in that one.
    sys.path[:0] = [str(HERE), str(PAGE.parent.parent)]
    sys.exit(importlib.import_module("model_registry").main(sys.argv[1:]))
