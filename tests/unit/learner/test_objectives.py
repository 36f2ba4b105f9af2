"""Every objective against the float64 reference, and the properties its docstring promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.learner.objective_config import GmpoConfig, GrpoConfig
from actors.learner.objectives import BatchTotals, PolicyTerms, build
from tests.unit.learner.objective_batches import (
    OBJECTIVES,
    ONE_EACH,
    Array,
    Batch,
    batch_of,
    batches,
    computed,
    label,
    terms_of,
    with_correction,
)
from tests.unit.learner.reference_objectives import expected

TOLERANCE = 1e-9  # relative, in float64
TINY = 1e-200  # where SAPO's gate is as good as closed
every_objective = pytest.mark.parametrize("config", OBJECTIVES, ids=label)
one_of_each = pytest.mark.parametrize("config", ONE_EACH, ids=label)
WHOLE_RESPONSES = ("gmpo", "pmpo", "gspo")  # these weigh a response whole
PER_TOKEN = ("dapo", "ppo", "cispo")  # these divide by the update's tokens


def assert_gradients_close(actual: Array, desired: Array) -> None:
    """A token's error is measured by the greatest gradient in its response; a response without gradient has none at all."""
    greatest = np.abs(desired).max(-1, keepdims=True)
    assert (np.abs(actual - desired) <= TOLERANCE * greatest + TINY * (greatest > 0)).all()


@every_objective
@settings(max_examples=60)
@given(batch=batches())
def test_loss_and_gradient_are_those_of_the_formula(config: dict[str, Any], batch: Batch) -> None:
    result, truth = computed(config, batch), expected(config, batch)
    assert abs(result.loss - truth.loss) <= TOLERANCE * truth.terms
    assert_gradients_close(result.gradient, truth.gradient)
    per_response = config["type"] == "gspo" or config.get("clip") == "sequence"
    count = batch.totals.sequences if per_response else batch.totals.tokens
    assert result.metrics["clip_fraction"] == pytest.approx(truth.clipped / max(1, count), rel=1e-6)
    assert result.metrics["answered"] == batch.mask.any(-1).sum()


@every_objective
@settings(max_examples=10)
@given(batch=batches())
def test_the_sequence_ratio_is_what_multiplies_the_advantage(config: dict[str, Any], batch: Batch) -> None:
    if config["type"] == "cispo":
        return  # its weight multiplies A log pi: below
    ones = batch._replace(advantages=np.full(len(batch.advantages), -1.0))
    result = computed(config, ones)
    factor = {"dr_grpo": 500, **dict.fromkeys(PER_TOKEN, 1)}.get(config["type"])
    if factor is None:
        assert result.metrics["sequence_ratio"] == pytest.approx(result.loss * len(ones.advantages), rel=1e-9)
        return
    alone = [computed(config, ones.rows(slice(row, row + 1)), BatchTotals(1, 1)).loss for row in range(len(ones.advantages))]
    lengths = np.maximum(1, ones.mask.sum(-1))
    assert result.metrics["sequence_ratio"] == pytest.approx(float((np.asarray(alone) * factor / lengths).sum()), rel=1e-9)


def test_the_metrics_of_cispo_are_of_its_weights() -> None:
    batch = batch_of([[np.log(10.0), np.log(0.5)], [np.log(0.1), 0.0]], [1.0, -1.0])
    metrics = computed({"type": "cispo"}, batch).metrics
    assert metrics["sequence_ratio"] == pytest.approx((5 + 0.5) / 2 + (0.1 + 1) / 2)
    assert metrics["clip_fraction"] == 0.25
    assert computed({"type": "cispo", "clip_low": 0.6}, batch).metrics["clip_fraction"] == 0.5


@every_objective
def test_the_metrics_are_these(config: dict[str, Any]) -> None:
    assert set(computed(config, batch_of([[0.1]], [1.0])).metrics) == {"clip_fraction", "sequence_ratio", "answered"}


@given(batch=batches())
@settings(max_examples=40)
def test_the_first_update_of_gmpo_and_grpo_is_the_same(batch: Batch) -> None:
    on_policy = batch._replace(old=batch.logprobs, correction=None)
    gradient = computed({"type": "gmpo"}, on_policy).gradient
    for config in ({"type": "grpo"}, {"type": "pmpo", "power": -1.0}, {"type": "gspo"}, {"type": "sapo"}):
        np.testing.assert_allclose(computed(config, on_policy).gradient, gradient, rtol=1e-12, atol=1e-15)


