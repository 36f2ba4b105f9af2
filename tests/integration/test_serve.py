"""The endpoint as its clients meet it, over HTTP; everything behind it is real."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.weights.version import version_path
from services.policy.client import query
from tests.integration.endpoint import STEPS, Running, bearer

pytestmark = pytest.mark.integration

QUESTION = "483920="
TOKENS = 12
IMAGE = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}]


@pytest.fixture
def following(endpoint: Running) -> Iterator[Running]:
    """An endpoint whose orders are taken back."""
    yield endpoint
    for order, body in [("follow", {}), *(("unpin", {"step": step}) for step in STEPS)]:
        endpoint.order(order, **body).raise_for_status()  # type: ignore[arg-type]


def greedy_ids(policies: Path, step: int) -> list[int]:
    """What plain transformers answers with a version's weights."""
    directory = version_path(policies, step)
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    prompt = torch.tensor([tokenizer.encode(QUESTION)])
    output = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=TOKENS, do_sample=False)
    ids: list[int] = output[0, prompt.shape[1] :].tolist()
    return ids


def greedy(policies: Path, step: int) -> str:
    """The same as text."""
    return str(AutoTokenizer.from_pretrained(version_path(policies, step)).decode(greedy_ids(policies, step), skip_special_tokens=True))


@pytest.mark.parametrize(("model", "step"), [("policy", 10), ("policy@best", 5), ("policy@step-0", 0), ("policy@step-10", 10)])
def test_a_name_gets_the_answer_of_its_versions_weights_and_the_answer_says_so(endpoint: Running, model: str, step: int) -> None:
    with endpoint.client() as client:
        ask = client.completions.with_raw_response.create
        raw = ask(model=model, prompt=QUESTION, max_tokens=TOKENS, temperature=0, extra_body={"return_token_ids": True})
    completion = raw.parse()
    (row,) = [row for row in endpoint.get("/v1/policies")["data"] if row["step"] == step]
    assert completion.choices[0].token_ids == greedy_ids(endpoint.policies, step)  # type: ignore[attr-defined]
    assert completion.model == f"policy@step-{step}"
    assert completion.system_fingerprint == f"gmpo-step-{step}-{row['weights'][:12]}"  # type: ignore[attr-defined]
    assert (raw.headers["x-gmpo-step"], raw.headers["x-gmpo-weights"]) == (str(step), row["weights"][:12])
    assert raw.headers["x-gmpo-age-steps"] == str(10 - step)
    assert 0 <= int(raw.headers["x-gmpo-age-seconds"]) < 3600


@pytest.mark.parametrize("chat", [True, False])
def test_a_stream_carries_the_version_and_adds_up_to_the_plain_answer(endpoint: Running, chat: bool) -> None:
    settings: Any = {"model": "policy", "max_tokens": TOKENS, "temperature": 0, "stream": True}
    with endpoint.client() as client:
        if chat:
            messages: Any = [{"role": "user", "content": QUESTION}]
            raw: Any = client.chat.completions.with_raw_response.create(messages=messages, **settings)
            chunks = list(raw.parse())
            pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        else:
            raw = client.completions.with_raw_response.create(prompt=QUESTION, **settings)
            chunks = list(raw.parse())
            pieces = [chunk.choices[0].text for chunk in chunks]
    assert raw.headers["x-gmpo-step"] == "10"
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == greedy(endpoint.policies, 10)
    assert {chunk.model for chunk in chunks} == {"policy@step-10"}
    assert chunks[-1].system_fingerprint.startswith("gmpo-step-10-")


