"""SPU's correction requests: JSON bodies of ``BeaverService``, read with nothing taken on trust.

Field names and meaning: SPU ``beaver_impl/ttp_server/service.proto``. SPU's client leaves zero scalars out.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

import orjson

from secure_runner.dealer.steps import INPUT_COUNTS, PRIME_SUFFIX, Step, StepError

__all__ = [
    "CORRECTIONS_SUFFIX",
    "MAX_CIPHERTEXT_TEXT",
    "MAX_PARTIES",
    "PATH_PREFIX",
    "Request",
    "RequestError",
    "expected_body",
    "parse_request",
    "read_body",
]

PATH_PREFIX = "/spu.mpc.semi2k.beaver.ttp_server.BeaverService/Adjust"
"""What stands before the operation in the path of a request."""

CORRECTIONS_SUFFIX = "/corrections"
"""What stands behind a job's path where its relay asks."""

MAX_PARTIES = 16
_MAX_CIPHERTEXT_BYTES = 256
MAX_CIPHERTEXT_TEXT = _MAX_CIPHERTEXT_BYTES * 4 // 3
"""Characters of base64 that hold a ciphertext."""
_REQUESTS = [name for name in INPUT_COUNTS if not name.endswith(PRIME_SUFFIX)]
_MAX_COUNTER = 1 << 63


class RequestError(Exception):
    """A request that is not one of SPU's, or that the dealer does not serve. Says what was expected."""


@dataclass(frozen=True)
class Request:
    """A well-formed request."""

    step: Step
    counter: int
    """First generator block; all masks follow each other from here."""
    ciphertexts: tuple[str, ...]
    """Each party's seed under the dealer's key, base64, in rank order. They identify the session."""


def read_body(body: bytes) -> Any:
    """The body as JSON.

    Raises:
        RequestError: it is not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RequestError("the body is not JSON") from None


def parse_request(operation: str, message: Any) -> Request:
    """Check a request's JSON.

    Raises:
        RequestError: not well-formed, or using what the dealer does not serve: masks that do not follow each
            other (a repeated range), transposed inputs (they come with repeated ranges only).
    """
    if operation not in _REQUESTS:
        raise RequestError(f"unknown operation; expected one of {', '.join(_REQUESTS)}")
    if not isinstance(message, dict):
        raise RequestError("the body is not a JSON object")
    operation += _suffix(operation, message)
    inputs = message.get("prg_inputs")
    if not isinstance(inputs, list) or len(inputs) != INPUT_COUNTS[operation]:
        raise RequestError(f"{operation}: expected {INPUT_COUNTS[operation]} items in prg_inputs")
    if any(not isinstance(item, dict) for item in inputs):
        raise RequestError("prg_inputs: expected a list of objects")
    ciphertexts = _ciphertexts(inputs)
    step = _step(operation, message, inputs, ciphertexts)
    return Request(step, _counter(step, message, inputs), ciphertexts)


def expected_body(step: Step, counter: int, ciphertexts: list[str]) -> dict[str, Any]:
    """The JSON object that SPU's client sends for a step, its fields in SPU's order: what a pinned session
    compares with."""
    inputs: list[dict[str, Any]] = []
    for length, blocks in zip(step.input_bytes, step.input_blocks, strict=True):
        inputs.append(
            _without_zeros({"prg_count": counter, "buffer_len": length, "encrypted_seeds": ciphertexts})
        )
        counter += blocks
    body: dict[str, Any] = {"prg_inputs": inputs}
    if step.operation == "Dot":
        body["transpose_inputs"] = [False, False, False]
    if step.operation != "And":
        body["field_size"] = step.field_bytes
    if step.operation == "Dot":
        m, n, k = step.dims
        body |= {"M": m, "N": n, "K": k}
    elif step.is_prime:
        body["element_type"] = "GFMP"
    elif step.operation in ("Trunc", "TruncPr"):
        body |= _without_zeros({"bits": step.bits})
    elif step.operation == "Perm":
        owner = ciphertexts[step.owner]
        body["perm"] = _without_zeros({"prg_count": counter, "size": step.dims[0], "encrypted_seeds": owner})
    return body


def _without_zeros(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value != 0}


def _suffix(operation: str, message: dict[str, Any]) -> str:
    """What the element type adds to the operation's name."""
    element_type = message.get("element_type", "RING")
    if element_type in ("RING", "UNSPECIFIED", 0, 1):
        return ""
    if element_type not in ("GFMP", 2) or operation + PRIME_SUFFIX not in INPUT_COUNTS:
        raise RequestError("element_type: expected RING, or GFMP of Mul and MulPriv")
    return PRIME_SUFFIX


