"""Suites with real verifiers, and put to a real endpoint of a tiny random policy."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from actors.errors import PolicyVersionError, UsageError
from actors.generation.spec import Sampling
from actors.reward.answers import canonical, gold_texts
from actors.reward.config import RewardConfig
from actors.reward.pool import Verifier
from actors.types import Outcome, Prompt, Rollout, Span
from actors.weights.version import version_path
from services.config import Recipe, dump, parse_recipe
from services.evaluation import commands
from services.evaluation.answers import AnswerLog, Header
from services.evaluation.ask import Asker, Pinned
from services.evaluation.config import LiveEvaluationConfig
from services.evaluation.evaluate import Place, answer, evaluate, summed_up
from services.evaluation.exam import Exam, open_exam
from services.evaluation.results import Result, metrics_of, read_results, result_path
from services.evaluation.suites import load_suite
from services.evaluation.watch import watch
from tests.integration.endpoint import Running
from tests.tiny_model import build_config, save_tokenizer

pytestmark = pytest.mark.integration

PINNED = Pinned(1, "w" * 12)
RECIPE = {
    "run": {"name": "a-run", "steps": 12, "prompts_per_step": 4},
    "prompts": {"source": {"type": "digits", "task": "reverse", "digits": 6}, "max_tokens": 32, "held_out": 16},
    "generation": {"max_tokens": 8, "group_size": 4},
    "learner": {"updates_per_step": 2},
}
MINERVA = (
    ["4.5e33\n"],
    ["1.6 \\times 10^{-19}"],
    ["9.3e-4"],
    ["\\frac{1}{2} m v^{2}"],
    ["x_{0} \\cos (\\omega t)+\\dot{x}_{0} \\sin (\\omega t) / \\omega"],
    ["m(s X(s)-x_{0})"],
    ["3e8"],
)
OLYMPIAD = (
    ["2", "-1"],
    ["$\\frac{3}{4}$\n"],
    ["3 \\sqrt{2} \\mathrm{~cm}"],
    ["$(1,2),(2,1)$"],
    ["$10^{\\circ}$"],
    ["$[0,1)$"],
    ["\\frac{n(n+1)}{2}"],
)
"""Shapes of gold answers that the two sets hold: lists, line ends, units, several values, numbers as programs write them."""

SETS = json.dumps({name: {"task": "math", "source": {"type": "file", "path": f"{name}.jsonl"}} for name in ("aime24", "amc", "math500")})


class Speaker:
    """A policy that knows what to say to each row."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.answers = answers

    async def ask(self, version: Pinned, prompt: Sequence[int], sampling: Sampling, seed: str) -> tuple[Rollout, ...]:
        text = f"Half of it was \\boxed{{0.123}}, so all of it is \\boxed{{{self.answers[seed.split('/', 2)[2]]}}}."
        return (Rollout(np.zeros(3, np.int32), np.zeros(3, np.float32), np.ones(3, np.bool_), (Span(1, 0, 3),), "stop", text),)


@pytest.fixture(scope="module")
def eval_data() -> Path:
    folder = Path(os.environ.get("GMPO_EVAL_DATA", Path(__file__).parents[2].parent / "shared" / "data" / "eval"))
    if not folder.is_dir():
        pytest.skip(f"no real problems at {folder}: set GMPO_EVAL_DATA to a folder with aime24.jsonl and its like")
    return folder


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse_recipe(RECIPE)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = save_tokenizer(tmp_path_factory.mktemp("version"))
    build_config().save_pretrained(directory)
    return directory


@pytest.fixture
async def verifier() -> AsyncIterator[Verifier]:
    """As every named suite has it."""
    found = Verifier(RewardConfig())
    yield found
    await found.close()


