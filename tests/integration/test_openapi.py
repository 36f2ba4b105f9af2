"""Requests that nobody would write, made up from the endpoint's own OpenAPI description: none of them may make it fail."""

from __future__ import annotations

from collections import Counter
from itertools import cycle
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.integration.endpoint import Running, bearer

pytestmark = pytest.mark.integration

EXAMPLES = 25
"""Requests made up for each route."""
LONGEST = 8
"""Tokens of an answer: the engine has others to serve."""


def test_no_request_makes_the_endpoint_fail(endpoint: Running) -> None:
    headers = bearer(endpoint.query_key)
    described = schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json", headers=headers)
    statuses: Counter[tuple[str, int]] = Counter()

    sane = cycle((True, False))

    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and "model" in case.body:
            case.body |= {"model": "policy"} | ({"max_completion_tokens": LONGEST} if "messages" in case.body else {"max_tokens": LONGEST})
            if "prompt" in case.body and next(sane):
                case.body["prompt"] = "483920="  # so that the other fields come into play
        response = case.call(headers=headers, timeout=120)
        statuses[case.path, response.status_code] += 1
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert {"message", "type", "param", "code"} == response.json()["error"].keys()

    operations = [result.ok() for result in described.get_all_operations()]
    for operation in operations:
        check = given(case=operation.as_strategy())(ask)
        phases = (Phase.explicit, Phase.generate)
        settings(max_examples=EXAMPLES, deadline=None, derandomize=True, phases=phases, suppress_health_check=list(HealthCheck))(check)()
    assert {path for path, _ in statuses} == {operation.path for operation in operations}
    assert statuses["/v1/completions", 200] and statuses["/v1/chat/completions", 200], statuses
