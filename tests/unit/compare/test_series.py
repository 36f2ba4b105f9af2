"""Reading runs, and which of them are one line under which name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.errors import ConfigError
from services.compare.curves import over_seeds
from services.compare.series import Series, grouped, read_run
from services.compare.settings import differing, labels
from services.config import resolved
from tests.unit.compare.runs import GRPO, write_run
from tests.unit.recipes import tiny_recipe


def read(*paths: Path) -> Series:
    return Series("all", tuple(read_run(path) for path in paths))


def test_a_run_that_goes_on_is_read_as_far_as_it_came(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a", {"reward/mean": [0.25, None, 0.5], "learner/kl_ref": [0.1]}, seed=3, greedy={0: 0.5, 2: 0.75})
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    run = read_run(path)
    assert (run.name, run.seed) == ("a", 3)
    np.testing.assert_array_equal(run.steps, [1, 2, 3])
    np.testing.assert_array_equal(run.metrics["reward/mean"], [0.25, np.nan, 0.5])
    np.testing.assert_array_equal(run.curve("reward/mean"), [[1, 3], [0.25, 0.5]])
    np.testing.assert_array_equal(run.curve("learner/kl_ref"), [[1], [0.1]])
    np.testing.assert_array_equal(run.curve("eval/sampled"), [[0, 2], [0.25, 0.375]])
    assert not len(run.curve("learner/entropy")[0])


def test_evaluations_are_found_in_the_metrics_where_they_have_no_file(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a", {"eval/greedy": [None, 0.5]})
    np.testing.assert_array_equal(read_run(path).curve("eval/greedy"), [[2], [0.5]])


def test_a_run_before_its_first_step_is_a_run(tmp_path: Path) -> None:
    path = write_run(tmp_path, "a", {})
    (path / "metrics.jsonl").unlink()
    assert not len(read_run(path).steps)


@pytest.mark.parametrize(
    ("file", "text"), [("metrics.jsonl", "no json\n"), ("metrics.jsonl", "[1]\n"), ("metrics.jsonl", '{"loss": 1}\n'), ("config.yaml", "{")]
)
def test_what_cannot_be_read_is_named(tmp_path: Path, file: str, text: str) -> None:
    path = write_run(tmp_path, "a", {"reward/mean": [0.5]})
    (path / file).write_text(text)
    with pytest.raises(ConfigError, match=str(path)):
        read_run(path)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path} holds no run"):
        read_run(tmp_path)


def test_seeds_are_one_series_and_what_changes_learning_is_another(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, "second", {}, seed=1),
        write_run(tmp_path, "other", {}, GRPO),
        write_run(tmp_path / "elsewhere", "first", {}, "learner.ranks=1", "run.keep_policies=1", "serve.port=1", "evaluation.every=7"),
    ]
    series = grouped(read_run(path) for path in [*runs, runs[0]])
    assert [(one.label, [run.name for run in one.runs]) for one in series] == [("gmpo", ["first", "second"]), ("grpo", ["other"])]


def test_gmpo_comes_first_and_grpo_next(tmp_path: Path) -> None:
    types = ("gspo", "grpo", "dapo", "gmpo")
    runs = [read_run(write_run(tmp_path, name, {}, f"learner.objective={{type: {name}}}")) for name in types]
    assert [one.label for one in grouped(runs)] == ["gmpo", "grpo", "dapo", "gspo"]


def test_a_run_alone_goes_by_its_name(tmp_path: Path) -> None:
    assert grouped([read_run(write_run(tmp_path, "alone", {}))])[0].label == "alone"


def test_a_run_with_a_setting_that_is_no_more_can_be_compared(tmp_path: Path) -> None:
    path = write_run(tmp_path, "old", {"reward/mean": [0.5]})
    (path / "config.yaml").write_text((path / "config.yaml").read_text().replace("warmup_updates:", "warm_updates:"))
    new = write_run(tmp_path, "new", {})
    assert [one.label for one in grouped([read_run(path), read_run(new)])] == [
        "warm_updates=0, warmup_updates=none",
        "warm_updates=none, warmup_updates=0",
    ]


def labelled(*settings: tuple[str, ...]) -> list[str]:
    return labels([resolved(tiny_recipe(*chosen)) for chosen in settings])


def test_labels_say_the_type_and_only_what_is_unusual_within_it() -> None:
    wide = "learner.objective={type: grpo, bounds: log, clip_low: 0.4, clip_high: 0.4}"
    assert labelled(
        (),
        ("learner.objective.clip=none",),
        ("learner.objective.length_normalized=false",),
        (GRPO,),
        (wide,),
        ("learner.objective={type: gspo}", "learner.advantage={type: mean}"),
    ) == [
        "gmpo",
        "gmpo, clip=none",
        "gmpo, length_normalized=false",
        "grpo, clip 0.8 to 1.2",
        "grpo, clip e^±0.4",
        "gspo, advantage=mean",
    ]


def test_labels_of_other_settings() -> None:
    rates = [(objective, f"learner.optimizer.lr={rate}") for rate in (0.001, 0.002) for objective in ("run.seed=0", GRPO)]
    assert labelled(*rates) == ["gmpo, lr=0.001", "grpo, lr=0.001", "gmpo, lr=0.002", "grpo, lr=0.002"]
    assert labelled(("replay.max_staleness=0",), ("replay.max_staleness=4",)) == ["max_staleness=0", "max_staleness=4"]
    assert labelled((), ("learner.lora={rank: 4}",), ("learner.lora={rank: 8}",)) == ["lora=none", "rank=4", "rank=8"]
    ambiguous = [(f"policy.warmup.lr={rate}", f"learner.optimizer.lr={rate}") for rate in (0.001, 0.002)]
    assert labelled(*ambiguous) == ["warmup.lr=0.001, optimizer.lr=0.001", "warmup.lr=0.002, optimizer.lr=0.002"]


def test_differing_settings_leave_out_where_runs_lie() -> None:
    recipes = [resolved(tiny_recipe("run.name=a", "run.root=x")), resolved(tiny_recipe("run.name=b", "learner.optimizer.lr=0.5"))]
    assert list(differing(recipes)) == ["learner.optimizer.lr"]
    assert differing(recipes)["learner.optimizer.lr"][1] == 0.5


def test_the_median_is_of_the_runs_that_are_there(tmp_path: Path) -> None:
    series = read(
        write_run(tmp_path, "a", {"reward/mean": [0.0, 0.25, 0.5]}),
        write_run(tmp_path, "b", {"reward/mean": [0.5, None]}),
        write_run(tmp_path, "c", {"reward/mean": [0.75, 0.75, 0.25]}),
        write_run(tmp_path, "d", {}),
    )
    curve = over_seeds(series, "reward/mean")
    assert curve is not None
    np.testing.assert_array_equal(curve.steps, [1, 2, 3])
    np.testing.assert_array_equal(curve.median, [0.5, 0.5, 0.375])
    np.testing.assert_array_equal(curve.low, [0.0, 0.25, 0.25])
    np.testing.assert_array_equal(curve.high, [0.75, 0.75, 0.5])
    assert (curve.runs, curve.ended) == (3, ((1, 0.5),))
    assert over_seeds(series, "learner/kl_ref") is None


def test_only_long_runs_are_smoothed_and_only_where_it_is_asked(tmp_path: Path) -> None:
    ramp = [float(step) for step in range(80)]
    spiked = [*ramp[:40], 1000.0, *ramp[41:]]
    series = read(write_run(tmp_path, "long", {"learner/entropy": spiked, "reward/mean": ramp[:60]}))
    raw, smooth, short = (
        over_seeds(series, name, smooth=on) for name, on in (("learner/entropy", False), ("learner/entropy", True), ("reward/mean", True))
    )
    assert raw is not None and smooth is not None and short is not None
    assert (raw.smoothed, smooth.smoothed, short.smoothed) == (False, True, False)
    np.testing.assert_array_equal(raw.median, spiked)
    np.testing.assert_array_equal(short.median, ramp[:60])
    np.testing.assert_array_equal(smooth.median[38:43], [38, 39, 41, 42, 43])  # the spike is no more than the greatest of its window
