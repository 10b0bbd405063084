"""Each operation of a lowered program as calls of the kinds whose costs were measured.

What is linear in secrets is free (sums, negation, layout, reductions by sum); what is done on public values
is too. A product with a public number costs its truncation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from secure_runner.programs.hlo import HloModule, Use, Visibility

__all__ = ["Price", "prices"]


@dataclass(frozen=True)
class Price:
    """Calls of one kind of operation."""

    kind: str
    calls: int
    elements: int
    """Elements of all calls together; for dot, of its results."""
    inputs: int = 0
    """Elements of both factors of a dot."""
    products: int = 0
    """Multiplications of a dot."""
    moved: int = 0
    """Elements of windows, which are copied one by one before anything is computed."""
    shape: tuple[int, int, int] = (0, 0, 0)
    """Of each call of a dot: rows and columns of the left matrix, columns of the right."""


Rule = Callable[[Use, HloModule], list[Price]]

_NAMES = """
    add subtract negate not xor broadcast reshape transpose slice concatenate pad copy reverse iota
    constant bitcast-convert call while conditional shift-left dynamic-update-slice
"""
_FREE = frozenset(_NAMES.split())
_SHAPED = frozenset({"broadcast", "reshape", "transpose", "slice", "concatenate", "copy"})
_PRODUCTS = frozenset({"dot", "multiply", "convolution"})
_DIRECT = {
    "abs": "abs",
    "atan2": "atan2",
    "ceil": "floor",
    "cosine": "sine",
    "erf": "erf",
    "exponential": "exponential",
    "exponential-minus-one": "exponential-minus-one",
    "floor": "floor",
    "log": "log",
    "log-plus-one": "log-plus-one",
    "logistic": "logistic",
    "power": "power",
    "round-nearest-afz": "floor",
    "round-nearest-even": "floor",
    "rsqrt": "rsqrt",
    "sign": "sign",
    "sine": "sine",
    "sqrt": "sqrt",
    "tanh": "tanh",
}
_COMBINED = {
    "maximum": ("maximum.ss",),
    "minimum": ("maximum.ss",),
    "multiply": ("multiply.ss",),
    "and": ("and.ss",),
    "or": ("or.ss",),
    "select": ("compare.ss", "select.s", "select.s"),
}


def prices(use: Use, module: HloModule) -> list[Price] | None:
    """What the operation costs, or nothing if it was never measured."""
    op = use.instruction.op
    if op in _FREE:
        return []
    if op in _DIRECT:
        return [Price(_DIRECT[op], use.times, use.times * use.instruction.array.size)]
    rule = _RULES.get(op)
    if rule is None:
        return None
    return [_times(price, use.times) for price in rule(use, module)]


def _times(price: Price, count: int) -> Price:
    names = ("calls", "elements", "inputs", "products", "moved")
    return replace(price, **{name: getattr(price, name) * count for name in names})


def _size(use: Use) -> int:
    return use.instruction.array.size


def _is_float(use: Use) -> bool:
    return use.instruction.array.dtype.startswith("f")


def _with_an_owner(use: Use) -> bool:
    """Whether a factor is private to its owner, who multiplies the other party's share by it."""
    return any(one != Visibility.SHARED for one in use.visibility[:2])


def _multiply(use: Use, module: HloModule) -> list[Price]:
    if all(use.secret):
        # Two private values of different owners are shared first.
        owned = Visibility.SHARED in use.visibility and _with_an_owner(use)
        return [Price("multiply.sv" if owned else "multiply.ss", 1, _size(use))]
    return [Price("multiply.sp", 1, _size(use))] if _is_float(use) else []


def _divide(use: Use, module: HloModule) -> list[Price]:
    if not use.secret[1]:
        return [Price("multiply.sp", 1, _size(use))]
    divisors = _before_broadcast(use.instruction.operands[1], module)
    if divisors < _size(use):
        # SPU takes one reciprocal for each divisor, and multiplies by it.
        return [Price("divide.ps", 1, divisors), *_multiply(use, module)]
    return [Price("divide.ss" if use.secret[0] else "divide.ps", 1, _size(use))]


def _before_broadcast(name: str, module: HloModule) -> int:
    """Elements of a value before it was repeated."""
    instruction = module.instructions[name]
    while instruction.op in _SHAPED and instruction.operands[0] in module.instructions:
        instruction = module.instructions[instruction.operands[0]]
    return instruction.array.size


def _compare(use: Use, module: HloModule) -> list[Price]:
    equality = use.instruction.attribute("direction") in ("EQ", "NE")
    return [Price("compare.eq" if equality else "compare.ss", 1, _size(use))]


def _select(use: Use, module: HloModule) -> list[Price]:
    if not use.secret[0]:
        return []
    return [Price("select.s" if any(use.secret[1:]) else "select.bit", 1, _size(use))]


def _maximum(use: Use, module: HloModule) -> list[Price]:
    return [Price("maximum.ss" if all(use.secret) else "maximum.sp", 1, _size(use))]


def _clamp(use: Use, module: HloModule) -> list[Price]:
    return [Price("maximum.sp", 2, 2 * _size(use))]


def _logical(use: Use, module: HloModule) -> list[Price]:
    return [Price(f"{use.instruction.op}.ss", 1, _size(use))] if all(use.secret) else []


