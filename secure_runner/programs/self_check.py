"""The check after SPU has compiled: does the executable compute what the model computes?

SPU's compiler takes some operations wrongly and says nothing; it drops the layout of constants that XLA has
transposed, for example. So an executable runs once before it is saved, with all parties in one process, and
is compared with XLA's own answer to the same lowered function.
``python -m secure_runner.programs.self_check`` does both, in a process of its own, which SPU may kill; what
it tells is the size of errors and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secure_runner.errors import ProgramError
from secure_runner.frames import Bytes, Frame
from secure_runner.programs.child import ChildTimeoutError, answer, ask
from secure_runner.programs.lowering import Lowered
from secure_runner.programs.manifest import NumericSpec
from secure_runner.programs.probe_rows import made_up_rows, sample_rows
from secure_runner.protocols import ProtocolName

if TYPE_CHECKING:
    from converters import ConvertedModel

__all__ = ["TOLERANCE", "SelfCheckError", "check_answers"]

Array = npt.NDArray[Any]
_logger = logging.getLogger(__name__)

TOLERANCE = 0.05
"""Largest error, in units of the output's largest value. Fixed point stays well below: 0.008 at most for the
models of docs/models.md, 0.0005 for those that are trained."""
_LARGEST_PARAMS_BYTES = 128 << 20
_TIMEOUT_S = 120.0
_MORE_RUNGS_S = 10.0
"""Larger batches run too as long as all of them together take no longer than this."""
_SCALES = (1.0, 1.0, 0.125)
"""Of made-up rows, tried in turn until one agrees: a label may hang on the last bits of a score, and what
overflows the ring with the first may fit with the last."""
_NOISE_RUNS = 2
_UNDECIDED = 0.25
"""An element that rounding the arguments alone moves by more than this share of the tolerance is left out."""
_AT_ONCE = 1 << 20
_SMALLEST_UNIT = 13
"""Errors count in units of 2**13 steps of the ring where an output is smaller than that."""
# jaxlib 0.4.26 replaces every softmax on the CPU, along whatever dimension, by oneDNN's along the last one.
# Fusion may compute a value twice with different rounding.
_XLA_FLAGS = "--xla_disable_hlo_passes=onednn-ops-rewriter,fusion"


class SelfCheckError(ProgramError):
    """The executable runs, and does not compute what the model computes."""

    code = "self_check"


@dataclass(frozen=True)
class _Finding:
    """One output at one batch size."""

    error: float
    """Largest error in units of the output's largest value; for labels, the share that differs."""
    decided: float
    """Share of the elements that could be compared."""

    @property
    def right(self) -> bool:
        return self.decided > 0 and self.error <= TOLERANCE


def check_answers(
    model: ConvertedModel,
    ladder: Sequence[Lowered],
    executables: Sequence[bytes],
    *,
    protocol: ProtocolName,
    numeric: NumericSpec,
    samples: Sequence[Any] | None = None,
) -> None:
    """Run the executable of the smallest batch, and of larger ones while that is quick, and compare.

    Weights and rows go to a process of this machine and nowhere else. The check is left out, and a warning
    logged, for params above 128 MiB and when it takes longer than two minutes.

    Args:
        model: what was compiled, with its weights.
        ladder: its lowered functions, smallest batch first.
        executables: what they were compiled to.
        protocol: under which the executables run.
        numeric: the ring.
        samples: rows to compare on, one array for each of ``model.inputs``; made up where there are none.

    Raises:
        SelfCheckError: an output is off by more than :data:`TOLERANCE` of its largest value.
        ProgramError: an executable does not run.
    """
    size = sum(value.nbytes for value in model.params.values())
    if size > _LARGEST_PARAMS_BYTES:
        _skipped(f"its params take {size >> 20} MiB, more than {_LARGEST_PARAMS_BYTES >> 20}")
        return
    params = [np.ascontiguousarray(model.params[name]) for name in sorted(model.params)]
    try:
        draws = [list(_draws(model, lowered.batch_size, samples)) for lowered in ladder]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        # Rows that the model's own first steps cannot take; what they say may hold a value.
        _skipped(f"no rows could be made for it ({type(error).__name__}); pass samples")
        return
    rows = [array for rung in draws for draw in rung for array in draw]
    meta = {
        "protocol": protocol,
        "numeric": numeric.model_dump(),
        "batch_sizes": [lowered.batch_size for lowered in ladder],
        "outputs": [lowered.outputs for lowered in ladder],
        "draws": len(draws[0]),
        "arrays": [(array.dtype.str, array.shape) for array in (*params, *rows)],
        "params": len(params),
    }
    parts: list[Bytes] = [
        *(lowered.hlo for lowered in ladder),
        *executables,
        *(array.reshape(-1).view(np.uint8).data for array in (*params, *rows)),
    ]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {_XLA_FLAGS}".strip()
    try:
        (found,) = ask(
            __name__,
            f"a run of the program under {protocol}, which compares it with the model,",
            meta,
            parts,
            timeout_s=_TIMEOUT_S,
            environment={"XLA_FLAGS": flags},
        )
    except ChildTimeoutError:
        _skipped(f"it did not finish in {_TIMEOUT_S:.0f} s")
        return
    _judge(model, protocol, json.loads(found))


