from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from actors.errors import UsageError
from services.policy.client import query

COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 0,
    "model": "policy@step-7",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "029384"}}],
}


class FakeEndpoint(BaseHTTPRequestHandler):
    """Answers `policy` as our endpoint does, `other` as any OpenAI server does, and knows no further model."""

    asked: list[dict[str, object]]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).asked.append(request | {"authorization": self.headers["authorization"]})
        known = request["model"] in ("policy", "other")
        self.send_response(200 if known else 404)
        if request["model"] == "policy":
            self.send_header("x-gmpo-step", "7")
            self.send_header("x-gmpo-weights", "abc")
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(COMPLETION if known else {"error": {"message": "no such model"}}).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


@pytest.fixture
def url() -> Iterator[str]:
    FakeEndpoint.asked = []
    with HTTPServer(("127.0.0.1", 0), FakeEndpoint) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_answer_says_which_policy_gave_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-for-someone-else")
    answer = query(f"{url}/", "483920=", max_tokens=9)
    assert (answer.text, answer.model, answer.step, answer.weights) == ("029384", "policy@step-7", 7, "abc")
    assert answer.seconds > 0
    (asked,) = FakeEndpoint.asked
    assert asked["messages"] == [{"role": "user", "content": "483920="}]
    assert (asked["max_tokens"], asked["temperature"]) == (9, 0.0)
    assert "secret" not in str(asked["authorization"])


@pytest.mark.parametrize(("model", "complaint"), [("policy@step-99", "no such model"), ("other", "not a gmpo endpoint")])
def test_what_cannot_be_answered_is_the_users_to_mend(url: str, model: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        query(url, "1=", model=model)


def test_nobody_listening_is_said_with_the_url() -> None:
    with pytest.raises(UsageError, match=r"http://127\.0\.0\.1:9: no answer"):
        query("http://127.0.0.1:9", "1=")