def _convert(use: Use, module: HloModule) -> list[Price]:
    before, after = use.operands[0].dtype, use.instruction.array.dtype
    if before == "pred":
        return _convert_bit(use, module)
    return [Price("floor", 1, _size(use))] if before.startswith("f") and not after.startswith("f") else []


def _convert_bit(use: Use, module: HloModule) -> list[Price]:
    """A bit becomes a number where it is used as one: in sums of fractions that takes an adder for each."""
    pending, kinds = [use.instruction.name], set[str]()
    while pending:
        for reader in module.readers.get(pending.pop(), ()):
            if reader.op in _SHAPED or reader.op == "convert":
                pending.append(reader.name)
            elif reader.op in _PRODUCTS or not reader.array.dtype.startswith("f"):
                kinds.add("convert.bit")
            elif reader.op != "tuple":
                kinds.add("convert.bit.sum")
    # Converted once, in the dearer way where there are both.
    return [Price(max(kinds), 1, _size(use))] if kinds else []


def _remainder(use: Use, module: HloModule) -> list[Price]:
    return [Price("divide.ss", 1, _size(use)), Price("floor", 1, _size(use))]


def _combination(use: Use, module: HloModule) -> tuple[str, ...]:
    """Kinds of the operations that a reduction combines two elements by."""
    body = module.computations[use.instruction.called("to_apply")]
    names = [instruction.op for instruction in body]
    for name in ("select", "maximum", "minimum", "multiply", "and", "or"):
        if name in names:
            return _COMBINED[name]
    return ()


def _reduce(use: Use, module: HloModule) -> list[Price]:
    before, after = use.operands[0].size, max(_size(use), 1)
    depth = math.ceil(math.log2(max(before // after, 1)))
    return [Price(kind, depth, max(before - after, 0)) for kind in _combination(use, module)]


def _reduce_window(use: Use, module: HloModule) -> list[Price]:
    sizes = use.instruction.attribute("window").strip("{}").split()
    window = next((text[5:] for text in sizes if text.startswith("size=")), "1")
    width = math.prod(int(dim) for dim in window.split("x"))
    depth = math.ceil(math.log2(max(width, 1)))
    size = _size(use) * (width - 1)
    return [Price(kind, depth, size, moved=_size(use) * width) for kind in _combination(use, module)]


def _sort(use: Use, module: HloModule) -> list[Price]:
    dimension = int(use.instruction.attribute("dimensions").strip("{}") or 0)
    length = use.instruction.array.dims[dimension]
    depth = math.ceil(math.log2(max(length, 2)))
    layers = depth * (depth + 1) // 2
    moved = len(use.instruction.arrays)
    return [
        Price("compare.ss", layers, layers * _size(use) // 2),
        Price("select.s", layers * moved, layers * moved * _size(use)),
    ]


def _dot(use: Use, module: HloModule) -> list[Price]:
    left, right = use.operands[:2]
    if not all(use.secret):
        return [Price("multiply.sp", 1, _size(use))] if _is_float(use) else []
    depth = _product(left.dims, use.instruction.attribute("lhs_contracting_dims"))
    # SPU multiplies the matrices of a batch one after the other.
    count = _product(left.dims, use.instruction.attribute("lhs_batch_dims"))
    shape = left.size // count // depth, depth, right.size // count // depth
    kind = "dot.sv" if _with_an_owner(use) else "dot"
    return [Price(kind, count, _size(use), left.size + right.size, _size(use) * depth, shape=shape)]


def _product(dims: Sequence[int], chosen: str) -> int:
    return math.prod(dims[int(dim)] for dim in chosen.strip("{}").split(",") if dim)


def _convolution(use: Use, module: HloModule) -> list[Price]:
    kernel = use.operands[1]
    if not all(use.secret):
        return [Price("multiply.sp", 1, _size(use))] if _is_float(use) else []
    labels = use.instruction.attribute("dim_labels")
    features = kernel.dims[labels.split("_")[1].split("->")[0].index("o")]
    depth = kernel.size // max(features, 1)
    positions = _size(use) // max(features, 1)
    windows = positions * depth
    kind = "dot.sv" if _with_an_owner(use) else "dot"
    shape = positions, depth, features
    return [Price(kind, 1, _size(use), windows + kernel.size, _size(use) * depth, windows, shape)]


def _gather(use: Use, module: HloModule) -> list[Price]:
    """By a secret index: every row is compared with it."""
    if not any(use.secret[1:]):
        return []
    rows = use.operands[0].dims[0] if use.operands[0].dims else 1
    return [Price("compare.eq", 1, rows * _size(use)), Price("multiply.ss", 1, rows * _size(use))]


_RULES: dict[str, Rule] = {
    "multiply": _multiply,
    "divide": _divide,
    "compare": _compare,
    "select": _select,
    "maximum": _maximum,
    "minimum": _maximum,
    "clamp": _clamp,
    "and": _logical,
    "or": _logical,
    "convert": _convert,
    "remainder": _remainder,
    "reduce": _reduce,
    "reduce-window": _reduce_window,
    "sort": _sort,
    "dot": _dot,
    "convolution": _convolution,
    "gather": _gather,
    "dynamic-slice": _gather,
}
