"""The reward pool with its real children: right answers, bombs, misbehaving functions, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors.errors import ConfigError, VerifierError
from actors.reward.answers import canonical, gold_texts
from actors.reward.config import FunctionPart, RewardConfig
from actors.reward.pool import Verifier
from actors.types import GroupMeta, Outcome, RolloutGroup, Verdict
from tests.integration.verifiers import HANGING, NESTED, Started, children, group, outcomes, rollout, verifiers

pytestmark = pytest.mark.integration

BOMBS = (*HANGING, *NESTED)


def misbehaving(**settings: Any) -> RewardConfig:
    part = FunctionPart(type="function", path="tests.integration.reward_functions:misbehave")
    return RewardConfig.model_validate({"parts": [part], "cpu_limit_s": 0.5, "wall_limit_s": 20, "memory_bytes": 1 << 28, **settings})


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
async def start() -> AsyncIterator[Started]:
    """Start verifiers; no process of theirs is left after the test."""
    async with verifiers() as start:
        yield start


@pytest.fixture
def eval_data() -> Path:
    default = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("GMPO_SHARED_DATA", default)) / "eval"
    if not folder.is_dir():
        pytest.skip(f"no real problems at {folder}: set GMPO_SHARED_DATA to a folder with train/ and eval/")
    return folder


async def test_a_group_comes_back_with_verdicts(start: Started) -> None:
    verifier = await start(("math",))
    given = RolloutGroup(
        group("math", "5", []).prompt,
        (rollout(r"it is \boxed{5}"), rollout(r"\boxed{\frac{10}{2}}"), rollout("no idea", "length"), rollout(r"it is \boxed{6}")),
    )
    meta, verified = await verifier.verify(given)
    assert verified.verdicts == (
        Verdict(1.0, Outcome.RIGHT, "5", {"verifier": 1.0}),
        Verdict(1.0, Outcome.RIGHT, r"\frac{10}{2}", {"verifier": 1.0}),
        Verdict(0.0, Outcome.UNPARSEABLE, None, {"verifier": 0.0}),
        Verdict(0.0, Outcome.WRONG, "6", {"verifier": 0.0}),
    )
    assert verified.rollouts == given.rollouts and verified.prompt is given.prompt
    assert (meta.ordinal, meta.versions, meta.lengths, meta.truncated) == (7, (3, 4), (3, 1, 2, 3), 1)
    assert (meta.scores, meta.parts) == ((1.0, 1.0, 0.0, 0.0), {"verifier": 0.5})
    assert meta.outcomes == tuple(verdict.outcome for verdict in verified.verdicts)


@pytest.mark.parametrize("suite", ["math500", "aime24", "amc"])
async def test_gold_answers_are_right_and_the_next_rows_are_wrong(start: Started, eval_data: Path, suite: str) -> None:
    verifier = await start(("math",))
    golds = [json.loads(line)["answer"] for line in (eval_data / f"{suite}.jsonl").read_text().splitlines()]
    texts = [gold_texts(gold)[0] for gold in golds]
    following = [*texts[1:], texts[0]]
    both = [
        group("math", gold, [rf"\boxed{{{own}}}", rf"\boxed{{{next_}}}"]) for gold, own, next_ in zip(golds, texts, following, strict=True)
    ]
    metas = [meta for meta, _ in await asyncio.gather(*map(verifier.verify, both))]
    right = [meta.outcomes[0] is Outcome.RIGHT for meta in metas]
    pairs = zip(metas, texts, following, strict=True)
    wrong = [meta.outcomes[1] is Outcome.WRONG for meta, own, next_ in pairs if canonical(own) != canonical(next_)]
    assert sum(right) >= 0.99 * len(right)
    assert sum(wrong) >= 0.99 * len(wrong)


async def test_latex_bombs_end_and_the_slots_come_back(start: Started) -> None:
    verifier = await start(("math",), RewardConfig(cpu_limit_s=0.7))
    good = [rf"\boxed{{{5 * n}/{n}}}" for n in range(1, 12)]
    mixed = [text for pair in zip(good, BOMBS * 2, strict=False) for text in pair] + good[-1:]
    seen = dict(zip(mixed, await outcomes(verifier, mixed), strict=True))
    assert [seen[bomb] for bomb in BOMBS] == [Outcome.TIMEOUT] * 3 + [Outcome.UNPARSEABLE] * 2
    assert {seen[text] for text in good} == {Outcome.RIGHT}
    assert await outcomes(verifier, good) == [Outcome.RIGHT] * len(good)
    await verifier.ready()
    assert len(children()) == 2


async def test_misbehaving_functions_are_faults_and_never_wrong(start: Started) -> None:
    verifier = await start(config=misbehaving())
    expected = {
        "spin": Outcome.TIMEOUT,
        "flood": Outcome.TIMEOUT,
        "hog": Outcome.OOM,
        "hog and hide it": Outcome.OOM,
        "vanish": Outcome.CRASH,
        "leave": Outcome.CRASH,
        "abort": Outcome.CRASH,
        "raise": Outcome.CRASH,
        "print": Outcome.RIGHT,
        "fine": Outcome.RIGHT,
    }
    assert dict(zip(expected, await outcomes(verifier, list(expected)), strict=True)) == expected


async def test_waiting_costs_no_cpu_so_the_wall_clock_ends_it(start: Started) -> None:
    verifier = await start(config=misbehaving(wall_limit_s=0.5))
    assert await outcomes(verifier, ["sleep", "fine"]) == [Outcome.TIMEOUT, Outcome.RIGHT]


async def test_the_deadline_takes_the_whole_process_group(start: Started, tmp_path: Path) -> None:
    verifier = await start(config=misbehaving(workers=1))
    trace = tmp_path / "pid"
    assert await outcomes(verifier, ["fork and spin"], answer=str(trace)) == [Outcome.TIMEOUT]
    async with asyncio.timeout(10):  # the kernel ends the group's other members in its own time
        while alive(int(trace.read_text())):
            await asyncio.sleep(0.01)


async def test_a_stopped_child_is_not_blamed_before_the_backstop(start: Started) -> None:
    """A machine so loaded that a child does not run for longer than its CPU limit masks nothing."""
    verifier = await start(config=misbehaving(workers=1))
    (child,) = children()
    child.suspend()
    verifying = asyncio.create_task(outcomes(verifier, ["fine"]))
    await asyncio.wait([verifying], timeout=1.0)  # twice the CPU limit
    assert not verifying.done()
    child.resume()
    assert await verifying == [Outcome.RIGHT]


async def test_children_see_no_secrets(start: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("JUDGE_URL", "http://judge")
    verifier = await start(config=misbehaving(environment=["JUDGE_URL"]))
    await outcomes(verifier, ["environment"], answer=str(tmp_path / "seen"))
    seen = (tmp_path / "seen").read_text().splitlines()
    assert "JUDGE_URL" in seen and "WANDB_API_KEY" not in seen


async def test_any_text_passes_the_protocol(start: Started) -> None:
    part = FunctionPart(type="function", path="tests.integration.reward_functions:echo")
    verifier = await start(config=RewardConfig(parts=(part,), max_response_chars=2_000_000))
    for text in ("\ud800", "a\x00b", "\n\r\u2028\x1b[31m", '{"score": 1}', "é" * 2_000_000, ""):
        assert await outcomes(verifier, [text], answer=text) == [Outcome.RIGHT]


async def test_any_extracted_answer_passes_the_protocol(start: Started) -> None:
    verifier = await start()
    _, verified = await verifier.verify(group("exact", "x", ["\ud800\x00\n!"]))
    assert verified.verdicts == (Verdict(0.0, Outcome.WRONG, "\ud800\x00\n!", {"verifier": 0.0}),)


async def test_equal_responses_are_graded_once(start: Started, tmp_path: Path) -> None:
    verifier = await start(config=misbehaving())
    assert await outcomes(verifier, ["count"] * 16, answer=str(tmp_path / "calls")) == [Outcome.RIGHT] * 16
    assert (tmp_path / "calls").read_text() == "called\n"


async def test_256_cheap_responses_take_well_under_a_second(start: Started) -> None:
    verifier = await start()
    groups = [group("digits/reverse", "0", [str(n) for n in range(16)]) for _ in range(16)]
    began = time.monotonic()
    await asyncio.gather(*map(verifier.verify, groups))
    assert time.monotonic() - began < 0.5  # 0.02 s on two idle cores


async def test_cancelling_frees_the_child(start: Started) -> None:
    verifier = await start(config=misbehaving(workers=1, cpu_limit_s=20))
    verifying = asyncio.create_task(outcomes(verifier, ["spin"]))
    await asyncio.wait([verifying], timeout=0.1)
    verifying.cancel()
    assert await outcomes(verifier, ["fine"]) == [Outcome.RIGHT]


async def test_closing_ends_running_calls_and_children(start: Started) -> None:
    verifier = await start(config=misbehaving(workers=1, cpu_limit_s=20))
    running = [asyncio.create_task(outcomes(verifier, ["spin", "fine"])) for _ in range(3)]
    await asyncio.wait(running, timeout=0.1)
    await verifier.close()
    assert children() == []
    assert all(isinstance(ended, VerifierError) for ended in await asyncio.gather(*running, return_exceptions=True))
    with pytest.raises(VerifierError, match="closed"):
        await outcomes(verifier, ["fine"])


async def test_a_part_that_cannot_be_loaded_is_a_config_error() -> None:
    verifier = Verifier(RewardConfig(parts=(FunctionPart(type="function", path="no_such_module_here:f"),)))
    with pytest.raises(ConfigError, match="no_such_module_here"):
        await verifier.ready()
    with pytest.raises(ConfigError, match="no_such_module_here"):
        await outcomes(verifier, ["fine"])
    await verifier.close()
    assert children() == []


def test_children_die_with_their_parent() -> None:
    """Even a busy one, whose parent was killed and could tell it nothing."""
    script = (
        "import asyncio; from actors.reward.pool import Verifier\n"
        "from tests.integration.test_reward_pool import misbehaving, outcomes\n"
        "async def main():\n"
        "    verifier = Verifier(misbehaving(workers=1, cpu_limit_s=60, wall_limit_s=60)); await verifier.ready()\n"
        "    print('ready', flush=True); await outcomes(verifier, ['spin'])\n"
        "asyncio.run(main())"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "ready\n"
        (child,) = children(parent.pid)
        parent.kill()
    child.wait(timeout=10)


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def test_it_runs_as_an_async_actor(cluster: None) -> None:
    """Ray's actors have an event loop of another kind, in another thread than the constructor's."""
    remote: Any = ray.remote(num_cpus=0)(Verifier)
    actor = remote.remote(RewardConfig(workers=1))
    groups = [group("math", "2k+2", [rf"\boxed{{{given}}}" for given in ("2(k+1)", "2k", *range(8))]) for _ in range(4)]
    refs = [actor.verify.options(num_returns=2).remote(each) for each in groups]
    metas: list[GroupMeta] = ray.get([meta for meta, _ in refs], timeout=60)
    assert [meta.outcomes[:2] for meta in metas] == [(Outcome.RIGHT, Outcome.WRONG)] * 4
    assert ray.get(refs[0][1], timeout=60).verdicts[0].outcome is Outcome.RIGHT
    ray.get(actor.close.remote(), timeout=60)
