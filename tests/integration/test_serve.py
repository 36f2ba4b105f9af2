"""The endpoint as a user meets it: one process started for a run, HTTP, Ctrl-C. Everything behind it is real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.weights.version import version_path, write_version
from services.policy.client import query
from tests.tiny_model import build_model, save_tokenizer

pytestmark = pytest.mark.integration

QUESTION = "483920="
SERVE = """
import sys
from pathlib import Path
from services.policy.config import ServeConfig
from services.policy.endpoint import serve_until_interrupted
serve_until_interrupted(Path(sys.argv[1]), ServeConfig(port=0), lambda endpoint: print(endpoint.url, flush=True))
"""


@dataclass(frozen=True, slots=True)
class Served:
    """An endpoint whose run has a good version 3 and a newer, truncated version 5."""

    url: str
    policies: Path
    process: subprocess.Popen[str]
    ready_s: float


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("serve")
    policies = root / "run" / "policies"
    tokenizer_dir = save_tokenizer(root / "tokenizer")
    for step in (3, 5):
        model = build_model(seed=step)
        write_version(
            version_path(policies, step),
            state_dict=model.state_dict(),
            model_config=model.config,
            tokenizer_dir=tokenizer_dir,
            step=step,
            parent=None,
            run="run",
        )
    with (version_path(policies, 5) / "model.safetensors").open("r+b") as weights:
        weights.truncate(100_000)

    started = time.monotonic()
    command = [sys.executable, "-c", SERVE, str(policies.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"RAY_ADDRESS": "local"}) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            yield Served(url, policies, process, time.monotonic() - started)
        finally:
            process.send_signal(signal.SIGINT)


def health(served: Served) -> dict[str, Any]:
    body: dict[str, Any] = httpx.get(f"{served.url}/health").raise_for_status().json()
    return body


def greedy(served: Served, tokens: int) -> str:
    """What plain transformers answers with the served weights."""
    directory = version_path(served.policies, 3)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    prompt = torch.tensor([tokenizer.encode(QUESTION)])
    output = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, do_sample=False)
    return str(tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True))


def test_the_newest_good_version_is_served_and_the_bad_one_named(served: Served) -> None:
    assert served.url.startswith("http://127.0.0.1:")
    body = health(served)
    assert (body["status"], body["step"], [refusal["step"] for refusal in body["refused"]]) == ("ok", 3, [5])
    assert "model.safetensors: 100000 bytes" in body["refused"][0]["reason"]


def test_a_question_gets_the_answer_of_the_served_weights(served: Served) -> None:
    answer = query(served.url, QUESTION, max_tokens=12)
    assert answer.text == greedy(served, 12)
    assert (answer.model, answer.step) == ("policy@step-3", 3)
    assert health(served)["weights"].startswith(answer.weights)


def test_both_model_names_are_listed_and_no_other_is_known(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        assert {model.id for model in client.models.list()} == {"policy", "policy@step-3"}
        client.completions.create(model="policy@step-3", prompt=QUESTION, max_tokens=1)
        with pytest.raises(openai.NotFoundError, match=r"policy@step-5"):
            client.completions.create(model="policy@step-5", prompt=QUESTION, max_tokens=1)


@pytest.mark.parametrize("chat", [True, False])
def test_a_stream_carries_the_version_and_adds_up_to_the_plain_answer(served: Served, chat: bool) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        pieces: list[str] = []
        if chat:
            messages: Any = [{"role": "user", "content": QUESTION}]
            raw = client.chat.completions.with_raw_response.create(
                model="policy", messages=messages, max_tokens=12, temperature=0, stream=True
            )
            pieces += [chunk.choices[0].delta.content or "" for chunk in raw.parse()]
        else:
            raw_text = client.completions.with_raw_response.create(
                model="policy", prompt=QUESTION, max_tokens=12, temperature=0, stream=True
            )
            pieces += [chunk.choices[0].text for chunk in raw_text.parse()]
            raw = raw_text  # type: ignore[assignment]
    assert raw.headers["x-gmpo-step"] == "3"
    assert int(raw.headers["x-gmpo-age-seconds"]) < 600
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == greedy(served, 12)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/tokenize"),
        ("POST", "/invocations"),
        ("POST", "/inference/v1/generate"),
        ("POST", "/scale_elastic_ep"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("POST", "/v1/responses"),
    ],
)
def test_vllms_other_routes_do_not_exist(served: Served, method: str, path: str) -> None:
    response = httpx.request(method, served.url + path, json={} if method == "POST" else None)
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "NotFoundError"


def test_bad_requests_get_openais_error_and_the_endpoint_lives_on(served: Served) -> None:
    body = {"model": "policy", "prompt": QUESTION, "max_tokens": -1}
    response = httpx.post(f"{served.url}/v1/completions", json=body)
    assert response.status_code == 400
    assert "max_tokens" in json.dumps(response.json()["error"])
    assert httpx.post(f"{served.url}/v1/completions", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert query(served.url, QUESTION, max_tokens=1).step == 3


def test_a_client_that_leaves_ends_its_generation(served: Served) -> None:
    body = {"model": "policy", "prompt": QUESTION, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{served.url}/v1/completions", json=body) as response:
        lines = response.iter_lines()  # dropping the iterator would close the stream
        next(lines)
        assert health(served)["running"] == 1
    deadline = time.monotonic() + 2  # the whole answer takes several times as long
    while health(served)["running"] and time.monotonic() < deadline:
        pass
    assert health(served)["running"] == 0


def test_one_ctrl_c_ends_it_and_leaves_no_process(served: Served) -> None:
    engine = health(served)["pids"]
    tree = psutil.Process(served.process.pid).children(recursive=True)
    assert engine and set(engine) <= {process.pid for process in tree}
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(tree, timeout=5)
    assert alive == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{served.url}/health")
