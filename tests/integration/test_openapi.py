"""Requests that nobody would write, made up from the endpoint's own OpenAPI description: none of them may make it fail."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from tests.integration.endpoint import Running, bearer

pytestmark = pytest.mark.integration

schema = schemathesis.pytest.from_fixture("described")
LONGEST = 8
"""Tokens of an answer, where the request does not say."""


@pytest.fixture
def described(endpoint: Running) -> Any:
    return schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json", headers=bearer(endpoint.query_key))


@schema.parametrize()
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_no_request_makes_the_endpoint_fail(case: Any, endpoint: Running) -> None:
    if isinstance(case.body, dict) and case.path == "/v1/chat/completions":
        case.body.setdefault("max_completion_tokens", LONGEST)
    response = case.call(headers=bearer(endpoint.query_key), timeout=120)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert {"message", "type", "param", "code"} == response.json()["error"].keys()
