"""Reading lowered programs: instructions, shapes, and who holds which values.

Secrecy flows from the arguments through every operation; constants, shapes and what is computed from them
alone are public. Where params and inputs stay with their owners, so does what is computed from one owner's.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import or_

__all__ = ["HloModule", "Instruction", "Visibility", "read_hlo"]


class Visibility(enum.Flag):
    """Who holds a value: everybody, one owner alone, or nobody, where it is shared."""

    PUBLIC = 0
    MODEL_OWNER = enum.auto()
    DATA_OWNER = enum.auto()
    SHARED = MODEL_OWNER | DATA_OWNER
    """Also what is computed from values of both."""


Secrecy = Visibility | tuple["Secrecy", ...]

_HEAD = re.compile(r"^(?P<entry>ENTRY )?(?P<name>[\w.\-]+)(?: \(.*\) -> .*)? \{$")
_LINE = re.compile(
    r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) "
    r"(?P<op>[\w\-]+)\((?P<args>.*?)\)(?P<rest>.*)$"
)
_ARRAY = re.compile(r"(?P<dtype>[a-z]\w*)\[(?P<dims>[\d,]*)\]")
_CALLED = re.compile(r"(?:to_apply|condition|body|calls)=%?(?P<name>[\w.\-]+)")
_NO_INPUT = {"constant", "iota", "rng", "rng-bit-generator", "partition-id", "replica-id"}


@dataclass(frozen=True)
class Array:
    """Dtype in XLA's spelling, and dimensions."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)


@dataclass
class Instruction:
    """One operation of a lowered program."""

    name: str
    op: str
    arrays: tuple[Array, ...]
    """Its results."""
    operands: tuple[str, ...]
    text: str
    """Everything behind the operands: attributes."""
    root: bool = False

    @property
    def array(self) -> Array:
        """Its one result."""
        return self.arrays[0] if self.arrays else Array("token", ())

    def called(self, attribute: str) -> str:
        """Name of a computation that an attribute refers to."""
        match = re.search(rf"{attribute}=%?([\w.\-]+)", self.text)
        assert match is not None, f"{self.op} without {attribute}"
        return match[1]

    def attribute(self, name: str) -> str:
        """Text of an attribute, empty where there is none."""
        match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[\w.\->]+)", self.text)
        return "" if match is None else match[1]


@dataclass(frozen=True)
class Use:
    """One execution site of an instruction."""

    instruction: Instruction
    operands: tuple[Array, ...]
    visibility: tuple[Visibility, ...]
    """Of each operand."""
    times: int
    """How often it runs, where loops have a public length."""

    @property
    def secret(self) -> tuple[bool, ...]:
        """For each operand, whether any of it is secret."""
        return tuple(bool(one) for one in self.visibility)

    @property
    def needs_parties(self) -> bool:
        """Whether it takes both parties: what is public, or one owner's, is computed at home."""
        return _joined(self.visibility) == Visibility.SHARED


