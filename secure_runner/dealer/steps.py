"""One correction that a program needs, without its data: an operation and its sizes.

The ten operations are those of SPU's ``BeaverService`` (``libspu/mpc/semi2k/beaver``). Each step draws its
masks from consecutive blocks of the parties' generators, so a sequence of steps says what each block is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from secure_runner.dealer.prg import block_count
from secure_runner.dealer.primes import STREAM_BYTES
from secure_runner.dealer.ring import FIELD_BYTES

__all__ = ["INPUT_COUNTS", "MAX_ELEMENTS", "PRIME_SUFFIX", "Step", "StepError"]

PRIME_SUFFIX = "Gfmp"

INPUT_COUNTS: dict[str, int] = {
    "Mul": 3,
    "MulPriv": 2,
    "Square": 2,
    "Dot": 3,
    "And": 3,
    "Trunc": 2,
    "TruncPr": 3,
    "RandBit": 1,
    "Eqz": 2,
    "Perm": 2,
    "MulGfmp": 3,
    "MulPrivGfmp": 2,
}
"""Operation to the number of masks that it draws. The last two are Mul and MulPriv in a prime field, which
SPU asks for as Mul and MulPriv too."""

MAX_ELEMENTS = 1 << 32
"""Sizes above this are refused before anything is multiplied."""

_AND_FIELD_BYTES = 16
_DIM_COUNTS = {"Dot": 3, "Trunc": 2, "TruncPr": 2, "Perm": 2}


class StepError(Exception):
    """Something that is not one of these operations with sizes that make sense."""


@dataclass(frozen=True)
class Step:
    """An operation, the element size in bytes, and its dimensions.

    ``dims`` are ``(m, n, k)`` of Dot (an m by k matrix times a k by n matrix), ``(count, bits)`` of Trunc and
    TruncPr, ``(count, owner)`` of Perm with the rank that knows the permutation, ``(count,)`` of the others.
    """

    operation: str
    field_bytes: int
    dims: tuple[int, ...]

    @classmethod
    def checked(cls, operation: Any, field_bytes: Any, dims: Sequence[Any]) -> Step:
        """A step from untrusted parts.

        Raises:
            StepError: an unknown operation, element size, or a dimension out of range.
        """
        if not isinstance(operation, str) or operation not in INPUT_COUNTS:
            raise StepError(f"expected one of {', '.join(INPUT_COUNTS)} as operation")
        sizes = (_AND_FIELD_BYTES,) if operation == "And" else FIELD_BYTES
        if type(field_bytes) is not int or field_bytes not in sizes:
            raise StepError(f"{operation}: expected an element size in bytes out of {sizes}")
        if len(dims) != _DIM_COUNTS.get(operation, 1) or any(type(dim) is not int for dim in dims):
            raise StepError(
                f"{operation}: expected {_DIM_COUNTS.get(operation, 1)} whole numbers as dimensions"
            )
        step = cls(operation, field_bytes, tuple(dims))
        step._check_ranges()
        return step

    @classmethod
    def from_json(cls, value: Any) -> Step:
        """A step from ``[operation, element size, dims…]``.

        Raises:
            StepError: as :meth:`checked`.
        """
        if not isinstance(value, list) or len(value) < 3:
            raise StepError("expected a list of operation, element size and dimensions")
        return cls.checked(value[0], value[1], value[2:])

    def to_json(self) -> list[str | int]:
        """The canonical form: ``[operation, element size, dims…]``."""
        return [self.operation, self.field_bytes, *self.dims]

    def _check_ranges(self) -> None:
        counts = self.dims if self.operation == "Dot" else self.dims[:1]
        if any(not 0 < count <= MAX_ELEMENTS for count in counts):
            raise StepError(f"{self.operation}: expected dimensions of 1 to {MAX_ELEMENTS}, got {counts}")
        if self.operation in ("Trunc", "TruncPr") and not 0 <= self.bits < 8 * self.field_bytes:
            raise StepError(
                f"{self.operation}: expected bits of 0 to {8 * self.field_bytes - 1}, got {self.bits}"
            )
        if self.operation == "Perm" and self.owner < 0:
            raise StepError(f"Perm: expected the owner's rank, got {self.owner}")

    @property
    def bits(self) -> int:
        """By how many bits Trunc and TruncPr shift."""
        return self.dims[1]

    @property
    def is_prime(self) -> bool:
        """Whether elements are of a prime field instead of a ring."""
        return self.operation.endswith(PRIME_SUFFIX)

    @property
    def request(self) -> str:
        """SPU's name of the request."""
        return self.operation.removesuffix(PRIME_SUFFIX)

    @property
    def owner(self) -> int:
        """The rank that knows the permutation of Perm."""
        return self.dims[1]

    @cached_property
    def input_counts(self) -> tuple[int, ...]:
        """Elements of each mask."""
        if self.operation == "Dot":
            m, n, k = self.dims
            return (m * k, k * n, m * n)
        return (self.dims[0],) * INPUT_COUNTS[self.operation]

    @cached_property
    def input_bytes(self) -> tuple[int, ...]:
        """Bytes of each mask."""
        return tuple(count * self.field_bytes for count in self.input_counts)

    @cached_property
    def output_bytes(self) -> tuple[int, ...]:
        """Bytes of each correction."""
        if self.operation == "TruncPr":
            return self.input_bytes[:2]
        return self.input_bytes[-1:]

    @cached_property
    def input_blocks(self) -> tuple[int, ...]:
        """Generator blocks of each mask."""
        size = STREAM_BYTES[self.field_bytes] if self.is_prime else self.field_bytes
        return tuple(block_count(count * size) for count in self.input_counts)

    @cached_property
    def mask_blocks(self) -> int:
        """Generator blocks that all masks take together."""
        return sum(self.input_blocks)

    @cached_property
    def blocks(self) -> int:
        """Generator blocks that the step uses up; the permutation's come after the masks'."""
        return self.mask_blocks + (self.dims[0] - 1 if self.operation == "Perm" else 0)

    @property
    def multiplications(self) -> int:
        """Ring multiplications, as a measure of the work."""
        if self.operation == "Dot":
            m, n, k = self.dims
            return m * n * k
        return self.input_counts[0]

    def describe(self) -> str:
        """For messages: operation and sizes, which are public."""
        return f"{self.operation}{self.dims} of {8 * self.field_bytes}-bit elements"