@pytest.fixture
def paper_shapes(tmp_path: Path) -> Path:
    """A folder with rows as Minerva and OlympiadBench have them."""
    for name, golds in (("minerva", MINERVA), ("olympiadbench", OLYMPIAD)):
        rows = [json.dumps({"problem": f"Question {number}", "answer": gold}) for number, gold in enumerate(golds)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    suite = "template: qwen_math\nreward: {}\nmax_tokens: 3000\nsets:\n"
    suite += "".join(f"  {name}: {{task: math, source: {{type: file, path: {name}.jsonl}}}}\n" for name in ("minerva", "olympiadbench"))
    (tmp_path / "shapes.yaml").write_text(suite)
    return tmp_path


@pytest.fixture
def run_dir(endpoint: Running, tmp_path: Path) -> Path:
    """The endpoint's run as one that has a recipe; its evaluations are this test's alone."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "policies").symlink_to(endpoint.policies)
    (run / "config.yaml").write_text(dump(parse_recipe(RECIPE)))
    return run


async def examined(exam: Exam, verifier: Verifier, answers: Mapping[str, str], path: Path) -> tuple[Result, AnswerLog]:
    """The result of a policy that says these answers."""
    header = Header(exam.suite.name, exam.digest, 1, "w")
    with AnswerLog(path, header) as log:
        await answer(exam, PINNED, Speaker(answers), verifier, log, concurrency=8, notify=lambda text: None)
    return summed_up(exam, header, log), log


def golds_of(exam: Exam) -> list[tuple[Prompt, str]]:
    """Each prompt with its first gold answer, as a policy would write it."""
    prompts = [prompt for chosen in exam.sets.values() for prompt in chosen.prompts]
    return [(prompt, gold_texts(prompt.answer)[0].rpartition("####")[2].strip()) for prompt in prompts]


@pytest.mark.parametrize("suite", ["math500", "aime24", "amc", "gsm8k"])
async def test_gold_answers_are_all_right_and_shuffled_ones_only_where_they_are_the_same(
    suite: str, verifier: Verifier, recipe: Recipe, version: Path, eval_data: Path, tmp_path: Path
) -> None:
    exam = open_exam(load_suite(suite), recipe, version, eval_data)
    golds = golds_of(exam)
    result, _ = await examined(exam, verifier, {prompt.row: gold for prompt, gold in golds}, tmp_path / "gold.jsonl")
    assert (result.overall.pass_at[1].value, result.overall.ungraded, result.overall.left_out) == (1.0, 0, 0)

    shuffled = [gold for _, gold in golds]
    random.Random(0).shuffle(shuffled)
    given = {prompt.row: text for (prompt, _), text in zip(golds, shuffled, strict=True)}
    result, log = await examined(exam, verifier, given, tmp_path / "shuffled.jsonl")
    assert result.overall.pass_at[1].value < 0.03 and result.overall.ungraded == 0
    right = {row for (_, row), one in log.answered.items() if one.samples[0].outcome is Outcome.RIGHT}
    assert right == {prompt.row for prompt, gold in golds if canonical(given[prompt.row]) == canonical(gold)}


async def test_gold_answers_of_the_papers_other_two_sets_are_right_in_every_shape(
    verifier: Verifier, recipe: Recipe, version: Path, paper_shapes: Path, tmp_path: Path
) -> None:
    exam = open_exam(load_suite(str(paper_shapes / "shapes.yaml")), recipe, version, paper_shapes)
    every = [(prompt, text) for chosen in exam.sets.values() for prompt in chosen.prompts for text in gold_texts(prompt.answer)]
    for number in range(2):  # the first of the answers, and the last
        given = {prompt.row: text for prompt, text in (every if number else reversed(every))}
        result, _ = await examined(exam, verifier, given, tmp_path / f"gold-{number}.jsonl")
        assert {name: one.pass_at[1].value for name, one in result.sets.items()} == {"minerva": 1.0, "olympiadbench": 1.0}
    golds = golds_of(exam)
    rotated = {prompt.row: golds[number - 1][1] for number, (prompt, _) in enumerate(golds)}
    result, _ = await examined(exam, verifier, rotated, tmp_path / "rotated.jsonl")
    assert result.overall.pass_at[1].value == 0.0


def place(run_dir: Path, data: Path | None = None) -> Place:
    return Place(run_dir, data or run_dir, 16)


async def test_real_benchmarks_run_through_the_endpoint(endpoint: Running, run_dir: Path, eval_data: Path, tmp_path: Path) -> None:
    suite = load_suite("paper", [f"sets={SETS}", "max_tokens=4", "limit=20", "name=benchmarks"])
    told: list[str] = []
    async with Asker(endpoint.url, endpoint.query_key) as asker:
        result = await evaluate(place(run_dir, eval_data), suite, "policy@step-5", asker, told.append)
    assert told[0].startswith("policy@step-5 (") and told[0].endswith("suite benchmarks: 60 problems")
    assert {name: (one.problems, one.samples, one.ungraded) for name, one in result.sets.items()} == {
        "aime24": (20, 1, 0),
        "amc": (20, 1, 0),
        "math500": (20, 1, 0),
    }
    assert result.overall.truncated > 0.9 and result.overall.length <= 4
    assert read_results(run_dir) == [result]
    assert metrics_of([result])[5]["benchmarks/pass@1"] == result.overall.pass_at[1].value


async def test_an_interrupted_evaluation_goes_on_to_the_result_of_an_uninterrupted_one(endpoint: Running, run_dir: Path) -> None:
    suite = load_suite("held_out", ["samples=10", "temperature=1", "pass_at=[10]", "name=sampled"])
    path = result_path(run_dir, "sampled", 10).with_suffix(".jsonl")
    async with Asker(endpoint.url, endpoint.query_key) as asker:
        whole = await evaluate(place(run_dir), suite, "policy@step-10", asker, lambda text: None)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:6]) + lines[6][:30])  # the header, 5 of 16 problems, and part of one
        told: list[str] = []
        again = await evaluate(place(run_dir), suite, "policy@step-10", asker, told.append)
    assert told[0].endswith("16 problems, 5 of them answered before")
    assert (again.overall.pass_at, again.overall.length, again.digest) == (whole.overall.pass_at, whole.overall.length, whole.digest)
    texts = texts_of(lines)
    assert texts_of(path.read_bytes().splitlines()) == texts
    assert all(len(set(answers)) > 1 for answers in texts.values())


def texts_of(lines: Sequence[bytes]) -> dict[str, list[str]]:
    """Row -> the texts of its answers, of the lines of a log."""
    return {row["row"]: [sample["text"] for sample in row["samples"]] for row in map(json.loads, lines[1:])}


async def test_what_the_endpoint_does_not_have_or_allow_is_named(endpoint: Running, run_dir: Path, tmp_path: Path) -> None:
    suite = load_suite("held_out")
    async with Asker(endpoint.url, endpoint.query_key) as asker:
        with pytest.raises(PolicyVersionError, match="step-7"):
            await evaluate(place(run_dir), suite, "policy@step-7", asker, lambda text: None)
        other = tmp_path / "other"
        version_path(other / "policies", 10).parent.mkdir(parents=True)
        version_path(other / "policies", 10).symlink_to(version_path(endpoint.policies, 5))
        (other / "config.yaml").write_bytes((run_dir / "config.yaml").read_bytes())
        with pytest.raises(UsageError, match="has other weights"):
            await evaluate(place(other), suite, "policy@step-10", asker, lambda text: None)
    async with Asker(endpoint.url, "no-such-key") as stranger:
        with pytest.raises(UsageError, match=endpoint.url):
            await evaluate(place(run_dir), suite, "policy", stranger, lambda text: None)


async def until(reached: Callable[[], bool]) -> None:
    """Wait for something that another task brings about."""
    async with asyncio.timeout(120):
        while not reached():
            await asyncio.sleep(0.05)


async def test_the_watcher_evaluates_the_versions_of_a_run(endpoint: Running, run_dir: Path) -> None:
    config = LiveEvaluationConfig(every=10, data=".", poll_s=0.05)
    watching = asyncio.create_task(watch(run_dir, config, url=endpoint.url, key=endpoint.query_key, notify=lambda text: None))
    await until(lambda: len(read_results(run_dir)) == 2 or watching.done())
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    newest, oldest = sorted(read_results(run_dir), key=lambda result: result.created)[::-1]
    assert [newest.step, oldest.step] == [0, 10]  # the newest version came first
    assert {result.overall.problems for result in (newest, oldest)} == {16}


def test_the_verb_prints_a_table(endpoint: Running, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    app.command()(commands.evaluate)
    monkeypatch.setenv("GMPO_API_KEY", endpoint.query_key)
    found = CliRunner().invoke(app, [str(run_dir), "--policy", "policy@step-10", "--url", endpoint.url], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert "held_out, policy@step-10" in found.output and "pass@1" in found.output
    (result,) = read_results(run_dir)
    assert (result.suite, result.step) == ("held_out", 10)