def _skipped(reason: str) -> None:
    _logger.warning(
        "the compiled program was not compared with the model: %s; compare some rows yourself "
        "(secure_runner.programs.accuracy)",
        reason,
    )


def _draws(model: ConvertedModel, batch_size: int, samples: Sequence[Any] | None) -> Iterator[list[Array]]:
    for index, scale in enumerate(_SCALES):
        if samples is None:
            yield made_up_rows(model, batch_size, scale=scale, seed=index)
        else:
            yield sample_rows(model, samples, batch_size, start=index * batch_size)


def _judge(model: ConvertedModel, protocol: ProtocolName, rungs: Sequence[Any]) -> None:
    names = [spec.name for spec in model.private_outputs]
    for rung in rungs:
        for name, finding in zip(names, (_Finding(*entry) for entry in rung["outputs"]), strict=True):
            if not finding.decided:
                _skipped(
                    f"output {name!r} depends on the last bits of every row that was tried; pass samples"
                )
            elif not finding.right:
                raise SelfCheckError(_difference(name, finding.error, rung["batch_size"], protocol))


def _difference(output: str, error: float, batch_size: int, protocol: ProtocolName) -> str:
    return (
        f"the compiled program does not compute what the model computes: with a batch of {batch_size} under "
        f"{protocol}, output {output!r} is off by {error:.2g} times its largest value; expected at most "
        f"{TOLERANCE:g}. SPU's compiler takes some operations wrongly, a constant that is transposed for "
        "example: write it transposed, or pass it as a param. Values beyond the ring are another cause: "
        "convert with calibration samples. To build it nevertheless, pass self_check=False "
        "(secure-runner import --no-self-check)"
    )


def _check(job: Frame) -> list[bytes]:
    meta, parts = job.meta, list(job.parts)
    sizes = meta["batch_sizes"]
    hlos, codes, buffers = parts[: len(sizes)], parts[len(sizes) : 2 * len(sizes)], parts[2 * len(sizes) :]
    arrays = [
        np.frombuffer(part, dtype).reshape(shape)
        for part, (dtype, shape) in zip(buffers, meta["arrays"], strict=True)
    ]
    params, rows = arrays[: meta["params"]], arrays[meta["params"] :]
    inputs = len(rows) // (len(sizes) * meta["draws"])
    draws = [rows[at : at + inputs] for at in range(0, len(rows), inputs)] if inputs else [[]]
    found: list[dict[str, Any]] = []
    started = time.monotonic()
    for index, size in enumerate(sizes):
        elapsed = time.monotonic() - started
        if index and elapsed * size / sizes[index - 1] > _MORE_RUNGS_S:
            break
        rung = _Rung(bytes(hlos[index]), bytes(codes[index]), meta["outputs"][index], meta)
        mine = draws[index * meta["draws"] : (index + 1) * meta["draws"]]
        found.append({"batch_size": size, "outputs": rung.best(params, mine)})
    return [json.dumps(found).encode()]


