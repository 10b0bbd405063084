"""Run a converted model under SPU with all parties in this process, for tests and notebooks.

The protocol, the ring and the arithmetic are the real ones; only the network is missing. Nothing is protected
here, since this process sees every share.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secure_runner.errors import InputError
from secure_runner.programs.compiler import compile_here
from secure_runner.programs.in_process import run_in_process
from secure_runner.programs.lowering import lower
from secure_runner.programs.manifest import NumericSpec, TensorSpec
from secure_runner.programs.names import output_name
from secure_runner.protocols import ProtocolName
from secure_runner.spu_config import runtime_config_dict

if TYPE_CHECKING:
    from converters import ConvertedModel

__all__ = ["OpTraffic", "Simulation", "Traffic", "simulate", "simulate_function"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class OpTraffic:
    """What rank 0 sent for one kind of operation of a program."""

    count: int
    sent_bytes: int
    messages: int
    duration_s: float


@dataclass(frozen=True)
class Traffic:
    """What rank 0 sent in one run. ``messages`` is an upper bound of the rounds."""

    sent_bytes: int
    received_bytes: int
    messages: int
    run_s: float
    """Time of the run with no network at all, all parties on this machine."""
    ops: Mapping[str, OpTraffic] = field(default_factory=dict)


@dataclass(frozen=True)
class Simulation:
    """Outputs of a run and, where it was asked for, its traffic."""

    outputs: tuple[Array, ...]
    traffic: Traffic | None = None


def simulate(
    model: ConvertedModel,
    *inputs: Any,
    protocol: ProtocolName = "aby3",
) -> tuple[Array, ...]:
    """The whole model: ``encode`` in the clear, the private part under SPU, ``decode`` in the clear.

    Args:
        model: a converted model; its weights are shared like the inputs.
        inputs: one array for each of ``model.inputs``; the first dimension of the first is the batch.
        protocol: ``semi2k`` runs without a dealer here: rank 0 makes the correlated randomness
            (TrustedFirstParty), which is insecure between real parties. The arithmetic is the same.

    Returns:
        One array for each of ``model.outputs``.

    Raises:
        InputError: the number of inputs or their shapes do not fit the model.
        ProgramError: the model cannot be lowered.
    """
    from converters import apply_steps

    if len(inputs) != len(model.inputs):
        raise InputError(f"expected {len(model.inputs)} inputs, received {len(inputs)}")
    sent = {spec.name: _as_declared(value, spec) for spec, value in zip(model.inputs, inputs, strict=True)}
    shared = apply_steps(model.encode, sent)
    arrays = [np.asarray(shared[spec.name]) for spec in model.private_inputs]
    revealed = run_private(model, arrays, protocol=protocol).outputs
    names = [spec.name for spec in model.private_outputs]
    received = apply_steps(model.decode, dict(zip(names, revealed, strict=True)))
    return tuple(np.asarray(received[spec.name]) for spec in model.outputs)


def run_private(
    model: ConvertedModel,
    arrays: Sequence[Array],
    *,
    protocol: ProtocolName = "aby3",
    with_traffic: bool = False,
) -> Simulation:
    """The private part of a model alone, on its private inputs."""
    numeric = NumericSpec(field=model.numeric.field, fraction_bits=model.numeric.fraction_bits)
    names = [spec.name for spec in model.private_inputs]
    outputs = [spec.name for spec in model.private_outputs]
    return simulate_function(
        model.private_predict,
        model.params,
        dict(zip(names, arrays, strict=True)),
        output_names=outputs,
        protocol=protocol,
        numeric=numeric,
        with_traffic=with_traffic,
    )


def simulate_function(
    function: Any,
    params: Mapping[str, Array],
    inputs: Mapping[str, Array],
    *,
    output_names: Sequence[str] | None = None,
    protocol: ProtocolName = "aby3",
    numeric: NumericSpec | None = None,
    settings: Mapping[str, Any] | None = None,
    with_traffic: bool = False,
) -> Simulation:
    """``function(params, *inputs) -> tuple`` under SPU, every argument secret.

    Args:
        function: pure and traceable by JAX.
        params: secret arrays by name; with cheetah, private values of the model owner, as they are served.
        inputs: secret arrays by name, in the function's order; with cheetah, the data owner's.
        output_names: one for each output; made up where not given.
        protocol: see `simulate`.
        numeric: ring and fraction bits; FM64 and 18 where not given.
        settings: of SPU's runtime, in place of those of `secure_runner.spu_config.runtime_config_dict`.
        with_traffic: count what rank 0 sends, for each operation.
    """
    specs = [TensorSpec(name=name, dtype=v.dtype.name, shape=v.shape) for name, v in params.items()]
    arguments = [TensorSpec(name=name, dtype=v.dtype.name, shape=v.shape) for name, v in inputs.items()]
    lowered = lower(function, specs, arguments, 1)
    names = output_names or [str(index) for index in range(len(lowered.outputs))]
    executable = compile_here(
        "simulation", lowered.hlo, lowered.input_names, [output_name(name) for name in names]
    )
    config = runtime_config_dict(protocol, numeric or NumericSpec(), insecure=True) | dict(settings or {})
    private = [np.asarray(params[name]) for name in sorted(params)], list(inputs.values())
    if not with_traffic:
        return Simulation(run_in_process(executable, config, protocol, *private, lowered.outputs))
    log = Path(tempfile.mkdtemp()) / "spu.log"
    _log_to(log)
    outputs = run_in_process(
        executable, config | {"enable_pphlo_profile": True}, protocol, *private, lowered.outputs
    )
    traffic = _read_traffic(log.read_text())
    log.unlink()
    log.parent.rmdir()
    return Simulation(outputs, traffic)


def _as_declared(value: Any, spec: Any) -> Array:
    array = np.asarray(value)
    if array.ndim != len(spec.shape) or any(
        want is not None and want != have for want, have in zip(spec.shape, array.shape, strict=True)
    ):
        raise InputError(
            f"input {spec.name!r} must have shape {spec.shape} (None = batch); got {array.shape}"
        )
    return array.astype(spec.dtype)


def _log_to(path: Path) -> None:
    """SPU writes its profile into its log and nowhere else."""
    from spu import libspu

    options = libspu.logging.LogOptions()
    options.enable_console_logger = False
    options.system_log_path = str(path)
    libspu.logging.setup_logging(options)


_OP = re.compile(
    r"- pphlo\.(?P<op>\w+), executed (?P<count>\d+) times, duration (?P<s>[\d.e+-]+)s, "
    r"send bytes (?P<bytes>\d+) recv bytes \d+, send actions (?P<messages>\d+)"
)
_TOTAL = re.compile(
    r"Link details: total send bytes (?P<bytes>\d+), recv bytes (?P<back>\d+), send actions (?P<n>\d+)"
)
_TIME = re.compile(r"execution took (?P<s>[\d.e+-]+)s")


def _read_traffic(text: str) -> Traffic:
    total, time = _TOTAL.search(text), _TIME.search(text)
    assert total is not None, "SPU's profile has another form"
    assert time is not None, "SPU's profile has another form"
    ops = {
        match["op"]: OpTraffic(
            int(match["count"]), int(match["bytes"]), int(match["messages"]), float(match["s"])
        )
        for match in _OP.finditer(text)
        if match["op"] != "free"
    }
    return Traffic(int(total["bytes"]), int(total["back"]), int(total["n"]), float(time["s"]), ops)
