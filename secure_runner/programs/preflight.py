"""The check before SPU compiles: which operations it takes, and all that it does not, at once.

SPU's compiler refuses an operation by ending the process, and some operations compile and fail only when the
program runs. The list of what works was found by compiling and running each operation alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from secure_runner.errors import ProgramError
from secure_runner.programs.hlo import HloModule, Use, read_hlo
from secure_runner.programs.lowering import Lowered

__all__ = ["PreflightError", "PreflightProblem", "check_lowered", "problems_of"]

_DTYPES = {"pred", "s8", "s16", "s32", "s64", "u8", "u16", "u32", "u64", "f32", "f64", "token"}
_NAMES = """
    abs add and atan2 bitcast-convert broadcast call ceil cholesky clamp compare concatenate conditional
    constant convert convolution copy cosine divide dot dynamic-slice dynamic-update-slice erf exponential
    exponential-minus-one floor gather get-tuple-element iota log log-plus-one logistic maximum minimum
    multiply negate not or pad parameter popcnt power reduce reduce-window remainder reshape reverse
    round-nearest-afz round-nearest-even rsqrt scatter select select-and-scatter shift-left
    shift-right-arithmetic shift-right-logical sign sine slice sort sqrt subtract tanh transpose
    triangular-solve tuple while xor
"""
_OPS = frozenset(_NAMES.split())
_REMEDIES = {
    "is-finite": (
        "SPU cannot ask whether a number is finite",
        "a ring holds finite numbers only: leave the question out (jax.nn.logsumexp asks it; take the "
        "maximum out, exponentiate, sum and take the logarithm yourself)",
    ),
    "cbrt": ("SPU has no cube root", "write exp(log(x) / 3) for positive x"),
    "tan": ("tan compiles and fails when it runs", "write sin(x) / cos(x)"),
    "fft": ("SPU has no Fourier transform", "multiply by the matrix of the transform"),
    "count-leading-zeros": (
        "SPU cannot count leading zeros",
        "compute it from comparisons with powers of two",
    ),
    "reduce-precision": ("a ring has one precision", "leave the rounding out"),
    "custom-call": (
        "a call into a library of the host (a callback, a decomposition, a solver)",
        "replace it by arithmetic; callbacks and decompositions cannot run on shares",
    ),
    "rng": ("random numbers are wrong under SPU", "pass them as an input, or convert with train=False"),
    "rng-bit-generator": (
        "random numbers are wrong under SPU",
        "pass them as an input, or convert with train=False",
    ),
    "topk": (
        "SPU gives the right set of a top-k in the wrong order",
        "sort (jnp.sort) and slice",
    ),
    "complex": ("SPU has no complex numbers", "compute real and imaginary parts separately"),
}


@dataclass(frozen=True)
class PreflightProblem:
    """One operation that SPU cannot run."""

    op: str
    shape: str
    count: int
    reason: str
    remedy: str

    def __str__(self) -> str:
        times = f", {self.count} times" if self.count > 1 else ""
        return f"{self.op} {self.shape}{times}: {self.reason}. To fix it: {self.remedy}."


class PreflightError(ProgramError):
    """The lowered program holds operations that SPU cannot run. ``problems`` lists every one of them."""

    code = "preflight"

    def __init__(self, problems: Sequence[PreflightProblem]) -> None:
        self.problems = tuple(problems)
        heading = f"{len(self.problems)} kinds of operations of this program cannot run under SPU:"
        super().__init__("\n".join([heading, *(f"  - {problem}" for problem in self.problems)]))


def check_lowered(lowered: Lowered) -> None:
    """Check one lowered batch size.

    Raises:
        PreflightError: with every operation that SPU would refuse or fail at.
    """
    problems = problems_of(read_hlo(lowered.hlo))
    if problems:
        raise PreflightError(problems)


def problems_of(module: HloModule) -> tuple[PreflightProblem, ...]:
    """All problems of a program, each kind once, in the order of their first use."""
    found: dict[str, PreflightProblem] = {}

    def note(op: str, shape: str, reason: str, remedy: str) -> None:
        before = found.get(reason, PreflightProblem(op, shape, 0, reason, remedy))
        found[reason] = replace(before, count=before.count + 1)

    for use in module.uses():
        problem = _problem(use)
        if problem is not None:
            note(use.instruction.op, _shape(use), *problem)
    for _ in module.secret_loops:
        note(
            "while",
            "",
            "the number of rounds depends on secret values, which running it would reveal",
            "loop a fixed number of times and select the result (lax.fori_loop, lax.scan)",
        )
    return tuple(found.values())


def _problem(use: Use) -> tuple[str, str] | None:
    op = use.instruction.op
    if op in _REMEDIES:
        return _REMEDIES[op]
    types = {array.dtype for array in (*use.instruction.arrays, *use.operands)} - _DTYPES
    if types:
        return f"its type {', '.join(sorted(types))} has no place in a ring", "compute in float32 or int32"
    if op == "bitcast-convert" and (use.instruction.array.dtype == "f32") != (use.operands[0].dtype == "f32"):
        return (
            "a ring holds no bits of floating-point numbers: the result is wrong",
            "convert the value (astype)",
        )
    if op in _OPS:
        return _convolution(use) if op == "convolution" else None
    return "it is not among the operations that SPU takes", "replace it by simpler ones"


def _convolution(use: Use) -> tuple[str, str] | None:
    labels = use.instruction.attribute("dim_labels")
    dimensions = sum(character.isdigit() for character in labels.split("_")[0])
    if dimensions > 2:
        return (
            f"convolutions over {dimensions} dimensions compile and fail when they run",
            "sum two-dimensional convolutions over the third dimension",
        )
    groups = int(use.instruction.attribute("feature_group_count") or 1)
    channels = use.operands[0].dims[labels.split("_")[0].index("f")]
    if groups not in (1, channels):
        return (
            f"grouped convolutions ({groups} groups of {channels} channels) compile and fail when they run",
            "split the channels, convolve each group, and concatenate",
        )
    return None


def _shape(use: Use) -> str:
    array = use.instruction.array
    return f"{array.dtype}[{','.join(map(str, array.dims))}]"