class _Rung:
    """One batch size: the executable, and XLA's own program of the same function."""

    def __init__(self, hlo: bytes, code: bytes, outputs: Sequence[Any], meta: Any) -> None:
        import spu

        from secure_runner.spu_config import runtime_config_dict

        self._executable = spu.Executable()
        self._executable.ParseFromString(code)
        self._protocol: ProtocolName = meta["protocol"]
        numeric = NumericSpec.model_validate(meta["numeric"])
        self._config = runtime_config_dict(self._protocol, numeric, insecure=True)
        self._fraction_bits = numeric.fraction_bits
        self._outputs = [(dtype, tuple(shape)) for dtype, shape in outputs]
        self._expected = _xla_program(hlo)

    def best(self, params: Sequence[Array], draws: Sequence[Sequence[Array]]) -> list[tuple[float, float]]:
        """Error and decided share of each output, of the first draw on which all are right."""
        first: list[_Finding] = []
        for rows in draws:
            findings = self._compare(params, rows)
            if not first or all(finding.right for finding in findings):
                first = findings
            if all(finding.right for finding in findings):
                break
        return [(finding.error, finding.decided) for finding in first]

    def _compare(self, params: Sequence[Array], rows: Sequence[Array]) -> list[_Finding]:
        from secure_runner.programs.in_process import run_in_process

        arguments = [*params, *rows]
        found = run_in_process(self._executable, self._config, self._protocol, params, rows, self._outputs)
        draw = np.random.default_rng(0)
        expected = self._expected(arguments)
        noisy = [
            self._expected([_on_grid(a, self._fraction_bits, draw) for a in arguments])
            for _ in range(_NOISE_RUNS)
        ]
        return [
            _compared(one, other, moved, self._fraction_bits)
            for one, other, moved in zip(found, expected, zip(*noisy, strict=True), strict=True)
        ]


def _xla_program(hlo: bytes) -> Any:
    """The function on flat arguments, compiled by XLA for this machine."""
    from jax._src import xla_bridge
    from jax._src.lib import xla_client

    module = xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(hlo))
    backend = xla_bridge.get_backend("cpu")
    compiled = backend.compile(module, xla_client.CompileOptions())

    def run(arguments: Sequence[Array]) -> list[Array]:
        buffers = [backend.buffer_from_pyval(argument) for argument in arguments]
        return [np.asarray(result) for result in compiled.execute(buffers)]

    return run


def _on_grid(array: Array, fraction_bits: int, draw: np.random.Generator) -> Array:
    """The array as the ring may hold it: each number rounded up or down to a step."""
    if array.dtype.kind != "f":
        return array
    flat, rounded = array.reshape(-1), np.empty(array.size, array.dtype)
    for start in range(0, array.size, _AT_ONCE):
        steps = np.ldexp(flat[start : start + _AT_ONCE].astype(np.float64), fraction_bits)
        rounded[start : start + _AT_ONCE] = np.ldexp(
            np.floor(steps + draw.random(steps.shape)), -fraction_bits
        )
    return rounded.reshape(array.shape)


def _compared(found: Array, expected: Array, noisy: Sequence[Array], fraction_bits: int) -> _Finding:
    if expected.dtype.kind != "f":
        decided = np.logical_and.reduce([other == expected for other in noisy])
        wrong = (found != expected) & decided
        return _Finding(float(wrong.sum() / max(decided.sum(), 1)), float(decided.mean()))
    finite = np.isfinite(expected)
    largest = np.abs(expected[finite]).max(initial=0.0)
    unit = max(float(largest), 2.0 ** (_SMALLEST_UNIT - fraction_bits))
    with np.errstate(invalid="ignore"):
        moved = np.max([np.abs(other - expected) for other in noisy], axis=0)
        decided = finite & (moved <= _UNDECIDED * TOLERANCE * unit)
        errors = np.abs(found.astype(np.float64) - expected)[decided]
    return _Finding(float(errors.max(initial=0.0)) / unit, float(decided.mean()))


if __name__ == "__main__":
    answer(_check)
