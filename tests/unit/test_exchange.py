"""Between an API service and its runner: inputs, outputs and errors arrive as they left."""

from __future__ import annotations

import numpy as np
import pytest

from secure_runner import errors
from secure_runner.frames import FrameError
from secure_runner.runner.exchange import answer_of, failure, request_of, to_answer, to_request


def test_a_request_arrives_whole():
    """Arrays with dtype and shape, and who asks, for how long, under which id."""
    inputs = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "flag": np.array([True, False])}
    found, meta = request_of(to_request(inputs, request_id="r-1", client=None, deadline_s=1.5))
    assert {name: array.dtype for name, array in found.items()} == {"x": np.float32, "flag": np.bool_}
    for name, array in inputs.items():
        np.testing.assert_array_equal(found[name], array)
    assert (meta["request_id"], meta["client"], meta["deadline_s"]) == ("r-1", None, 1.5)


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["benign", "malignant", "é"]),
        np.array(["benign", "malignant", ""], dtype=object),
        np.array([3, 1, 2], np.int64),
        np.array([], dtype=object),
    ],
)
def test_an_answer_arrives_whole(labels):
    """Labels too, which may be Python strings of any length."""
    outputs = {"label": labels, "p": np.ones((3, 2), np.float32)}
    found = answer_of(to_answer(outputs))
    assert list(found["label"]) == list(labels)
    np.testing.assert_array_equal(found["p"], outputs["p"])


@pytest.mark.parametrize(
    "error",
    [
        errors.InputError("too large", code="too_many_rows", http_status=413),
        errors.OverloadedError("full", retry_after_s=2.5, code="queue_full"),
        errors.UnavailableError("gone", retry_after_s=0.5, code="session_ended"),
        errors.DeadlineError("late"),
        errors.SecureRunnerError("fault"),
    ],
)
def test_an_error_arrives_as_what_it_is(error):
    """Class, message, code, status and when to try again."""
    with pytest.raises(type(error)) as caught:
        answer_of(failure(error))
    found = caught.value
    assert type(found) is type(error)
    assert (str(found), found.code, found.http_status) == (str(error), error.code, error.http_status)
    assert getattr(found, "retry_after_s", None) == getattr(error, "retry_after_s", None)


def test_an_error_of_another_kind_becomes_a_plain_one():
    """It is a fault of ours by then, and its code still says which."""
    with pytest.raises(errors.SecureRunnerError) as caught:
        answer_of(failure(errors.ProgramError("changed")))
    assert caught.value.http_status == 500
    assert caught.value.code == "program"


def test_what_is_no_frame_is_refused():
    """A request of another version of this package is not guessed at."""
    with pytest.raises(FrameError):
        request_of(b"{}")
