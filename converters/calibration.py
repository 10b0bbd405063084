"""Calibration: run samples in floating point, look at every value in between, and choose the ring.

A ring of 2**K with f fraction bits holds a product only below 2**(K - 1 - 2f): 1.3e8 for FM64 and 18 bits,
beyond which it wraps silently. Weights are rounded to f bits, which large features multiply. Reciprocals,
square roots, exponentials and sigmoids have ranges in which their approximations are good. What is found is a
range on samples, not a proof: hence the margin, and the input range, which a service enforces.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters.errors import InputSpecError
from converters.jaxpr.inline import Traced, trace
from converters.local_steps import apply_steps
from converters.model import ConvertedModel, Numeric

__all__ = ["ValueRange", "calibrated", "observe"]

NDArray = np.ndarray[Any, Any]

_FM64 = Numeric(field="FM64", fraction_bits=18)
_FM128 = Numeric(field="FM128", fraction_bits=26)
_SAFETY = 4.0
"""Samples are not all there is: a product above a fourth of the limit counts as too large."""
_WIDEST = 16.0
"""The input range is at most so many times what the samples show."""
_FINEST = 2.0**-9
"""A value that never exceeds this has fewer than 9 bits of its 18 left."""
_PRODUCTS = {"mul", "dot_general", "conv_general_dilated", "integer_pow", "square"}
_LAYERS = {"dot_general", "conv_general_dilated"}
_MOVES = {"broadcast_in_dim", "reshape", "squeeze", "transpose", "expand_dims"}
_ROUNDING = 1e-3
"""Error relative to the layer's largest result."""
_SKIPPED = {"custom_jvp_call", "custom_vjp_call_jaxpr"}


