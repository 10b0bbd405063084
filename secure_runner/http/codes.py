"""Every error code that an HTTP client can meet, in one table: status, meaning and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secure_runner.errors import InputError, SecureRunnerError

__all__ = ["ERROR_CODES", "ErrorCode", "RequestError", "public_error"]


@dataclass(frozen=True)
class ErrorCode:
    """One documented code of an error body."""

    status: int
    meaning: str
    cure: str


ERROR_CODES: dict[str, ErrorCode] = {
    "malformed_body": ErrorCode(
        400,
        "The body cannot be read in the format it is said to have.",
        "Check it against the format's section.",
    ),
    "bad_header": ErrorCode(
        400,
        "A header's value is malformed or out of its range.",
        "The message names the header and its form.",
    ),
    "unknown_field": ErrorCode(
        400,
        "The body holds a field that the request does not have.",
        "Remove it; nothing is ignored silently.",
    ),
    "missing_input": ErrorCode(
        400, "An input of the manifest was not sent.", "Send every input of `GET /manifest`."
    ),
    "unknown_input": ErrorCode(400, "An input was sent that the manifest does not have.", "Check the name."),
    "unknown_output": ErrorCode(
        400, "An output was asked for that the manifest does not have.", "Check the name."
    ),
    "wrong_shape": ErrorCode(
        400,
        "Dimensions differ from the manifest's; nothing is ever reshaped.",
        "Send the shape in `expected`.",
    ),
    "ragged_rows": ErrorCode(
        400, "Rows differ in length or nesting.", "Fix the row that `row` names (from 0)."
    ),
    "wrong_dtype": ErrorCode(
        400,
        "Values of this type cannot become the input's dtype without loss.",
        "Send the dtype in `expected`.",
    ),
    "not_finite": ErrorCode(
        400,
        "A value is NaN, infinite or null, which a fixed-point ring cannot hold.",
        "Impute before sending.",
    ),
    "out_of_range": ErrorCode(
        400,
        "A value lies outside what the program computes correctly.",
        "See `input_ranges` of `GET /manifest`.",
    ),
    "empty_batch": ErrorCode(400, "The request has no rows.", "Send at least one row."),
    "batch_mismatch": ErrorCode(
        400, "Inputs have different numbers of rows.", "Send as many rows for each input."
    ),
    "too_many_rows": ErrorCode(400, "More rows than one request may have.", "Split the batch."),
    "wrong_party": ErrorCode(
        403,
        "This service belongs to a party that must not see features.",
        "Send the request to the data owner's own service.",
    ),
    "unauthorized": ErrorCode(
        401, "No token was sent, or none that is known.", "Send `Authorization: Bearer <token>`."
    ),
    "not_found": ErrorCode(404, "No model of this name or version is served here.", "See `GET /manifest`."),
    "task_not_found": ErrorCode(
        404,
        "This client has no such task: never had, has fetched its file, or let it expire.",
        "Submit the file again.",
    ),
    "method_not_allowed": ErrorCode(405, "The path exists, not with this method.", "See the `Allow` header."),
    "not_acceptable": ErrorCode(
        406,
        "The answer cannot be given in any form that `Accept` allows.",
        "Ask for a form in the table of formats.",
    ),
    "body_timeout": ErrorCode(
        408, "The body did not arrive in time.", "Send it faster, or in smaller batches."
    ),
    "task_state": ErrorCode(409, "The task is not in a state that allows this.", "Ask for its status first."),
    "body_too_large": ErrorCode(
        413, "The body is larger than the limit.", "Split the batch, or send it in binary."
    ),
    "unsupported_media_type": ErrorCode(
        415, "The `Content-Type` is none that is understood.", "Use one of the table of formats."
    ),
    "unsupported_encoding": ErrorCode(
        415, "The body is compressed, which is refused.", "Send it without `Content-Encoding`."
    ),
    "overloaded": ErrorCode(
        429, "As many requests as the service holds are under way.", "Try again after `Retry-After` seconds."
    ),
    "too_many_tasks": ErrorCode(
        429,
        "This client, or all together, have as many scoring tasks as may be held.",
        "Fetch the files of those that are done, or try again after `Retry-After` seconds.",
    ),
    "queue_full": ErrorCode(429, "The runner's queue is full.", "Try again after `Retry-After` seconds."),
    "rate_limited": ErrorCode(
        429, "This client sends too many requests.", "Try again after `Retry-After` seconds."
    ),
    "daily_rows": ErrorCode(
        429, "This client has used up its rows of the day (UTC).", "Try again after `Retry-After` seconds."
    ),
    "owner_rate": ErrorCode(
        429,
        "The model owner admits no more batches at the moment.",
        "Try again after `Retry-After` seconds; its limits are a matter between the organisations.",
    ),
    "owner_daily_rows": ErrorCode(
        429,
        "The rows that the model owner allows for the day (UTC) are used up.",
        "Try again after `Retry-After` seconds, or ask the model owner for more.",
    ),
    "request_id_reused": ErrorCode(
        422,
        "The request id was used within the last minute with other inputs.",
        "Give each request an id of its own.",
    ),
    "bad_input": ErrorCode(
        400, "The runner refused the request for a reason without a code of its own.", "The message says why."
    ),
    "internal": ErrorCode(500, "A defect in the service.", "Report it with the request id."),
    "starting": ErrorCode(
        503,
        "The parties have no session yet.",
        "Try again after `Retry-After` seconds; `/readyz` tells when.",
    ),
    "session_ended": ErrorCode(
        503,
        "The session ended under the request: a party or a link failed.",
        "Try again after `Retry-After` seconds; the next session is being agreed on.",
    ),
    "runner_ended": ErrorCode(
        503, "The runner's process ended under the request.", "Try again after `Retry-After` seconds."
    ),
    "runner_unreachable": ErrorCode(
        503, "The runner's process cannot be reached.", "Try again after `Retry-After` seconds."
    ),
    "stopping": ErrorCode(503, "The service is stopping.", "Try again, at another replica if there is one."),
    "unavailable": ErrorCode(
        503, "No session is ready, or it ended under the request.", "Try again after `Retry-After` seconds."
    ),
    "deadline": ErrorCode(
        504, "The deadline passed before the answer was there.", "Raise `X-Request-Timeout-S`, or try again."
    ),
}


class RequestError(InputError):
    """A request refused with a code of the table. ``details`` become fields of the error body.

    Neither message nor details hold a value of the request: only names, shapes, dtypes, counts and positions.
    """

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message, code=code, http_status=ERROR_CODES[code].status)
        self.details = details


def public_error(error: SecureRunnerError) -> tuple[int, str, str]:
    """Status, code and message of an error as a client may see it. What a client cannot act on is hidden."""
    if error.http_status == 500:
        return 500, "internal", "the service failed; its log has the reason under this request id"
    return error.http_status, error.code, str(error)
