"""The request parser: what SPU sends is read, everything else is refused with a reason."""

from __future__ import annotations

import base64
import contextlib
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_runner.dealer.requests import RequestError, expected_body, parse_request, read_body
from secure_runner.dealer.steps import INPUT_COUNTS, Step, StepError

_CIPHERTEXTS = [base64.b64encode(os.urandom(124)).decode() for _ in range(3)]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_FIELDS = ("prg_inputs", "field_size", "bits", "M", "N", "K", "transpose_inputs", "perm", "element_type")


@st.composite
def _steps(draw: st.DrawFn) -> Step:
    operation = draw(st.sampled_from(sorted(INPUT_COUNTS)))
    field_bytes = 16 if operation == "And" else draw(st.sampled_from((4, 8, 16)))
    count = st.integers(1, 1000)
    if operation == "Dot":
        dims = [draw(count), draw(count), draw(count)]
    elif operation in ("Trunc", "TruncPr"):
        dims = [draw(count), draw(st.integers(0, 8 * field_bytes - 1))]
    elif operation == "Perm":
        dims = [draw(count), draw(st.integers(0, 2))]
    else:
        dims = [draw(count)]
    return Step.checked(operation, field_bytes, dims)


@given(step=_steps(), counter=st.integers(0, 1 << 40))
def test_reads_what_spu_sends(step: Step, counter: int) -> None:
    """Operation, sizes, position and ciphertexts come back."""
    request = parse_request(step.request, expected_body(step, counter, _CIPHERTEXTS))

    assert (request.step, request.counter, list(request.ciphertexts)) == (step, counter, _CIPHERTEXTS)
    assert Step.from_json(step.to_json()) == step


@given(step=_steps(), data=st.data())
def test_any_change_is_refused_or_read_as_something_else(tried: Any, step: Step, data: st.DataObject) -> None:
    """A field replaced by any JSON never passes for the original request, and never raises anything else."""
    body: dict[str, Any] = expected_body(step, 16, _CIPHERTEXTS)
    target: dict[str, Any] = data.draw(st.sampled_from([body, *body["prg_inputs"]]))
    name = data.draw(st.sampled_from(sorted(target)))
    original, target[name] = target[name], data.draw(_JSON)
    try:
        with tried.reading("dealer's requests", RequestError):
            request = parse_request(step.request, body)
    except RequestError:
        return
    unchanged = target[name] == original or (name == "transpose_inputs" and target[name] == [])
    assert unchanged or request.step != step or request.counter != 16


@given(
    operation=st.sampled_from([*INPUT_COUNTS, "Cube", ""]),
    message=_JSON | st.dictionaries(st.sampled_from(_FIELDS), _JSON),
)
def test_any_json_is_refused_with_a_reason(tried: Any, operation: str, message: Any) -> None:
    """No input makes the parser raise anything but its own error."""
    with pytest.raises(RequestError) as refused, tried.reading("dealer's requests", RequestError):
        parse_request(operation, message)
    assert str(refused.value)


@given(body=st.binary(max_size=60))
def test_any_bytes_are_json_or_refused(tried: Any, body: bytes) -> None:
    """The same for what is not JSON."""
    with contextlib.suppress(RequestError), tried.reading("dealer's requests", RequestError):
        read_body(body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transpose_inputs": [True, False, False]}, "transposed inputs are not served"),
        ({"element_type": "GFMP"}, "GFMP of Mul and MulPriv"),
        ({"element_type": "FLOAT"}, "expected RING"),
        ({"M": 1 << 40}, "expected dimensions"),
        ({"K": 5}, "buffer_len"),
        ({"field_size": 3}, "element size"),
        ({"M": 0}, "expected dimensions"),
    ],
)
def test_dot_is_checked(change: dict[str, Any], message: str) -> None:
    """Dimensions against lengths, and what the dealer does not serve."""
    body = expected_body(Step("Dot", 8, (2, 3, 4)), 0, _CIPHERTEXTS) | change
    with pytest.raises(RequestError, match=message):
        parse_request("Dot", body)


def test_shifts_stay_below_the_rings_size() -> None:
    """``bits`` of the ring's size or more is refused."""
    with pytest.raises(StepError, match="expected bits of 0 to 63"):
        Step.checked("TruncPr", 8, [4, 64])


def test_used_ranges_are_refused() -> None:
    """Masks that overlap, or leave a gap, are refused whatever the operation."""
    body = expected_body(Step("Mul", 8, (4,)), 8, _CIPHERTEXTS)
    for counter in (8, 9, 11):
        body["prg_inputs"][1]["prg_count"] = counter
        with pytest.raises(RequestError, match="fresh masks"):
            parse_request("Mul", body)