def _number(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name, 0)
    # Protocol buffers' JSON may write 64-bit numbers as text.
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        value = int(value)
    if type(value) is not int or not 0 <= value < _MAX_COUNTER:
        raise RequestError(f"{name}: expected a whole number of 0 to 2^63 - 1")
    return value


def _ciphertexts(inputs: list[dict[str, Any]]) -> tuple[str, ...]:
    texts = inputs[0].get("encrypted_seeds")
    if not isinstance(texts, list) or not 2 <= len(texts) <= MAX_PARTIES:
        raise RequestError(f"encrypted_seeds: expected one for each party, 2 to {MAX_PARTIES}")
    for text in texts:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_CIPHERTEXT_TEXT:
            raise RequestError(f"encrypted_seeds: expected base64 of at most {_MAX_CIPHERTEXT_BYTES} bytes")
        try:
            base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise RequestError("encrypted_seeds: expected base64") from None
    if len(set(texts)) != len(texts):
        raise RequestError("encrypted_seeds: two parties cannot have the same")
    if any(item.get("encrypted_seeds") != texts for item in inputs):
        raise RequestError("encrypted_seeds: expected the same in every item of prg_inputs")
    return tuple(texts)


def _step(
    operation: str, message: dict[str, Any], inputs: list[dict[str, Any]], ciphertexts: tuple[str, ...]
) -> Step:
    field_bytes = 16 if operation == "And" else _number(message, "field_size")
    try:
        if operation == "Dot":
            transposed = message.get("transpose_inputs", [])
            if not isinstance(transposed, list) or any(flag is not False for flag in transposed):
                raise RequestError("transpose_inputs: transposed inputs are not served")
            dims = [_number(message, name) for name in ("M", "N", "K")]
            step = Step.checked(operation, field_bytes, dims)
        else:
            count, rest = divmod(_number(inputs[0], "buffer_len"), field_bytes or 1)
            if rest:
                raise RequestError(f"buffer_len: expected a multiple of {field_bytes}")
            step = Step.checked(operation, field_bytes, [count, *_extra(operation, message, ciphertexts)])
    except StepError as error:
        raise RequestError(str(error)) from None
    lengths = tuple(_number(item, "buffer_len") for item in inputs)
    if lengths != step.input_bytes:
        raise RequestError(f"buffer_len: {step.describe()} needs {step.input_bytes}, got {lengths}")
    return step


def _extra(operation: str, message: dict[str, Any], ciphertexts: tuple[str, ...]) -> list[int]:
    """The second dimension of operations that have one."""
    if operation in ("Trunc", "TruncPr"):
        return [_number(message, "bits")]
    if operation == "Perm":
        owner = _perm(message).get("encrypted_seeds")
        if owner not in ciphertexts:
            raise RequestError("perm.encrypted_seeds: expected one of the parties' ciphertexts")
        return [ciphertexts.index(owner)]
    return []


def _perm(message: dict[str, Any]) -> dict[str, Any]:
    perm = message.get("perm")
    if not isinstance(perm, dict):
        raise RequestError("perm: expected an object")
    return perm


def _counter(step: Step, message: dict[str, Any], inputs: list[dict[str, Any]]) -> int:
    """First block of the step; all its ranges must follow each other without a gap."""
    first = following = _number(inputs[0], "prg_count")
    for item, blocks in zip(inputs, step.input_blocks, strict=True):
        if _number(item, "prg_count") != following:
            raise RequestError("prg_count: expected fresh masks, each after the one before")
        following += blocks
    if step.operation == "Perm":
        perm = _perm(message)
        if _number(perm, "prg_count") != following or _number(perm, "size") != step.dims[0]:
            raise RequestError("perm: expected a permutation of all elements, drawn after the masks")
    return first
