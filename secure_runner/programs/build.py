"""From a converted model to a program: lower, compile, check, describe."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from secure_runner.errors import ProgramError
from secure_runner.programs.compiler import compile_ladder
from secure_runner.programs.estimate import Estimate, Network, estimate_lowered
from secure_runner.programs.leaks import check_no_leak
from secure_runner.programs.lowering import Lowered, lower
from secure_runner.programs.manifest import (
    ExecutableSpec,
    InputRange,
    LocalStepSpec,
    Manifest,
    NumericSpec,
    RunCost,
    TensorSpec,
)
from secure_runner.programs.names import output_name
from secure_runner.programs.preflight import check_lowered
from secure_runner.programs.self_check import check_answers
from secure_runner.programs.transcripts import record_transcripts
from secure_runner.protocols import PROTOCOLS, ProtocolName
from secure_runner.versions import package_versions

if TYPE_CHECKING:
    from converters import ConvertedModel
    from converters import LocalStep as ModelStep
    from converters import TensorSpec as ModelTensor

__all__ = ["build_program"]


def build_program(
    name: str,
    model: ConvertedModel,
    *,
    protocol: ProtocolName,
    batch_sizes: Sequence[int] | None = None,
    self_check: bool = True,
    samples: Sequence[Any] | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """Compile a model for a ladder of batch sizes.

    Args:
        name: the model's name, for people.
        model: a converted model; its weights are used for checks alone and do not enter the result.
        protocol: default protocol of deployments. With semi2k, what a dealer will be asked for is
            recorded too.
        batch_sizes: the ladder; a batch is padded to the next size. Without, the protocol's usual one.
        self_check: whether to run the result and compare it with the model
            (`secure_runner.programs.self_check`).
        samples: rows for that, one array for each of the model's inputs; made up where there are none.

    Returns:
        The manifest, and the content of each file that it names.

    Raises:
        LeakError: a trained value would become public.
        SelfCheckError: the compiled program computes something else than the model.
        ProgramError: the model cannot be lowered or compiled.
    """
    chosen = PROTOCOLS[protocol].batch_sizes if batch_sizes is None else batch_sizes
    sizes = sorted(set(chosen))
    if not sizes or sizes[0] < 1:
        raise ProgramError(f"batch sizes must be positive integers, for example 1, 8, 32; got {list(chosen)}")
    numeric = NumericSpec(field=model.numeric.field, fraction_bits=model.numeric.fraction_bits)
    params = tuple(
        TensorSpec(name=key, dtype=value.dtype.name, shape=value.shape)
        for key, value in sorted(model.params.items())
    )
    private_inputs = tuple(_tensor(tensor) for tensor in model.private_inputs)
    ladder = [lower(model.private_predict, params, private_inputs, size) for size in sizes]
    executables = _compile(model, ladder)
    priced = ladder if PROTOCOLS[protocol].homomorphic_products else ladder[:1]
    estimates = {lowered.batch_size: estimate_lowered(lowered, protocol=protocol) for lowered in priced}
    transcripts: dict[int, bytes] = {}
    with ThreadPoolExecutor(1) as beside:  # each waits for a process of its own
        checked: Future[None] | None = None
        if self_check:
            codes = list(executables.values())
            checked = beside.submit(
                check_answers, model, ladder, codes, protocol=protocol, numeric=numeric, samples=samples
            )
        if protocol == "semi2k":
            transcripts = record_transcripts(executables, params, private_inputs, numeric)
        if checked is not None:
            checked.result()
    packed = {size: found.packed_products for size, found in estimates.items()}
    entries = tuple(
        _entry(size, code, transcripts.get(size), packed=packed.get(size, True))
        for size, code in executables.items()
    )
    cost = _cost(estimates[sizes[0]])
    manifest = _describe(name, model, protocol, numeric, params, entries, cost)
    files = {entry.file: executables[entry.batch_size] for entry in entries}
    recorded = {
        e.transcript_file: transcripts[e.batch_size] for e in entries if e.transcript_file is not None
    }
    return manifest, files | recorded


def _compile(model: ConvertedModel, ladder: Sequence[Lowered]) -> dict[int, bytes]:
    check_lowered(ladder[0])
    compiled = compile_ladder(ladder, [output_name(tensor.name) for tensor in model.private_outputs])
    for code in compiled:
        check_no_leak(code.decode("utf-8", errors="ignore"), model.params)
    return {lowered.batch_size: code for lowered, code in zip(ladder, compiled, strict=True)}


def _entry(batch_size: int, code: bytes, transcript: bytes | None, *, packed: bool) -> ExecutableSpec:
    return ExecutableSpec(
        batch_size=batch_size,
        file=f"batch_{batch_size}.spu",
        sha256=hashlib.sha256(code).hexdigest(),
        transcript_file=None if transcript is None else f"batch_{batch_size}.transcript.json",
        transcript_sha256=None if transcript is None else hashlib.sha256(transcript).hexdigest(),
        packed_products=packed,
    )


def _cost(found: Estimate) -> RunCost:
    no_network = Network("none", round_trip_s=0.0, bytes_per_s=math.inf)
    return RunCost(
        batch_size=found.batch_size,
        rounds=found.rounds,
        sent_bytes=found.sent_bytes,
        compute_s=round(found.seconds(no_network), 6),
    )


def _describe(
    name: str,
    model: ConvertedModel,
    protocol: ProtocolName,
    numeric: NumericSpec,
    params: tuple[TensorSpec, ...],
    executables: tuple[ExecutableSpec, ...],
    cost: RunCost,
) -> Manifest:
    ranges = model.numeric.input_ranges.items()
    return Manifest(
        name=name,
        protocol=protocol,
        numeric=numeric,
        inputs=tuple(_tensor(tensor) for tensor in model.inputs),
        outputs=tuple(_tensor(tensor) for tensor in model.outputs),
        private_inputs=tuple(_tensor(tensor) for tensor in model.private_inputs),
        private_outputs=tuple(_tensor(tensor) for tensor in model.private_outputs),
        params=params,
        encode=tuple(_step(step) for step in model.encode),
        decode=tuple(_step(step) for step in model.decode),
        input_ranges={key: InputRange(low=low, high=high) for key, (low, high) in ranges},
        rewrites=tuple(model.report.rewrites),
        statements=tuple(model.report.statements),
        executables=executables,
        cost=cost,
        versions=package_versions(),
    )


def _tensor(tensor: ModelTensor) -> TensorSpec:
    return TensorSpec(name=tensor.name, dtype=str(tensor.dtype), shape=tuple(tensor.shape))


def _step(step: ModelStep) -> LocalStepSpec:
    return LocalStepSpec(
        op=step.op, inputs=tuple(step.inputs), outputs=tuple(step.outputs), attrs=dict(step.attrs)
    )