@dataclass
class HloModule:
    """A lowered program."""

    computations: Mapping[str, Sequence[Instruction]]
    entry: str
    secret_loops: list[Instruction] = field(default_factory=list)
    """Loops whose length depends on a secret, found by `uses`."""

    @cached_property
    def instructions(self) -> Mapping[str, Instruction]:
        """By name, which is unique in a module."""
        return {one.name: one for body in self.computations.values() for one in body}

    @cached_property
    def readers(self) -> Mapping[str, Sequence[Instruction]]:
        """Name to the instructions that have it as an operand."""
        found: dict[str, list[Instruction]] = {}
        for one in self.instructions.values():
            for operand in dict.fromkeys(one.operands):
                found.setdefault(operand, []).append(one)
        return found

    def uses(self, arguments: Sequence[Visibility] = ()) -> Iterator[Use]:
        """Every instruction that runs, with the secrecy of its operands; helpers of reductions left out.

        Args:
            arguments: of the program; all are shared where this is not given.
        """
        entry = self.computations[self.entry]
        count = sum(1 for instruction in entry if instruction.op == "parameter")
        found: list[Use] = []
        self.secret_loops = []
        self._run(self.entry, list(arguments) or [Visibility.SHARED] * count, 1, found)
        yield from found

    def _run(self, name: str, arguments: Sequence[Secrecy], times: int, found: list[Use] | None) -> Secrecy:
        known: dict[str, Secrecy] = {}
        shapes: dict[str, Array] = {}
        result: Secrecy = Visibility.PUBLIC
        for instruction in self.computations[name]:
            shapes[instruction.name] = instruction.array
            operands = [known[operand] for operand in instruction.operands if operand in known]
            known[instruction.name] = self._secrecy(instruction, operands, arguments, times, found)
            if found is not None and instruction.op not in ("parameter", "tuple", "get-tuple-element"):
                arrays = tuple(shapes[operand] for operand in instruction.operands if operand in shapes)
                found.append(Use(instruction, arrays, tuple(_joined(value) for value in operands), times))
            if instruction.root:
                result = known[instruction.name]
        return result

    def _secrecy(
        self,
        instruction: Instruction,
        operands: list[Secrecy],
        arguments: Sequence[Secrecy],
        times: int,
        found: list[Use] | None,
    ) -> Secrecy:
        op = instruction.op
        if op == "parameter":
            return arguments[int(instruction.text)]
        if op in _NO_INPUT:
            return Visibility.PUBLIC
        if op == "tuple":
            return tuple(operands)
        if op == "get-tuple-element":
            whole = operands[0]
            return whole[int(instruction.attribute("index"))] if isinstance(whole, tuple) else whole
        if op == "call":
            return self._run(instruction.called("to_apply"), operands, times, found)
        if op == "while":
            return self._loop(instruction, operands[0], times, found)
        secret = _joined(tuple(operands))
        return (secret,) * len(instruction.arrays) if len(instruction.arrays) > 1 else secret

    def _loop(
        self, instruction: Instruction, carried: Secrecy, times: int, found: list[Use] | None
    ) -> Secrecy:
        body, condition = instruction.called("body"), instruction.called("condition")
        while (after := _union(carried, self._run(body, [carried], times, None))) != carried:
            carried = after
        if _joined(self._run(condition, [carried], times, None)) and found is not None:
            self.secret_loops.append(instruction)
        if found is not None:
            self._run(body, [carried], times * self._length(condition), found)
        return carried

    def _length(self, condition: str) -> int:
        """Rounds of a counting loop: the largest integer that its condition compares with."""
        numbers = [
            int(instruction.text)
            for instruction in self.computations[condition]
            if instruction.op == "constant" and re.fullmatch(r"\d+", instruction.text)
        ]
        return max(numbers, default=1)


def _joined(value: Secrecy) -> Visibility:
    if isinstance(value, tuple):
        return reduce(or_, (_joined(part) for part in value), Visibility.PUBLIC)
    return value


def _union(first: Secrecy, second: Secrecy) -> Secrecy:
    if isinstance(first, tuple) and isinstance(second, tuple):
        return tuple(_union(a, b) for a, b in zip(first, second, strict=True))
    return _joined(first) | _joined(second)


def read_hlo(hlo: bytes) -> HloModule:
    """Read a serialised HLO module, as `secure_runner.programs.lowering.lower` makes it."""
    from jax._src.lib import xla_client

    computations: dict[str, list[Instruction]] = {}
    entry, current = "", ""
    for line in xla_client.XlaComputation(hlo).as_hlo_text().splitlines():
        head = _HEAD.match(line)
        if head is not None:
            current = head["name"]
            computations[current] = []
            entry = current if head["entry"] else entry
            continue
        match = _LINE.match(line)
        if match is not None and current:
            computations[current].append(_instruction(match))
    return HloModule(computations, entry)


def _instruction(match: re.Match[str]) -> Instruction:
    arrays = tuple(
        Array(found["dtype"], tuple(int(dim) for dim in found["dims"].split(",") if dim))
        for found in _ARRAY.finditer(match["type"])
    )
    literal = match["op"] in ("parameter", "constant")
    operands = () if literal else tuple(name.strip().lstrip("%") for name in match["args"].split(",") if name)
    text = match["args"] if literal else match["rest"]
    return Instruction(match["name"], match["op"], arrays, operands, text, bool(match["root"]))
