from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.errors import ConfigError, GmpoError
from services.bench import work
from services.bench.peers.trl_gmpo import digit_share, exact
from services.bench.timeline import StepEnd, covered, of_run, of_trl, steady
from services.bench.whole import peer_versions
from services.bench.work import CASES, Choices
from services.cli import app


def test_a_steady_run_is_what_lies_between_the_warm_up_and_what_follows_the_timed_steps() -> None:
    ends = [StepEnd(time, tokens, {"wait_s": wait}) for time, tokens, wait in [(150, 9, 9), (160, 90, 1), (180, 30, 3), (181, 9, 9)]]
    found = steady(ends, launched=100, warmup=1, timed=2, responses=6)
    assert (found.startup_s, found.step_s, found.samples_per_s) == (50, 15, 12 / 30)
    assert (found.tokens_per_s, found.response_tokens, found.stages) == (4, 10, {"wait_s": 2})


def test_a_run_that_ended_early_is_not_taken_for_a_fast_one() -> None:
    with pytest.raises(GmpoError, match="1 steps were done, and 3 were to be timed"):
        steady([StepEnd(1, 1)], launched=0, warmup=1, timed=2, responses=1)


def test_seconds_in_which_anything_ran_count_once_and_only_inside_the_window() -> None:
    assert covered([(0, 3), (2, 4), (2.5, 3), (6, 7), (9, 20)], (1, 10)) == 3 + 1 + 1
    assert covered([(0, 1), (11, 12)], (1, 10)) == 0


def test_a_step_of_ours_is_told_apart_into_what_the_learner_did_and_generation_beside_it() -> None:
    figures = {"learner/seconds": 2.0, "weights/publish_s": 0.5, "queue/wait_s": 4.0, "generation/tokens": 70.0}
    metrics = [{"time": 110.0, "step/seconds": 10.0, **figures}, {"time": 117.0, "step/seconds": 7.0, **figures}]
    history = [
        {"event": "admitted", "time": 100.0, "ordinals": [0]},
        {"event": "ready", "time": 105.0, "seconds": {"generated": 4.0, "verified": 1.0}},  # with the engine from 100 to 104
        {"event": "ready", "time": 113.0, "seconds": {"generated": 4.0, "verified": 0.0}},  # from 109 to 113, over the end of a step
        {"event": "ready", "time": 116.0, "seconds": {}},  # came back from disk
    ]
    first, second = of_run(metrics, history)
    assert first.seconds == {"generation_s": 5.0, "learner_s": 2.0, "publish_s": 0.5, "wait_s": 4.0, "rest_s": 3.5}
    assert (second.seconds["generation_s"], second.seconds["rest_s"], second.tokens) == (3.0, 0.5, 70.0)


def test_trl_learns_in_what_its_generation_leaves_of_a_step() -> None:
    lines = [{"time": time, "generation_s": 30.0, "responses": 64, "tokens": 500} for time in (200.0, 250.0)]
    assert of_trl(lines, responses=64)[1] == StepEnd(250.0, 500, {"generation_s": 30.0, "learner_s": 20.0})


def test_other_work_than_was_given_is_an_error() -> None:
    with pytest.raises(GmpoError, match="16 responses for a step, not 64"):
        of_trl([{"time": 1.0, "generation_s": 1.0, "responses": 16, "tokens": 1}], responses=64)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_both_sides_are_given_the_same_work(case: work.Case, tmp_path: Path) -> None:
    rows, model = tmp_path / "rows.jsonl", tmp_path / "model"
    work.write_rows(rows, 3 * case.prompts, seed=1)
    ours = work.recipe(case, Choices(2, 2, 2, 1), model=model, rows=rows, root=tmp_path, steps=3, seed=1)
    work.write_trl_work(tmp_path / "work.json", case, model=model, rows=rows, steps=3, threads=2, seed=1)
    theirs = json.loads((tmp_path / "work.json").read_text())
    optimizer, generation = ours.learner.optimizer, ours.generation
    assert theirs["responses"] == ours.run.prompts_per_step * generation.group_size
    assert theirs["responses"] // theirs["updates"] % theirs["group_size"] == 0
    assert (theirs["steps"], theirs["updates"]) == (ours.run.steps, ours.learner.updates_per_step)
    assert (theirs["group_size"], theirs["max_tokens"], theirs["lr"]) == (generation.group_size, generation.max_tokens, optimizer.lr)
    assert (optimizer.betas, optimizer.weight_decay, ours.learner.max_grad_norm, generation.temperature) == ((0.9, 0.95), 0.0, 1.0, 1.0)
    assert len({json.loads(line)["prompt"] for line in rows.read_text().splitlines()}) == 3 * case.prompts


def test_the_random_policy_has_25_million_parameters_and_ends_a_response_after_about_90_tokens(tmp_path: Path) -> None:
    place = work.policy(CASES["25m"], tmp_path / "policy", seed=0, tell=lambda _: None)
    from actors.modeling.loading import load_model, load_tokenizer

    tokenizer, model = load_tokenizer(str(place)), load_model(str(place))
    prompt = tokenizer("483920=", add_special_tokens=False, return_tensors="pt")["input_ids"]
    chance = model(prompt).logits[0, -1].softmax(-1)[tokenizer.eos_token_id].item()
    assert 24e6 < sum(one.numel() for one in model.parameters()) < 26e6
    assert (model.config.vocab_size, prompt.shape[1], model.config.use_cache) == (90, 7, True)
    assert 1 / 300 < chance < 1 / 30


def test_the_rewards_grade_what_they_say() -> None:
    assert digit_share(["", "", ""], ["7a77", "abc", ""]) == [0.75, 0.0, 0.0]
    assert exact(["12=", "12="], ["21", "12"], answer=["21", "21"]) == [1.0, 0.0]


def test_an_interpreter_without_trl_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trl"):
        peer_versions(Path(sys.executable))
    result = CliRunner().invoke(app, ["bench", "whole", "--trl", str(tmp_path / "python")])
    assert result.exit_code == 2 and "No such file" in result.stderr


@pytest.mark.parametrize("arguments", [["--case", "7b"], ["--cores", "4096"]])
def test_what_cannot_be_measured_is_refused_by_name(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["bench", "whole", "--trl", sys.executable, *arguments])
    assert result.exit_code == 2 and arguments[-1] in result.stderr
