"""The manifest: the public description of a program, and what its digest covers."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from secure_runner.protocols import ProtocolName

__all__ = [
    "MANIFEST_FORMAT",
    "ExecutableSpec",
    "InputRange",
    "LocalStepSpec",
    "Manifest",
    "NumericSpec",
    "RunCost",
    "TensorSpec",
]

MANIFEST_FORMAT: Literal[1] = 1

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Frozen):
    """Name, numpy dtype and shape of a tensor. ``None`` in the shape is the batch dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def with_batch(self, batch_size: int) -> tuple[int, ...]:
        """The shape with the batch dimension filled in."""
        return tuple(batch_size if dim is None else dim for dim in self.shape)


class LocalStepSpec(_Frozen):
    """One step that the data owner computes in the clear, on values that are its own anyway."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Any] = {}


class InputRange(_Frozen):
    """Closed interval of values that the fixed-point ring holds safely for one input."""

    low: float
    high: float


class NumericSpec(_Frozen):
    """The ring in which the program computes."""

    field: Literal["FM32", "FM64", "FM128"] = "FM64"
    fraction_bits: int = Field(default=18, ge=1, le=60)
    exp_mode: Literal["EXP_PADE", "EXP_TAYLOR"] = "EXP_PADE"


class ExecutableSpec(_Frozen):
    """One compiled executable of the ladder."""

    batch_size: int = Field(ge=1)
    file: str
    sha256: Digest
    transcript_file: str | None = None
    transcript_sha256: Digest | None = None
    """Digest of the operation-and-size transcript that a dealer pins, where one was recorded."""
    packed_products: bool = True
    """Whether homomorphic matrix products pack their answers (`secure_runner.programs.ciphertexts`)."""


class RunCost(_Frozen):
    """What one run under the program's protocol costs, as estimated when it was built."""

    batch_size: int = Field(ge=1)
    rounds: int = Field(ge=0)
    """Round trips that the parties wait for."""
    sent_bytes: int = Field(ge=0)
    """By the model owner's party."""
    compute_s: float = Field(ge=0)

    def seconds(self, round_trip_s: float, bytes_per_s: float) -> float:
        """Time of one run over such a line."""
        return self.compute_s + self.rounds * round_trip_s + self.sent_bytes / bytes_per_s


class Manifest(_Frozen):
    """Everything that a party may know of a program, and all that parties must agree on.

    It holds no trained value: ``params`` lists names, dtypes and shapes only.
    """

    format: Literal[1] = MANIFEST_FORMAT
    name: str
    protocol: ProtocolName
    numeric: NumericSpec
    inputs: tuple[TensorSpec, ...]
    """What a client sends."""
    outputs: tuple[TensorSpec, ...]
    """What a client receives."""
    private_inputs: tuple[TensorSpec, ...]
    """What is shared: ``inputs`` after ``encode``."""
    private_outputs: tuple[TensorSpec, ...]
    """What is revealed to the data owner: ``outputs`` before ``decode``."""
    params: tuple[TensorSpec, ...]
    encode: tuple[LocalStepSpec, ...] = ()
    decode: tuple[LocalStepSpec, ...] = ()
    input_ranges: dict[str, InputRange] = {}
    rewrites: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    """What the data owner should know before joining, for example that a tree's topology is public."""
    executables: tuple[ExecutableSpec, ...]
    cost: RunCost | None = None
    """Of the smallest executable."""
    versions: dict[str, str]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The ladder, ascending."""
        return tuple(sorted(executable.batch_size for executable in self.executables))

    def canonical_json(self) -> bytes:
        """The bytes that the digest covers: sorted keys, no spaces, UTF-8."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest; covers every executable through its own digest."""
        return hashlib.sha256(self.canonical_json()).hexdigest()
