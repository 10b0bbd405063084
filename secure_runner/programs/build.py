"""From a converted model to a program: lower, compile, check, describe."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from secure_runner.errors import ProgramError
from secure_runner.programs.compiler import compile_ladder
from secure_runner.programs.leaks import check_no_leak
from secure_runner.programs.lowering import lower
from secure_runner.programs.manifest import (
    ExecutableSpec,
    InputRange,
    LocalStepSpec,
    Manifest,
    NumericSpec,
    TensorSpec,
)
from secure_runner.programs.names import output_name
from secure_runner.protocols import ProtocolName

if TYPE_CHECKING:
    from converters import ConvertedModel
    from converters import LocalStep as ModelStep
    from converters import TensorSpec as ModelTensor

__all__ = ["DEFAULT_BATCH_SIZES", "build_program", "package_versions"]

DEFAULT_BATCH_SIZES = (1, 8, 32)
_PACKAGES = ("secure-runner", "secretflow", "spu", "jax")


def package_versions() -> dict[str, str]:
    """Versions that must be equal at all parties, as installed here."""
    return {package: version(package) for package in _PACKAGES}


def build_program(
    name: str,
    model: ConvertedModel,
    *,
    protocol: ProtocolName,
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
) -> tuple[Manifest, dict[str, bytes]]:
    """Compile a model for a ladder of batch sizes.

    Args:
        name: the model's name, for people.
        model: a converted model; its weights are used for the leak check alone and do not enter the result.
        protocol: default protocol of deployments.
        batch_sizes: the ladder; a batch is padded to the next size.

    Returns:
        The manifest, and each executable by its file name.

    Raises:
        LeakError: a trained value would become public.
        ProgramError: the model cannot be lowered or compiled.
    """
    ladder_sizes = sorted(set(batch_sizes))
    if not ladder_sizes or ladder_sizes[0] < 1:
        raise ProgramError(
            f"batch sizes must be positive integers, for example 1, 8, 32; got {list(batch_sizes)}"
        )
    params = tuple(
        TensorSpec(name=key, dtype=value.dtype.name, shape=value.shape)
        for key, value in sorted(model.params.items())
    )
    private_inputs = tuple(_tensor(tensor) for tensor in model.private_inputs)
    ladder = [lower(model.private_predict, params, private_inputs, size) for size in ladder_sizes]
    private_outputs = tuple(_tensor(tensor) for tensor in model.private_outputs)
    compiled = compile_ladder(ladder, [output_name(tensor.name) for tensor in private_outputs])
    executables = {f"batch_{size}.spu": code for size, code in zip(ladder_sizes, compiled, strict=True)}
    for code in executables.values():
        check_no_leak(code.decode("utf-8", errors="ignore"), model.params)
    manifest = Manifest(
        name=name,
        protocol=protocol,
        numeric=NumericSpec(field=model.numeric.field, fraction_bits=model.numeric.fraction_bits),
        inputs=tuple(_tensor(tensor) for tensor in model.inputs),
        outputs=tuple(_tensor(tensor) for tensor in model.outputs),
        private_inputs=private_inputs,
        private_outputs=private_outputs,
        params=params,
        encode=tuple(_step(step) for step in model.encode),
        decode=tuple(_step(step) for step in model.decode),
        input_ranges={
            key: InputRange(low=low, high=high) for key, (low, high) in model.numeric.input_ranges.items()
        },
        rewrites=tuple(model.report.rewrites),
        statements=tuple(model.report.statements),
        executables=tuple(
            ExecutableSpec(batch_size=size, file=file, sha256=hashlib.sha256(code).hexdigest())
            for size, (file, code) in zip(ladder_sizes, executables.items(), strict=True)
        ),
        versions=package_versions(),
    )
    return manifest, executables


def _tensor(tensor: ModelTensor) -> TensorSpec:
    return TensorSpec(name=tensor.name, dtype=str(tensor.dtype), shape=tuple(tensor.shape))


def _step(step: ModelStep) -> LocalStepSpec:
    return LocalStepSpec(
        op=step.op, inputs=tuple(step.inputs), outputs=tuple(step.outputs), attrs=dict(step.attrs)
    )