@dataclass
class ValueRange:
    """What one operation read and gave on the samples."""

    name: str
    """Primitive and position, for example ``dot_general 12``."""
    primitive: str
    low: float = math.inf
    high: float = -math.inf
    operand_low: float = math.inf
    """Smallest absolute value of the operand that has a range: a divisor, a radicand."""
    operand_high: float = 0.0

    @property
    def largest(self) -> float:
        """Largest absolute value of the result."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def rounding(self) -> float:
        """Error that weights rounded to 18 fraction bits make, for each of the values multiplied."""
        return self.operand_high * 2.0**-19


@dataclass
class _Findings:
    warnings: list[str] = field(default_factory=list)
    too_large: bool = False
    too_small: bool = False


def calibrated(model: ConvertedModel, samples: Sequence[Any]) -> ConvertedModel:
    """The model with ring, input ranges and warnings from samples.

    Args:
        model: a converted model.
        samples: one array for each input, or several such lists.

    Returns:
        The same model with another ``numeric`` and more ``report.warnings``.

    Raises:
        InputSpecError: the samples do not fit the model's inputs, or hold NaN or infinity.
    """
    batches = list(_batches(model, samples))
    ranges = observe(model, batches)
    findings = _judge(ranges)
    numeric = _FM128 if findings.too_large or findings.too_small else _FM64
    largest = max((r.largest for r in ranges if r.primitive in _PRODUCTS), default=0.0)
    numeric = dataclasses.replace(
        numeric, input_ranges=_input_ranges(model, batches, _headroom(numeric, largest))
    )
    if numeric.field != "FM64":
        findings.warnings.insert(
            0,
            "calibration chose FM128 with 26 fraction bits, because FM64 with 18 does not hold all values; "
            "it costs two to three times the bytes.",
        )
    report = dataclasses.replace(model.report, warnings=(*model.report.warnings, *findings.warnings))
    return dataclasses.replace(model, numeric=numeric, report=report)


def observe(model: ConvertedModel, batches: Sequence[Sequence[NDArray]]) -> list[ValueRange]:
    """Ranges of every operation of the private part, over all batches.

    Args:
        model: a converted model.
        batches: lists of one array for each of ``model.inputs``.
    """
    ranges: dict[int, ValueRange] = {}
    for batch in batches:
        sent = dict(zip((spec.name for spec in model.inputs), batch, strict=True))
        shared = apply_steps(model.encode, sent)
        arrays = [
            np.asarray(shared[spec.name]).astype(spec.dtype, copy=False) for spec in model.private_inputs
        ]
        params = {name: np.asarray(value) for name, value in model.params.items()}
        traced = trace(model.private_predict, params, *arrays)
        _watch(traced, [*(params[name] for name in sorted(params)), *arrays], ranges)
    return [ranges[index] for index in sorted(ranges)]


def _watch(traced: Traced, arguments: Sequence[Any], ranges: dict[int, ValueRange]) -> None:
    whole = _whole_numbers(traced.jaxpr.eqns)
    places = [
        i
        for i, eqn in enumerate(traced.jaxpr.eqns)
        if _is_watched(eqn) and not (eqn.primitive.name in _PRODUCTS and _is_exact(eqn, whole))
    ]

    def extremes(*flat: Any) -> list[Any]:
        known = dict(zip([*traced.params, *traced.inputs], flat, strict=True))
        wanted = [
            var for i in places for var in (traced.jaxpr.eqns[i].outvars[0], _operand(traced.jaxpr.eqns[i]))
        ]
        values = traced.run(known, wanted)
        floats = [jnp.asarray(value, jnp.float32) for value in values]
        return [(v.min(), v.max(), jnp.abs(v).min(), jnp.abs(v).max()) for v in floats]

    results = jax.jit(extremes)(*arguments)
    for position, index in enumerate(places):
        eqn = traced.jaxpr.eqns[index]
        result, operand = results[2 * position], results[2 * position + 1]
        entry = ranges.setdefault(index, ValueRange(f"{eqn.primitive.name} {index}", eqn.primitive.name))
        entry.low, entry.high = min(entry.low, float(result[0])), max(entry.high, float(result[1]))
        entry.operand_low = min(entry.operand_low, float(operand[2]))
        entry.operand_high = max(entry.operand_high, float(operand[3]))


def _whole_numbers(eqns: Sequence[Any]) -> set[Any]:
    """Variables that were integers: a product with one is exact and holds as much as a sum does."""
    whole: set[Any] = set()
    for eqn in eqns:
        cast = eqn.primitive.name == "convert_element_type" and eqn.invars[0].aval.dtype.kind in "iub"
        moved = eqn.primitive.name in _MOVES and whole.intersection(_vars(eqn)[:1])
        if cast or moved:
            whole.update(eqn.outvars)
    return whole


def _is_exact(eqn: Any, whole: set[Any]) -> bool:
    return bool(whole.intersection(_vars(eqn))) or any(atom.aval.dtype.kind in "iub" for atom in eqn.invars)


def _vars(eqn: Any) -> list[Any]:
    return [atom for atom in eqn.invars if not hasattr(atom, "val")]  # a literal is no variable


def _is_watched(eqn: Any) -> bool:
    if eqn.primitive.name in _SKIPPED or not eqn.invars or not eqn.outvars:
        return False
    aval = eqn.outvars[0].aval
    return np.dtype(aval.dtype).kind == "f" and aval.size > 0 and _is_array(_operand(eqn))


def _is_array(atom: Any) -> bool:
    return np.dtype(atom.aval.dtype).kind in "fiub" and atom.aval.size > 0


def _operand(eqn: Any) -> Any:
    """The operand whose range matters: the divisor of a quotient, the first one otherwise."""
    return eqn.invars[1] if eqn.primitive.name == "div" else eqn.invars[0]


def _headroom(numeric: Numeric, largest: float) -> float:
    bits = {"FM32": 32, "FM64": 64, "FM128": 128}[numeric.field]
    limit = 2.0 ** (bits - 1 - 2 * numeric.fraction_bits)
    return limit / largest if largest else math.inf


def _judge(ranges: Sequence[ValueRange]) -> _Findings:
    found = _Findings()
    for entry in ranges:
        if entry.primitive in _PRODUCTS and _headroom(_FM64, entry.largest) < _SAFETY:
            found.too_large = True
            found.warnings.append(
                f"{entry.name}: products up to {entry.largest:.1e}; with FM64 and 18 fraction bits they wrap "
                "above 1.3e+08. Scale the inputs or weights down."
            )
        if entry.primitive in _LAYERS and entry.rounding > _ROUNDING * max(entry.largest, 1.0):
            found.too_small = True
            found.warnings.append(
                f"{entry.name}: values up to {entry.operand_high:.1e} times weights rounded to 18 bits: the "
                f"result is off by up to {entry.rounding:.0e}. Scale the inputs to the order of 1."
            )
        if entry.primitive in _PRODUCTS and 0 < entry.largest < _FINEST:
            found.too_small = True
            found.warnings.append(
                f"{entry.name}: no value above {entry.largest:.1e}; with 18 fraction bits a step is 3.8e-06. "
                "Scale the inputs or weights up."
            )
        found.warnings.extend(_approximation_warnings(entry, found))
    return found


@dataclass(frozen=True)
class _Domain:
    """Where an approximation is good at FM64 with 18 bits (measured, relative error below 1%)."""

    low: float
    high: float
    what: str
    needs_ring: bool = True
    """Whether FM128 cures it."""


_DOMAINS = {
    "div": _Domain(1e-3, 1e6, "a divisor"),
    "rsqrt": _Domain(1e-4, 1e5, "the argument of rsqrt"),
    "sqrt": _Domain(1e-4, 1e5, "the argument of sqrt"),
    "logistic": _Domain(0.0, 500.0, "a logit", needs_ring=False),
    "exp": _Domain(0.0, 500.0, "an exponent", needs_ring=False),
    "log": _Domain(1e-4, 1e6, "the argument of a logarithm"),
}


def _approximation_warnings(entry: ValueRange, found: _Findings) -> Iterator[str]:
    domain = _DOMAINS.get(entry.primitive)
    if domain is None:
        return
    if entry.primitive == "exp" and entry.high <= 1.0 + 1e-6:
        return  # of numbers shifted by their maximum: the ones far below 0, masks too, give 0 as they should
    for outside, bound, side in (
        (entry.operand_high > domain.high, entry.operand_high, f"above {domain.high:.0e}"),
        (entry.operand_low < domain.low, entry.operand_low, f"below {domain.low:.0e}"),
    ):
        if outside:
            found.too_large |= domain.needs_ring
            yield (
                f"{entry.name}: {domain.what} of {bound:.1e}; {side} the approximation with FM64 and 18 "
                "fraction bits is off by more than 1%."
            )


def _input_ranges(
    model: ConvertedModel, batches: Sequence[Sequence[NDArray]], headroom: float
) -> dict[str, tuple[float, float]]:
    """What samples show, times a margin that keeps products of two inputs in the ring."""
    margin = min(max(math.sqrt(headroom), 1.0), _WIDEST)
    ranges = dict(model.numeric.input_ranges)
    for index, spec in enumerate(model.inputs):
        if spec.name in ranges or not spec.dtype.startswith("float"):
            continue
        largest = max(float(np.abs(batch[index]).max(initial=0.0)) for batch in batches)
        bound = float(np.ceil(largest * margin)) if largest else 1.0
        ranges[spec.name] = (-bound, bound)
    return ranges


def _batches(model: ConvertedModel, samples: Sequence[Any]) -> Iterator[list[NDArray]]:
    nested = bool(samples) and all(isinstance(entry, list | tuple) for entry in samples)
    for batch in samples if nested else [samples]:
        if len(batch) != len(model.inputs):
            names = ", ".join(spec.name for spec in model.inputs)
            raise InputSpecError(
                f"calibration needs one array for each input ({names}); got {len(batch)}. Pass a list of "
                "arrays, or a list of such lists."
            )
        yield [_checked(value, spec) for value, spec in zip(batch, model.inputs, strict=True)]


def _checked(value: Any, spec: Any) -> NDArray:
    array = np.asarray(value)
    if array.ndim != len(spec.shape) or any(
        want is not None and want != have for want, have in zip(spec.shape, array.shape, strict=True)
    ):
        raise InputSpecError(
            f"calibration sample of input {spec.name!r} must have shape {spec.shape} (None = batch); got "
            f"{array.shape}."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputSpecError(f"calibration sample of input {spec.name!r} holds NaN or infinity.")
    return array if spec.dtype == "str" else array.astype(spec.dtype)
