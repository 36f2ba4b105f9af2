"""Requests that nobody would write, made up from the endpoint's own OpenAPI description: none of them may make it fail."""

from __future__ import annotations

from collections import Counter
from itertools import count
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
LENGTHS = ("max_tokens", "max_completion_tokens")


def test_no_request_makes_the_endpoint_fail(endpoint: Running) -> None:
    headers = bearer(endpoint.query_key)
    described = schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json", headers=headers)
    statuses: Counter[tuple[str, int]] = Counter()

    turn = count()

    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and "model" in case.body:
            question = {"messages": [{"role": "user", "content": "483920="}]} if "messages" in case.body else {"prompt": "483920="}
            made_up = sorted(case.body.keys() - {"model", *question, *LENGTHS})
            if (at := next(turn)) % 2 and made_up:  # a sane question with one made-up field, so that the field comes into play
                field = made_up[at % len(made_up)]
                case.body = question | {field: case.body[field]}
            case.body |= {"model": "policy"} | dict.fromkeys(LENGTHS if "messages" in case.body else LENGTHS[:1], LONGEST)
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