@given(batch=batches())
@settings(max_examples=40)
def test_the_power_mean_at_zero_is_gmpo(batch: Batch) -> None:
    result, geometric = computed({"type": "pmpo", "power": 0.0}, batch), computed({"type": "gmpo"}, batch)
    scale = expected({"type": "gmpo"}, batch).terms
    assert abs(result.loss - geometric.loss) <= 1e-12 * scale
    np.testing.assert_allclose(result.gradient, geometric.gradient, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("power", [1e-3, -1e-3, 1e-6, -1e-6, 1e-12])
def test_the_power_mean_tends_to_gmpo_without_losing_digits(power: float, dtype: torch.dtype) -> None:
    log_ratios = np.random.default_rng(7).normal(0, 0.3, (4, 200))
    batch = batch_of(log_ratios, [1.0, -1.0, 0.5, -2.0])
    result = computed({"type": "pmpo", "power": power}, batch, dtype=dtype)
    geometric = computed({"type": "gmpo"}, batch)
    distance = abs(power) + (1e-6 if dtype == torch.float32 else 1e-12)  # log M_p - log M_0 is p/2 times the variance of d~
    assert result.loss == pytest.approx(geometric.loss, rel=distance)
    np.testing.assert_allclose(result.gradient, geometric.gradient, rtol=2 * distance)


@given(batch=batches())
@settings(max_examples=40)
def test_the_power_mean_at_one_is_grpo_with_log_bounds(batch: Batch) -> None:
    whole = batch._replace(correction=None)
    arithmetic = {"type": "grpo", "clip_low": 0.4, "clip_high": 0.4, "bounds": "log"}
    result, truth = computed({"type": "pmpo", "power": 1.0}, whole), computed(arithmetic, whole)
    assert result.loss == pytest.approx(truth.loss, rel=1e-9, abs=1e-9 * expected(arithmetic, whole).terms)
    assert_gradients_close(result.gradient, truth.gradient)


def test_the_corrected_power_mean_at_one_is_corrected_grpo_but_for_a_constant() -> None:
    batch = batch_of([[0.3, -0.2, 0.1, 0.9]], [1.5], correction=[[2.0, 0.0, 0.5, 1.0]])
    arithmetic = computed({"type": "grpo", "clip_low": 0.4, "clip_high": 0.4, "bounds": "log"}, batch)
    result = computed({"type": "pmpo", "power": 1.0}, batch)
    np.testing.assert_allclose(result.gradient, arithmetic.gradient, rtol=1e-12)
    assert result.loss - arithmetic.loss == pytest.approx(-1.5 / 4)  # the rejected token counts as a ratio of 1


def test_the_power_mean_at_minus_one_is_harmonic() -> None:
    log_ratios = [0.3, -0.2, 0.1, 0.9]
    harmonic = 4 / sum(1 / np.exp(min(value, 0.4)) for value in log_ratios)
    assert computed({"type": "pmpo", "power": -1.0}, batch_of([log_ratios], [1.5])).loss == pytest.approx(-1.5 * harmonic, rel=1e-12)


def test_a_clipped_token_keeps_its_bound_in_the_weight_and_gives_no_direction() -> None:
    batch = batch_of([[0.9, 0.1], [-0.9, -0.1]], [1.0, -1.0])
    result = computed({"type": "gmpo", "clip_low": 0.2, "clip_high": 0.6}, batch)
    np.testing.assert_allclose(result.gradient, [[0, -np.exp(0.35) / 4], [0, np.exp(-0.15) / 4]])
    assert result.metrics["clip_fraction"] == 0.5


@pytest.mark.parametrize("type_", ["gmpo", "pmpo", "grpo", "dr_grpo", "dapo", "ppo", "gspo"])
@pytest.mark.parametrize(
    ("log_ratio", "advantage", "fraction"), [(0.5, 1.0, 1.0), (0.5, -1.0, 0.0), (-0.5, 1.0, 0.0), (-0.5, -1.0, 1.0), (0.5, 0.0, 0.0)]
)
def test_a_clip_counts_only_where_it_binds(type_: str, log_ratio: float, advantage: float, fraction: float) -> None:
    batch = batch_of(np.full((1, 3), log_ratio), [advantage], [[True, False, True]])
    result = computed({"type": type_}, batch)
    assert result.metrics["clip_fraction"] == fraction
    assert result.gradient.any() == (fraction == 0 and advantage != 0)


@pytest.mark.parametrize(("clip", "fraction"), [("none", 0.0), ("sequence", 0.5)])
def test_gmpo_counts_the_clip_it_was_given(clip: str, fraction: float) -> None:
    batch = batch_of([[0.3, 0.3, 0.0], [0.3, 0.0, 0.0]], [1.0, 1.0])
    assert computed({"type": "gmpo", "clip": clip}, batch).metrics["clip_fraction"] == fraction


def test_dual_clip_binds_where_a_bad_token_became_much_more_likely() -> None:
    batch = batch_of([[np.log(5.0), 0.0]], [-1.0])
    dual, plain = computed({"type": "ppo"}, batch), computed({"type": "ppo", "dual_clip": None}, batch)
    assert [dual.loss, plain.loss] == pytest.approx([(3 + 1) / 2, (5 + 1) / 2])
    assert (dual.gradient != 0).tolist() == [[False, True]] and (plain.gradient != 0).all()
    assert (dual.metrics["clip_fraction"], plain.metrics["clip_fraction"]) == (0.5, 0.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_exactly_at_its_bound_a_token_is_not_clipped(sign: float) -> None:
    terms = PolicyTerms(
        torch.full((1, 2), sign * 0.5, requires_grad=True), torch.zeros(1, 2), torch.tensor([sign]), torch.ones(1, 2, dtype=torch.bool)
    )
    for config in ({"type": "gmpo"}, {"type": "pmpo"}):
        result = build({**config, "clip_low": 0.5, "clip_high": 0.5})(terms, BatchTotals(1, 2))
        [gradient] = torch.autograd.grad(result.loss, terms.logprobs)
        assert result.metrics["clip_fraction"] == 0 and (gradient != 0).all()


@every_objective
def test_no_advantage_no_gradient(config: dict[str, Any]) -> None:
    result = computed(config, batch_of([[0.9, -3.0], [35.0, 0.0]], [0.0, 0.0]))
    assert result.loss == 0 and not result.gradient.any() and result.metrics["clip_fraction"] == 0


@every_objective
def test_an_empty_response_contributes_nothing_and_stays_in_the_batch(config: dict[str, Any]) -> None:
    batch = batch_of(np.full((2, 2), 0.1), [1.0, -1.0], [[True, True], [False, False]])
    result, alone = computed(config, batch), computed(config, batch.rows(slice(0, 1)))
    share = 1.0 if config["type"] in PER_TOKEN else 0.5  # it has no tokens, but it is a response
    assert result.loss == pytest.approx(alone.loss * share, rel=1e-12)
    np.testing.assert_allclose(result.gradient, np.concatenate([alone.gradient * share, np.zeros((1, 2))]), rtol=1e-12)
    assert result.metrics["sequence_ratio"] == alone.metrics["sequence_ratio"] and result.metrics["answered"] == 1


@every_objective
def test_an_update_without_a_graded_row_is_finite(config: dict[str, Any]) -> None:
    """All of an update's verifications may fail; the rank then runs a micro-batch of padding."""
    result = computed(config, batch_of([[0.0]], [0.0], [[False]]), BatchTotals(0, 0))
    assert result.loss == 0 and not result.gradient.any() and result.metrics["clip_fraction"] == 0


@every_objective
@pytest.mark.parametrize("log_ratio", [-300.0, 300.0])
def test_absurd_log_ratios_stay_finite_in_float32(config: dict[str, Any], log_ratio: float) -> None:
    log_ratios = np.where(np.arange(500) % 2, log_ratio, -log_ratio)
    result = computed(config, batch_of([log_ratios, np.full(500, log_ratio)] * 2, [1.0, 1.0, -1.0, -1.0]), dtype=torch.float32)
    assert np.isfinite(result.loss) and np.isfinite(result.gradient).all()


@every_objective
def test_float32_is_as_good_as_its_rounding(config: dict[str, Any]) -> None:
    random = np.random.default_rng(3)
    batch = with_correction(batch_of(random.normal(0, 0.5, (8, 200)), random.choice([-1.0, 1.0], 8)), random, 0.1)
    single, truth = computed(config, batch, dtype=torch.float32), expected(config, batch)
    assert single.loss == pytest.approx(truth.loss, abs=2e-5 * truth.terms)
    # A token within rounding of its bound may fall on either side of it: such ones are left out.
    both = (single.gradient != 0) == (truth.gradient != 0)
    assert both.mean() > 0.99
    assert np.linalg.norm((single.gradient - truth.gradient)[both]) <= 2e-5 * np.linalg.norm(truth.gradient)


@every_objective
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_what_stands_under_the_mask_does_not_matter(config: dict[str, Any], garbage: float) -> None:
    clean = batch_of([[0.1, 0.0, 0.7]], [1.0], [[True, False, True]], [[0.5, 1.0, 2.0]])
    dirty = clean._replace(**{name: np.where(clean.mask, getattr(clean, name), garbage) for name in ("logprobs", "old", "correction")})
    first, second = computed(config, clean), computed(config, dirty)
    np.testing.assert_array_equal(first.gradient, second.gradient)
    assert first.loss == second.loss and first.metrics == second.metrics


@every_objective
def test_a_nan_under_the_mask_s_tokens_is_not_hidden(config: dict[str, Any]) -> None:
    for field in ("logprobs", "correction"):
        batch = batch_of([[0.1, 0.2]], [1.0], correction=[[1.0, 1.0]])
        broken = batch._replace(**{field: np.asarray([[np.nan, 1.0]])})
        assert not np.isfinite(computed(config, broken).loss)


@every_objective
@settings(max_examples=10)
@given(batch=batches(), weight=st.sampled_from([0.3, 1.0, 2.0]))
def test_a_uniform_correction_multiplies_the_loss(config: dict[str, Any], batch: Batch, weight: float) -> None:
    plain = computed(config, batch._replace(correction=None))
    result = computed(config, batch._replace(correction=np.full(batch.mask.shape, weight)))
    assert result.loss == pytest.approx(weight * plain.loss, rel=1e-9)
    np.testing.assert_allclose(result.gradient, weight * plain.gradient, rtol=1e-9)
    assert result.metrics["clip_fraction"] == plain.metrics["clip_fraction"]


@every_objective
def test_a_rejected_response_contributes_nothing(config: dict[str, Any]) -> None:
    batch = batch_of([[0.3, -0.9], [0.7, 0.1]], [1.0, -1.0], correction=[[0.0, 0.0], [1.0, 1.0]])
    result = computed(config, batch)
    alone = computed(config, batch.rows(slice(1, 2)), batch.totals)
    assert result.loss == alone.loss and not result.gradient[0].any()
    assert result.metrics["answered"] == 2


@one_of_each
def test_a_rejected_token_gives_no_direction_and_does_not_silence_its_response(config: dict[str, Any]) -> None:
    whole = batch_of([[1e-4, -2e-4, 1e-4, 2e-4]], [1.0])
    gradient = computed(config, whole._replace(correction=np.asarray([[1.0, 1.0, 1.0, 0.0]]))).gradient
    assert gradient[0, 3] == 0
    np.testing.assert_allclose(gradient[0, :3], computed(config, whole).gradient[0, :3], rtol=1e-3)


def test_weights_are_constants() -> None:
    batch = batch_of([[0.1, 0.2]], [1.0], correction=[[0.5, 2.0]])
    for config in ONE_EACH:
        terms = terms_of(batch)
        assert terms.correction is not None
        terms.correction.requires_grad_()
        build(config)(terms, batch.totals).loss.backward()
        assert terms.correction.grad is None


def test_the_correction_of_gmpo_is_the_geometric_mean_of_the_weights() -> None:
    batch = batch_of([[0.9, -0.1, 0.2]], [2.0], correction=[[0.5, 4.0, 1.5]])
    for config in ({"type": "gmpo"}, {"type": "gmpo", "clip": "sequence"}, {"type": "gmpo", "length_normalized": False}, {"type": "gspo"}):
        plain = computed(config, batch._replace(correction=None))
        assert computed(config, batch).loss == pytest.approx(plain.loss * 3.0 ** (1 / 3), rel=1e-12)


def test_a_mapping_and_a_config_object_build_the_same() -> None:
    batch = batch_of([[0.5, -0.5]], [1.0])
    assert computed({"type": "gmpo", "clip_high": 0.2}, batch).loss == computed(GmpoConfig(clip_high=0.2), batch).loss
    assert computed({"type": "grpo", "clip_high": 0.1}, batch).loss == computed(GrpoConfig(clip_high=0.1), batch).loss


@one_of_each
def test_a_tag_alone_is_a_whole_config(config: dict[str, Any]) -> None:
    assert np.isfinite(computed(config, batch_of([[0.1, -0.1]], [1.0])).loss)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"type": "reinforce"},
        {"type": "gmpo", "epsilon": 0.4},
        {"type": "gmpo", "clip_low": -0.1},
        {"type": "gmpo", "clip": "row"},
        {"type": "grpo", "clip_low": 1.0},
        {"type": "grpo", "bounds": "raw"},
        {"type": "dapo", "clip_low": 1.0},
        {"type": "dr_grpo", "max_length": 0},
        {"type": "ppo", "dual_clip": 1.0},
        {"type": "cispo", "clip_low": 1.1},
        {"type": "sapo", "tau_positive": 0.0},
        {"type": "pmpo", "power": 1.5},
    ],
    ids=label,
)
def test_an_unknown_type_key_or_value_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build(config)
