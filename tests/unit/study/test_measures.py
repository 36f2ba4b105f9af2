"""What a run's figures are, above all of runs that ended early."""

from __future__ import annotations

import math

import pytest

from services.compare.measures import MEASURES, started
from services.study.measures import collapsed, differences
from services.study.measures import figure as of
from tests.unit.study.fabricate import Makeup, ended


def test_a_run_that_is_done_has_its_last_evaluation_and_its_mean_reward() -> None:
    run = ended(Makeup(accuracy=0.9))
    assert of("accuracy", run) == pytest.approx(0.9)
    assert of("greedy", run) == pytest.approx(0.92)
    assert of("reward", run) == pytest.approx(sum(0.3 + 0.03 * step for step in range(1, 21)) / 20)
    assert started(run.curves) == 0.3
    assert not collapsed(run)


def test_a_run_that_diverged_counts_with_accuracy_0_and_with_no_reward_for_the_rest() -> None:
    run = ended(Makeup(accuracy=0.9, outcome="diverged", made=10))
    assert of("accuracy", run) == of("greedy", run) == 0
    assert of("reward", run) == pytest.approx(sum(0.3 + 0.03 * step for step in range(1, 11)) / 20)
    assert of("range", run) == pytest.approx(2.0, rel=0.05)  # over the steps it made
    assert collapsed(run)


def test_a_run_with_nothing_to_learn_keeps_what_it_had() -> None:
    run = ended(Makeup(accuracy=0.9, outcome="nothing_to_learn", made=10))
    assert of("accuracy", run) == pytest.approx(0.6)
    assert of("reward", run) == pytest.approx((sum(0.3 + 0.03 * step for step in range(1, 11)) + 10 * 0.6) / 20)


def test_a_run_collapsed_if_less_than_half_of_its_accuracy_is_left() -> None:
    assert collapsed(ended(Makeup(accuracy=0.14)))
    assert not collapsed(ended(Makeup(accuracy=0.16)))


def test_ranges_are_over_the_steps_that_have_both_ends() -> None:
    run = ended(Makeup(), steps=3)
    run.curves.metrics["learner/log_ratio_min"][:] = [-1.0, -2.0, -6.0]
    run.curves.metrics["learner/log_ratio_max"][:] = [1.0, math.nan, 2.0]
    assert of("range", run) == 5.0  # the median of 2 and 8
    assert of("widest", run) == 8.0


def test_at_the_end_means_the_last_tenth() -> None:
    run = ended(Makeup(), steps=20)
    run.curves.metrics["learner/entropy"][:] = [1.0] * 18 + [0.2, 0.4]
    run.curves.metrics["learner/kl_ref"][:] = [9.0] * 18 + [0.1, 0.5]
    assert of("entropy_end", run) == pytest.approx(0.3)
    assert of("entropy", run) == pytest.approx(18.6 / 20)
    assert of("kl", run) == of("kl_mean", run) == pytest.approx(0.3)


def test_one_great_kl_moves_the_mean_and_not_the_median() -> None:
    run = ended(Makeup(), steps=30)
    run.curves.metrics["learner/kl_ref"][-3:] = [0.1, 0.2, 9.0]
    assert of("kl", run) == 0.2
    assert of("kl_mean", run) == pytest.approx(3.1)


def test_unsteadiness_is_the_spread_of_the_gradient_norm_by_its_mean() -> None:
    run = ended(Makeup(), steps=2)
    run.curves.metrics["learner/grad_norm"][:] = [1.0, 3.0]
    assert of("unsteadiness", run) == 0.5


def test_a_response_weight_is_as_far_from_1_below_as_above() -> None:
    run = ended(Makeup(), steps=3)
    run.curves.metrics["learner/sequence_ratio"][:] = [1.1, math.exp(-3), 2.0]
    assert of("weight", run) == pytest.approx(3.0)


def test_a_figure_that_was_not_written_is_not_made_up() -> None:
    run = ended(Makeup())
    run.curves.metrics["learner/kl_ref"][:] = math.nan
    assert math.isnan(of("kl", run))


def test_differences_are_of_the_seeds_that_both_have() -> None:
    ours = {seed: ended(Makeup(kl=0.5), seed=seed) for seed in (0, 1, 3)}
    theirs = {seed: ended(Makeup(kl=0.2), seed=seed) for seed in (3, 1, 2)}
    assert differences(MEASURES["kl"], ours, theirs) == pytest.approx({1: 0.3, 3: 0.3})


def test_a_difference_is_over_the_steps_that_both_runs_made() -> None:
    long, short = ended(Makeup()), ended(Makeup(outcome="diverged", made=10))
    long.curves.metrics["learner/entropy"][:] = [0.3] * 10 + [0.1] * 10  # what no run of ten steps can come to
    assert differences(MEASURES["entropy"], {0: long}, {0: short}) == {0: 0.0}
    assert differences(MEASURES["entropy_end"], {0: short}, {0: long}) == {0: 0.0}
    assert differences(MEASURES["range"], {0: long}, {0: short}) == {0: 0.0}


def test_a_difference_in_reward_or_accuracy_is_over_all_steps() -> None:
    long, short = ended(Makeup(accuracy=0.9)), ended(Makeup(accuracy=0.9, outcome="diverged", made=10))
    assert differences(MEASURES["accuracy"], {0: long}, {0: short})[0] == pytest.approx(0.9)
    assert differences(MEASURES["reward"], {0: long}, {0: short})[0] == pytest.approx(sum(0.3 + 0.03 * step for step in range(11, 21)) / 20)
