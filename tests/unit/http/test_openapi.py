"""The OpenAPI document describes what the service does; schemathesis tries both against each other."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from secure_runner.http.api import PredictionApi
from secure_runner.http.app import create_app
from secure_runner.http.codes import ERROR_CODES
from secure_runner.http.openapi import openapi_document
from secure_runner.http.settings import HttpSettings

CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.mark.parametrize("which", ["single", "several"])
def test_every_operation_answers_as_documented(
    which: str, predictor: Any, several_predictor: Any, tried: Any
) -> None:
    """Generated requests of every operation: no 5xx, documented statuses, media types and bodies."""
    served = predictor if which == "single" else several_predictor
    api = PredictionApi(served, HttpSettings(authentication="none"))
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(api))
    answered = set()

    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def try_one(case: Any) -> None:
            answer = case.call()
            # A request that gives itself too little time may be told so by 504, a status of the document.
            hurried = answer.status_code == 504 and "x-request-timeout-s" in _lower(case.headers)
            tried.status("HTTP requests, schemathesis", 408 if hurried else answer.status_code)
            case.validate_response(answer, checks=CHECKS[1:] if hurried else CHECKS)
            answered.add(answer.status_code)

        try_one()
    assert 200 in answered


def _lower(headers: Any) -> set[str]:
    return {name.lower() for name in headers or {}}


def test_every_code_is_in_the_document(single: Any) -> None:
    """Clients that are generated from the document know every code."""
    document = openapi_document(single)
    error = document["components"]["schemas"]["Error"]["properties"]["error"]
    assert set(error["properties"]["code"]["enum"]) == set(ERROR_CODES)
