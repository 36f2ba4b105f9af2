"""What the endpoint promises while things go wrong: processes die, versions are bad, everybody comes at once. All of it is real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.weights.version import version_path, write_version
from services.bench.load import Answer, Body, closed_loop
from tests.integration.endpoint import STEPS, Running, add_version, make_run, serving
from tests.tiny_model import build_model, save_tokenizer

pytestmark = pytest.mark.integration

PROMPT = [52, 56, 51, 57]
TOKENS = 8
CLIENTS = 4
PATIENCE_S = 120
BUSY = {"max_running": 8, "max_waiting": 8, "limits": {"running_per_key": 10_000}}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two replicas with one engine each, which must drain it to change its version."""
    run_dir = make_run(tmp_path_factory.mktemp("pair") / "run")
    with serving(run_dir, replicas=2, resident=1, wait_s=60, **BUSY) as running:
        yield running


class Truth:
    """What each version says greedily, computed by plain transformers from its files."""

    def __init__(self, policies: Path) -> None:
        self._policies, self._said = policies, dict[int, list[int]]()

    def of(self, step: int) -> list[int]:
        if step not in self._said:
            model = AutoModelForCausalLM.from_pretrained(version_path(self._policies, step))
            prompt = torch.tensor([PROMPT])
            settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
            output = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
            self._said[step] = output[0, len(PROMPT) :].tolist()
        return self._said[step]


def greedy(model: str = "policy", *, tokens: int = TOKENS) -> Body:
    return {"model": model, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "min_tokens": tokens, "return_token_ids": True}


def load_until(running: Running, over: Callable[[], bool], body: Body | None = None) -> asyncio.Task[list[Answer]]:
    """A constant load on the endpoint, until something has happened."""

    def requests() -> Iterator[Body]:
        while not over():
            yield body or greedy()

    return asyncio.create_task(closed_loop(running.url, requests(), clients=CLIENTS, key=running.query_key))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


def all_answer(running: Running, step: int) -> bool:
    """Whether twenty answers in a row come from a version: both replicas have it."""
    with httpx.Client() as client:
        return all(client.get(f"{running.url}/health").json().get("step") == step for _ in range(20))


def check_truth(answers: list[Answer], truth: Truth) -> None:
    """No answer claims another version than the one whose weights gave it."""
    for answer in answers:
        if answer.error is None:
            assert answer.step is not None
            assert (answer.model, list(answer.token_ids)) == (f"policy@step-{answer.step}", truth.of(answer.step))


async def test_ten_promotions_under_load_fail_nobody_and_no_answer_lies(endpoint: Running) -> None:
    done = False
    load = load_until(endpoint, lambda: done)
    for step in [*STEPS, *STEPS, *STEPS, STEPS[0]]:
        assert (await asyncio.to_thread(endpoint.order, "promote", step=step)).json()["policy"] == step
    done = True
    answers = await load
    endpoint.order("follow").raise_for_status()
    assert [answer.error for answer in answers if answer.error] == []
    assert {answer.step for answer in answers} == set(STEPS)
    check_truth(answers, Truth(endpoint.policies))


async def test_versions_that_appear_under_load_are_taken_over_by_every_replica_in_place(pair: Running) -> None:
    before = processes(pair, "ray::ServeReplica")
    done = False
    load = load_until(pair, lambda: done)
    for step in (11, 12, 13):
        add_version(pair.run_dir, step)
        await until(lambda: all_answer(pair, step))  # noqa: B023 - awaited before the step changes
    done = True
    answers = await load
    assert [answer.error for answer in answers if answer.error] == []
    check_truth(answers, Truth(pair.policies))
    assert processes(pair, "ray::ServeReplica") == before


def truncated(directory: Path) -> None:
    with (directory / "model.safetensors").open("r+b") as weights:
        weights.truncate(100_000)


@pytest.mark.parametrize("fault", ["truncated", "nan", "wrong shape", "wrong tokenizer"])
async def test_a_bad_version_is_refused_by_name_and_the_old_one_answers_on(endpoint: Running, fault: str) -> None:
    before = endpoint.get("/v1/policies")["policy"]
    directory = bad_version(endpoint.run_dir, fault)
    try:
        said = {"truncated": "100000 bytes", "nan": "not finite", "wrong shape": "model.norm.weight is", "wrong tokenizer": "tokenizer"}[
            fault
        ]
        await until(lambda: said in (row(endpoint, 99).get("refused") or ""))
        answers = await closed_loop(endpoint.url, [greedy()] * 4, clients=2, key=endpoint.query_key)
        assert {answer.step for answer in answers} == {before}
        check_truth(answers, Truth(endpoint.policies))
        (asked,) = await closed_loop(endpoint.url, [greedy("policy@step-99")], clients=1, key=endpoint.query_key)
        assert asked.status == 404 and said in (asked.error or "")
        assert endpoint.order("promote", step=99).status_code == 404
        assert endpoint.get("/v1/policies")["policy"] == before
    finally:
        shutil.rmtree(directory)
        await until(lambda: not row(endpoint, 99))