def test_a_chat_that_names_no_length_has_the_room_of_the_context(endpoint: Running) -> None:
    body = {"model": "policy", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    response = httpx.post(f"{endpoint.url}/v1/chat/completions", json=body, headers=bearer(endpoint.query_key), timeout=120)
    usage = response.json()["usage"]
    assert response.status_code == 200 and usage["total_tokens"] <= 4096 < 5000  # the context; limits.max_tokens


def test_the_command_line_asks_with_a_key_and_is_told_without_one(endpoint: Running) -> None:
    answer = query(endpoint.url, QUESTION, key=endpoint.query_key, max_tokens=TOKENS)
    assert (answer.text, answer.model, answer.step) == (greedy(endpoint.policies, 10), "policy@step-10", 10)
    with pytest.raises(Exception, match="an API key is needed"):
        query(endpoint.url, QUESTION)


def test_the_models_are_the_names_that_answer(endpoint: Running) -> None:
    with endpoint.client() as client:
        names = {model.id for model in client.models.list()}
        assert names >= {"policy", "policy@best", *(f"policy@step-{step}" for step in STEPS)}
        for unknown in ("policy@step-7", "policy@step-010", "gpt-4o", "policy@"):
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                client.completions.create(model=unknown, prompt=QUESTION, max_tokens=1)


def test_orders_change_what_policy_means_without_a_restart(following: Running) -> None:
    def means() -> int:
        return query(following.url, QUESTION, key=following.query_key, max_tokens=1).step

    assert following.order("promote", step=5).json()["policy"] == 5
    assert means() == 5
    rolled = following.order("rollback").json()
    assert (rolled["policy"], rolled["following"], means()) == (0, False, 0)
    refused = following.order("rollback")
    assert refused.status_code == 404 and "no good version is older" in refused.json()["error"]["message"]
    pinned = following.order("pin", step=5).json()
    assert [row["step"] for row in pinned["data"] if row["pinned"]] == [5]
    assert following.order("pin", step=7).status_code == 404
    assert following.order("follow").json()["policy"] == 10
    assert means() == 10


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("completions", {"n": 10**6}, 400, "n: 1000000 answers"),
        ("completions", {"max_tokens": -1}, 400, "max_tokens"),
        ("completions", {"max_tokens": 6000}, 400, "max_tokens: 6000 is more than 5000"),
        ("completions", {"prompt": "1" * 5000, "max_tokens": 1}, 400, "context length"),
        ("completions", {"prompt": [300] * 4, "max_tokens": 1}, 400, "vocab"),
        ("completions", {"logprobs": 20}, 400, "logprobs"),
        ("completions", {"stop": ["a"] * 9}, 400, "stop"),
        ("completions", {"temperature": -1}, 400, "temperature"),
        ("completions", {"prompt_embeds": "AAAA"}, 400, "prompt_embeds"),
        ("chat/completions", {"chat_template": "{% for i in range(10**9) %}{% endfor %}"}, 400, "chat_template"),
        ("chat/completions", {"messages": [{"role": "user", "content": IMAGE}]}, 400, "only text"),
        ("completions", {"prompt": "x" * (1 << 20)}, 413, "at most 1048576 bytes"),
    ],
)  # fmt: skip
def test_what_a_client_may_not_ask_for_is_refused_in_openais_words(
    endpoint: Running, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    asked: dict[str, Any] = {"model": "policy"} | (
        {"prompt": QUESTION} if path == "completions" else {"messages": [{"role": "user", "content": "1="}]}
    )
    response = httpx.post(f"{endpoint.url}/v1/{path}", json=asked | body, headers=bearer(endpoint.query_key), timeout=60)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, status)
    assert said in error["message"] and {"message", "type", "param", "code"} == error.keys()


def test_broken_json_and_wrong_methods_are_told_as_such(endpoint: Running) -> None:
    headers = bearer(endpoint.query_key) | {"content-type": "application/json"}
    assert httpx.post(f"{endpoint.url}/v1/completions", content=b"{", headers=headers).status_code == 400
    assert httpx.get(f"{endpoint.url}/v1/completions", headers=headers).status_code == 405


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in ("/tokenize", "/invocations", "/inference/v1/generate", "/scale_elastic_ep", "/v1/responses")),
        *(("POST", path) for path in ("/pause", "/update_weights", "/collective_rpc", "/v1/load_lora_adapter", "/v1/embeddings")),
        ("GET", "/docs"),
        ("GET", "/server_info"),
    ],
)
def test_vllms_other_routes_do_not_exist(endpoint: Running, method: str, path: str) -> None:
    response = httpx.request(method, endpoint.url + path, json={} if method == "POST" else None, headers=bearer(endpoint.admin_key))
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "NotFoundError"


def test_a_client_that_leaves_ends_its_generation(endpoint: Running) -> None:
    body = {"model": "policy", "prompt": QUESTION, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{endpoint.url}/v1/completions", json=body, headers=bearer(endpoint.query_key)) as response:
        lines = response.iter_lines()  # dropping the iterator would close the stream
        next(lines)
        assert figure(endpoint, "gmpo_serve_running_requests") == 1
    deadline = time.monotonic() + 2  # the whole answer takes several times as long
    while figure(endpoint, "gmpo_serve_running_requests") and time.monotonic() < deadline:
        pass
    assert figure(endpoint, "gmpo_serve_running_requests") == 0


def test_requests_that_are_given_up_leave_nothing_behind(endpoint: Running) -> None:
    headers = bearer(endpoint.query_key) | {"x-request-timeout-seconds": "0.05"}
    for model in ("policy@step-0", "policy@step-5", "policy", "policy@step-0"):
        body = {"model": model, "prompt": QUESTION, "max_tokens": 4000, "ignore_eos": True, "n": 4}
        assert httpx.post(f"{endpoint.url}/v1/completions", json=body, headers=headers, timeout=60).status_code in {408, 499}
    deadline = time.monotonic() + 30
    while figure(endpoint, "gmpo_serve_running_requests") and time.monotonic() < deadline:
        pass
    assert figure(endpoint, "gmpo_serve_running_requests") == figure(endpoint, "gmpo_serve_waiting_requests") == 0
    for step in STEPS:  # no engine works on what nobody waits for, and none is lost when its version changes
        assert query(endpoint.url, QUESTION, key=endpoint.query_key, model=f"policy@step-{step}", max_tokens=1).step == step
    assert figure(endpoint, "gmpo_serve_refused_versions") == 0


def test_the_figures_are_there_from_the_start_and_say_what_policy_is(endpoint: Running) -> None:
    assert figure(endpoint, 'gmpo_serve_requests_total{status="503"}') >= 0
    assert figure(endpoint, "gmpo_serve_step") == 10
    assert figure(endpoint, 'gmpo_serve_evaluation{metric="eval/greedy"}') == 0.8
    assert httpx.get(f"{endpoint.url}/health").json()["status"] == "ok"


def figure(endpoint: Running, name: str) -> float:
    """One sample of the /metrics page."""
    page = httpx.get(f"{endpoint.url}/metrics", headers=bearer(endpoint.query_key)).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
    assert found, json.dumps(page)
    return float(found[1])
