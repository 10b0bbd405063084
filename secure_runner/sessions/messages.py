"""What two runners say to each other: small JSON messages, each a pydantic model chosen by its ``type``."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from secure_runner.errors import SecureRunnerError

__all__ = [
    "ClockReply",
    "ClockRequest",
    "CoordinationError",
    "End",
    "Ended",
    "Goodbye",
    "Greeting",
    "Heartbeat",
    "Hello",
    "Known",
    "Probe",
    "ProbeReply",
    "Ready",
    "Renew",
    "SessionMessage",
    "Start",
    "Terms",
    "Warm",
    "read_greeting",
    "read_session_message",
]

_T = TypeVar("_T")

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Text = Annotated[str, Field(max_length=128)]
Code = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]


class CoordinationError(SecureRunnerError):
    """The connection to another runner failed, or it sent what is not a message."""

    code = "coordination"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Hello(_Message):
    """First message each way: all that must be the same at both, and the sender's clock."""

    type: Literal["hello"] = "hello"
    party: Name
    cluster_name: Name
    cluster_digest: Digest
    program_name: Text | None
    """None at a party that has no program: the dealer."""
    program_digest: Digest | None
    protocol_configuration: Annotated[dict[Name, str | int | bool], Field(max_length=64)]
    versions: Annotated[dict[Name, Text], Field(max_length=64)]
    checking: bool = False
    """Only looks whether all is well, and will not join sessions."""


class ClockRequest(_Message):
    """Asks for the other's clock at once, to measure round trip and clock difference."""

    type: Literal["clock_request"] = "clock_request"


class ClockReply(_Message):
    """The sender's clock, in seconds since 1970 UTC."""

    type: Literal["clock_reply"] = "clock_reply"
    clock_s: Annotated[float, Field(ge=0, le=1e11)]


class Known(_Message):
    """The listening runner to its own party's doctor: which others came, and why it refused others."""

    type: Literal["known"] = "known"
    connected: Annotated[list[Name], Field(max_length=16)]
    """Parties whose runners are connected, and agree."""
    refused: Annotated[list[Annotated[str, Field(max_length=2**12)]], Field(max_length=16)]
    """Why others were refused; the latest last."""


class Probe(_Message):
    """Bytes sent to measure the line; only after a checking hello."""

    type: Literal["probe"] = "probe"
    padding: Annotated[str, Field(max_length=2**20)]


class ProbeReply(_Message):
    """A probe has arrived."""

    type: Literal["probe_reply"] = "probe_reply"


class Warm(_Message):
    """Member to leader: a process with its imports done stands by for the lane."""

    type: Literal["warm"] = "warm"
    lane: Count


class Terms(_Message):
    """What the model owner lets the data owner compute; None is without limit."""

    batches_per_s: Annotated[float, Field(gt=0)] | None = None
    burst: Annotated[int, Field(ge=1, le=2**31)] = 1
    rows_per_day: Count | None = None
    rows_left: Count | None = None
    """Of this day (UTC), when the session begins."""
    rows_per_batch: Annotated[int, Field(ge=1)] | None = None


class Start(_Message):
    """Leader to member: join this session now."""

    type: Literal["start"] = "start"
    session_id: Name
    epoch: Count
    lane: Count
    slot: Annotated[int, Field(ge=0, le=1)]
    relieves: bool = False
    """The data owner leaves its present session for this one as soon as it is ready."""
    terms: Terms | None = None
    """For the data owner alone, where the model owner has set limits."""


class Ready(_Message):
    """Member to leader: its party serves the session."""

    type: Literal["ready"] = "ready"
    epoch: Count
    lane: Count


class End(_Message):
    """Leader to member: the session is over; kill its process."""

    type: Literal["end"] = "end"
    epoch: Count
    lane: Count


class Ended(_Message):
    """Member to leader: its part in the session is over, or could not start."""

    type: Literal["ended"] = "ended"
    epoch: Count
    lane: Count
    reason: Code


class Renew(_Message):
    """Member to leader: its certificates were replaced; new sessions shall take the place of the present."""

    type: Literal["renew"] = "renew"


class Heartbeat(_Message):
    """The sender lives."""

    type: Literal["heartbeat"] = "heartbeat"


class Goodbye(_Message):
    """The sender closes the connection, and why."""

    type: Literal["goodbye"] = "goodbye"
    reason: Code


Greeting = Hello | ClockRequest | ClockReply | Known | Probe | ProbeReply | Goodbye
"""Messages before the parties have agreed."""
SessionMessage = Warm | Start | Ready | End | Ended | Renew | Heartbeat | Goodbye
"""Messages after that."""

_GREETING: TypeAdapter[Greeting] = TypeAdapter(Annotated[Greeting, Field(discriminator="type")])
_SESSION: TypeAdapter[SessionMessage] = TypeAdapter(Annotated[SessionMessage, Field(discriminator="type")])


def read_greeting(data: bytes) -> Greeting:
    """Parse a message of a peer that has not been agreed with yet.

    Raises:
        CoordinationError: it is none; says nothing of its content.
    """
    return _read(_GREETING, data)


def read_session_message(data: bytes) -> SessionMessage:
    """Parse a message of a peer that has been agreed with.

    Raises:
        CoordinationError: it is none; says nothing of its content.
    """
    return _read(_SESSION, data)


def _read(adapter: TypeAdapter[_T], data: bytes) -> _T:
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise CoordinationError(f"a message of {len(data)} bytes is none of those expected here") from error