def row(running: Running, step: int) -> dict[str, Any]:
    return next((row for row in running.get("/v1/policies")["data"] if row["step"] == step), {})


def bad_version(run_dir: Path, fault: str) -> Path:
    """A version 99 that no engine may load, committed as the learner commits a good one."""
    directory = version_path(run_dir / "policies", 99)
    model, tokenizer = build_model(seed=9), run_dir / "tokenizer"
    state = dict(model.state_dict())
    match fault:
        case "nan":
            state["model.norm.weight"] = torch.full_like(state["model.norm.weight"], float("nan"))
        case "wrong shape":
            state["model.norm.weight"] = torch.ones(len(state["model.norm.weight"]) + 1)
        case "wrong tokenizer":
            tokenizer = save_tokenizer(run_dir / "other-tokenizer")
            config = json.loads((tokenizer / "tokenizer.json").read_text())
            config["model"]["vocab"] |= {"a": config["model"]["vocab"]["b"], "b": config["model"]["vocab"]["a"]}
            (tokenizer / "tokenizer.json").write_text(json.dumps(config))
    write_version(directory, state_dict=state, model_config=model.config, tokenizer_dir=tokenizer, step=99, parent=None, run="run")
    if fault == "truncated":
        truncated(directory)
    return directory


def processes(running: Running, title: str) -> set[int]:
    """The endpoint's processes whose command line begins so."""
    found = set()
    for process in psutil.Process(running.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith(title):
                found.add(process.pid)
    return found


async def test_a_replica_killed_under_load_takes_only_what_it_was_answering_with_it(pair: Running) -> None:
    newest = pair.get("/v1/policies")["data"][-1]["step"]
    replicas = processes(pair, "ray::ServeReplica")
    done = False
    load = load_until(pair, lambda: done)
    psutil.Process(min(replicas)).kill()
    await until(lambda: len(processes(pair, "ray::ServeReplica") - {min(replicas)}) == 2 and all_answer(pair, newest))
    done = True
    answers = await load
    failed = [answer for answer in answers if answer.error]
    assert len(failed) <= CLIENTS, [answer.error for answer in failed]
    assert {answer.status for answer in failed} <= {0, 500, 502, 503}
    assert len(answers) - len(failed) > CLIENTS
    check_truth(answers, Truth(pair.policies))


async def test_an_engine_killed_in_the_middle_of_a_swap_comes_back_and_the_label_never_lies(pair: Running) -> None:
    engines = processes(pair, "VLLM::EngineCore")
    done = False
    load = load_until(pair, lambda: done, greedy(tokens=TOKENS))
    add_version(pair.run_dir, 21)
    await until(lambda: httpx.get(f"{pair.url}/health").json().get("step") == 21)
    psutil.Process(max(engines)).send_signal(signal.SIGKILL)  # while the other replica takes the version over
    await until(lambda: len(processes(pair, "VLLM::EngineCore") - {max(engines)}) == 2 and all_answer(pair, 21))
    done = True
    answers = await load
    assert {answer.status for answer in answers if answer.error} <= {0, 500, 503}
    check_truth(answers, Truth(pair.policies))
    assert answers[-1].step == 21


async def test_ten_times_too_many_requests_are_refused_at_once_and_memory_stays_bounded(pair: Running) -> None:
    def memory() -> int:
        return sum(
            psutil.Process(pid).memory_info().rss for pid in processes(pair, "ray::ServeReplica") | processes(pair, "VLLM::EngineCore")
        )

    capacity = 2 * (8 + 8)
    flood = partial(closed_loop, pair.url, [greedy(tokens=200)] * (30 * capacity), clients=10 * capacity, key=pair.query_key)
    await flood()  # what full slots take for the first time they keep
    before = memory()
    answers = await flood()
    served = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status != 200]
    assert {answer.status for answer in refused} == {503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert len(served) >= capacity // 2 and all(answer.error is None for answer in served)  # at least what one replica takes
    assert median(refused) < median(served)
    assert memory() - before < 100 << 20
    (calm,) = await closed_loop(pair.url, [greedy()], clients=1, key=pair.query_key)
    assert calm.error is None


def median(answers: list[Answer]) -> float:
    return sorted(answer.seconds for answer in answers)[len(answers) // 2]


async def test_one_ctrl_c_ends_it_and_leaves_no_process(pair: Running) -> None:
    tree = psutil.Process(pair.process.pid).children(recursive=True)
    assert len(tree) > 4
    pair.process.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(pair.process.wait, 60) == 0
    _, alive = psutil.wait_procs(tree, timeout=10)
    assert alive == []
