from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from actors.learner.objective_config import GmpoConfig, GrpoConfig
from actors.learner.objectives import BatchTotals, PolicyTerms, build

Array = NDArray[np.float64]
Reference = Callable[[Array, float], tuple[float, Array]]
"""(log-ratios of a response's valid tokens, advantage) -> (J_i, dJ_i / d log-ratio)."""

LIMIT = 30.0  # where the docstrings say that log-ratios are cut

GMPO_SETTINGS = [
    {"clip": clip, "length_normalized": normalized, "clip_low": low, "clip_high": high}
    for clip in ("token", "sequence", "none")
    for normalized in (True, False)
    for low, high in ((0.4, 0.4), (0.2, 0.6))
]
GRPO_SETTINGS = [{"clip_low": 0.2, "clip_high": 0.2}, {"clip_low": 0.2, "clip_high": 0.28}]
OBJECTIVES = [{"type": "gmpo", **settings} for settings in GMPO_SETTINGS] + [{"type": "grpo", **settings} for settings in GRPO_SETTINGS]


class Batch(NamedTuple):
    log_ratios: Array  # [N, T]
    advantages: Array  # [N]
    mask: NDArray[np.bool_]  # [N, T]

    @property
    def totals(self) -> BatchTotals:
        return BatchTotals(len(self.advantages), int(self.mask.sum()))

    def rows(self, start: int, end: int) -> Batch:
        return Batch(self.log_ratios[start:end], self.advantages[start:end], self.mask[start:end])

    def valid(self) -> Iterator[tuple[Array, float]]:
        for row, keep, advantage in zip(self.log_ratios, self.mask, self.advantages, strict=True):
            yield row[keep], float(advantage)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Responses of 0 to 50 tokens, some with holes; most log-ratios within 5, some up to 30."""
    lengths = draw(st.lists(st.integers(0, 50), min_size=1, max_size=6))
    advantages = draw(st.lists(st.sampled_from([-2.5, -1.0, -0.3, 0.0, 0.7, 1.9]), min_size=len(lengths), max_size=len(lengths)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = len(lengths), max(1, *lengths)
    scale = draw(st.sampled_from([0.0, 0.3, 5.0]))
    log_ratios = random.uniform(-scale, scale, shape)
    outliers = random.random(shape) < draw(st.sampled_from([0.0, 0.1]))
    log_ratios[outliers] = random.uniform(-30, 30, shape)[outliers]
    mask = np.arange(shape[1])[None, :] < np.asarray(lengths)[:, None]
    mask &= random.random(shape) > draw(st.sampled_from([0.0, 0.3]))
    return Batch(log_ratios, np.asarray(advantages), mask)


def clipped(values: Array, advantage: float, low: float, high: float) -> tuple[Array, Array]:
    """log of min(rho A, clip(rho, low, high) A) / A, and where rho itself is what the min takes."""
    ratios, sign = np.exp(values), np.sign(advantage)
    kept = np.minimum(ratios * sign, np.clip(ratios, low, high) * sign) * sign
    return np.log(kept), (kept == ratios).astype(np.float64)


def gmpo_reference(settings: dict[str, Any]) -> Reference:
    """Equation 4 and the ablations of table 4, response by response."""

    def response(values: Array, advantage: float) -> tuple[float, Array]:
        nothing = np.zeros_like(values)
        if advantage == 0:
            return 0.0, nothing
        low, high = np.exp(-settings["clip_low"]), np.exp(settings["clip_high"])
        free = np.ones_like(values)
        if settings["clip"] == "token":
            values, free = clipped(values, advantage, low, high)
        total = values.sum()
        if settings["clip"] == "sequence":
            [total], [unbound] = clipped(np.asarray([total]), advantage, low, high)
            free = free * unbound
        count = max(1, len(values))
        exponent, slope = (
            (total / count, 1 / count) if settings["length_normalized"] else (np.clip(total, -LIMIT, LIMIT), abs(total) <= LIMIT)
        )
        objective = advantage * np.exp(exponent)
        return objective, objective * slope * free

    return response


def grpo_reference(settings: dict[str, Any]) -> Reference:
    """Equation 1 without its KL term, response by response."""

    def response(values: Array, advantage: float) -> tuple[float, Array]:
        if not len(values):
            return 0.0, np.zeros_like(values)
        ratios = np.exp(values)
        bounded = np.clip(ratios, 1 - settings["clip_low"], 1 + settings["clip_high"])
        terms = np.minimum(ratios * advantage, bounded * advantage)
        return terms.mean(), np.where(terms == ratios * advantage, ratios * advantage, 0.0) / len(values)

    return response


def reference_of(config: dict[str, Any]) -> Reference:
    return gmpo_reference(config) if config["type"] == "gmpo" else grpo_reference(config)


def expected(batch: Batch, reference: Reference) -> tuple[float, Array]:
    """Loss and its gradient [N, T] with respect to the log-probs."""
    loss, gradient = 0.0, np.zeros_like(batch.log_ratios)
    for row, (values, advantage) in enumerate(batch.valid()):
        objective, slope = reference(values, advantage)
        loss -= objective / len(batch.advantages)
        gradient[row, batch.mask[row]] = -slope / len(batch.advantages)
    return loss, gradient


def terms_of(batch: Batch, dtype: torch.dtype = torch.float64) -> PolicyTerms:
    old = torch.full(batch.log_ratios.shape, -1.0, dtype=dtype)
    logprobs = (old + torch.tensor(batch.log_ratios, dtype=dtype)).requires_grad_()
    return PolicyTerms(logprobs, old, torch.tensor(batch.advantages, dtype=dtype), torch.tensor(batch.mask))


def computed(config: Any, batch: Batch, totals: BatchTotals | None = None) -> tuple[float, Array, dict[str, float]]:
    terms = terms_of(batch)
    result = build(config)(terms, totals or batch.totals)
    result.loss.backward()
    assert terms.logprobs.grad is not None
    return result.loss.item(), terms.logprobs.grad.numpy(), {name: value.item() for name, value in result.metrics.items()}


@pytest.mark.parametrize("config", OBJECTIVES, ids=str)
@given(batch=batches())
def test_loss_and_gradient_are_those_of_the_formula(config: dict[str, Any], batch: Batch) -> None:
    loss, gradient, _ = computed(config, batch)
    expected_loss, expected_gradient = expected(batch, reference_of(config))
    # What rounding of -1 + d - (-1) costs is multiplied by the ratio.
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("config", OBJECTIVES, ids=str)
@given(batch=batches(), cuts=st.sets(st.integers(1, 5)))
def test_pieces_add_up_to_the_batch(config: dict[str, Any], batch: Batch, cuts: set[int]) -> None:
    loss, gradient, metrics = computed(config, batch)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(batch.advantages)), len(batch.advantages)]
    pieces = [batch.rows(start, end) for start, end in pairwise(bounds)]
    results = [computed(config, piece, batch.totals) for piece in pieces]
    assert loss == pytest.approx(sum(part for part, _, _ in results), rel=1e-12, abs=1e-12)
    np.testing.assert_array_equal(gradient, np.concatenate([part for _, part, _ in results]))
    for name, value in metrics.items():
        merge = min if name.endswith("_min") else max if name.endswith("_max") else sum
        assert value == pytest.approx(merge(figures[name] for _, _, figures in results))


@given(batch=batches())
def test_the_first_update_of_gmpo_and_grpo_is_the_same(batch: Batch) -> None:
    on_policy = batch._replace(log_ratios=np.zeros_like(batch.log_ratios))
    np.testing.assert_allclose(computed({"type": "gmpo"}, on_policy)[1], computed({"type": "grpo"}, on_policy)[1], atol=1e-15)


def test_a_clipped_token_keeps_its_bound_in_the_weight_and_gives_no_direction() -> None:
    batch = Batch(np.asarray([[0.9, 0.1], [-0.9, -0.1]]), np.asarray([1.0, -1.0]), np.ones((2, 2), dtype=np.bool_))
    _, gradient, metrics = computed({"type": "gmpo", "clip_low": 0.2, "clip_high": 0.6}, batch)
    np.testing.assert_allclose(gradient, [[0, -np.exp(0.35) / 4], [0, np.exp(-0.15) / 4]])
    assert metrics["clip_fraction"] == 0.5


@pytest.mark.parametrize(
    ("config", "log_ratio", "advantage", "fraction"),
    [
        ({"type": "gmpo"}, 0.5, 1.0, 1.0),
        ({"type": "gmpo"}, 0.5, -1.0, 0.0),
        ({"type": "gmpo"}, -0.5, 1.0, 0.0),
        ({"type": "gmpo"}, -0.5, -1.0, 1.0),
        ({"type": "gmpo"}, 0.5, 0.0, 0.0),
        ({"type": "gmpo", "clip": "none"}, 0.5, 1.0, 0.0),
        ({"type": "gmpo", "clip": "sequence"}, 0.5, 1.0, 1.0),
        ({"type": "grpo"}, 0.5, 1.0, 1.0),
        ({"type": "grpo"}, 0.5, -1.0, 0.0),
        ({"type": "grpo"}, -0.5, 1.0, 0.0),
        ({"type": "grpo"}, -0.5, -1.0, 1.0),
        ({"type": "grpo"}, 0.5, 0.0, 0.0),
    ],
)
def test_a_clip_counts_only_where_it_binds(config: dict[str, Any], log_ratio: float, advantage: float, fraction: float) -> None:
    mask = np.asarray([[True, False, True]])
    batch = Batch(np.full((1, 3), log_ratio), np.asarray([advantage]), mask)
    assert computed(config, batch)[2]["clip_fraction"] == fraction


@pytest.mark.parametrize("config", OBJECTIVES, ids=str)
def test_an_empty_response_gives_no_gradient_and_stays_in_the_batch(config: dict[str, Any]) -> None:
    mask = np.asarray([[True, True], [False, False]])
    batch = Batch(np.full((2, 2), 0.1), np.asarray([1.0, -1.0]), mask)
    loss, gradient, metrics = computed(config, batch)
    alone = computed(config, batch.rows(0, 1))
    assert np.isfinite(loss)
    np.testing.assert_allclose(gradient, np.concatenate([alone[1] / 2, np.zeros((1, 2))]))
    assert metrics["sequence_ratio"] == alone[2]["sequence_ratio"] and metrics["answered"] == 1


@pytest.mark.parametrize("config", OBJECTIVES, ids=str)
def test_an_update_without_a_graded_row_is_finite(config: dict[str, Any]) -> None:
    """All of an update's verifications may fail; the rank then runs a micro-batch of padding."""
    batch = Batch(np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1), dtype=np.bool_))
    loss, gradient, metrics = computed(config, batch, BatchTotals(0, 0))
    assert loss == 0 and not gradient.any() and metrics["clip_fraction"] == 0


@pytest.mark.parametrize("config", OBJECTIVES, ids=str)
@pytest.mark.parametrize("log_ratio", [-300.0, 300.0])
def test_absurd_log_ratios_stay_finite_in_float32(config: dict[str, Any], log_ratio: float) -> None:
    terms = terms_of(Batch(np.full((2, 50), log_ratio), np.asarray([1.0, -1.0]), np.ones((2, 50), dtype=np.bool_)), torch.float32)
    result = build(config)(terms, BatchTotals(2, 100))
    result.loss.backward()
    assert terms.logprobs.grad is not None
    assert result.loss.isfinite() and terms.logprobs.grad.isfinite().all()


@pytest.mark.parametrize("config", OBJECTIVES, ids=str)
def test_what_stands_under_the_mask_does_not_matter(config: dict[str, Any]) -> None:
    mask = np.asarray([[True, False, True]])
    clean = computed(config, Batch(np.asarray([[0.1, 0.0, 0.7]]), np.asarray([1.0]), mask))
    dirty = computed(config, Batch(np.asarray([[0.1, np.nan, 0.7]]), np.asarray([1.0]), mask))
    np.testing.assert_array_equal(clean[1], dirty[1])
    assert clean[0] == dirty[0] and clean[2] == dirty[2]


def test_a_mapping_and_a_config_object_build_the_same() -> None:
    batch = Batch(np.asarray([[0.5, -0.5]]), np.asarray([1.0]), np.ones((1, 2), dtype=np.bool_))
    assert computed({"type": "gmpo", "clip_high": 0.2}, batch)[0] == computed(GmpoConfig(clip_high=0.2), batch)[0]
    assert computed({"type": "grpo", "clip_high": 0.1}, batch)[0] == computed(GrpoConfig(type="grpo", clip_high=0.1), batch)[0]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"type": "ppo"},
        {"type": "gmpo", "epsilon": 0.4},
        {"type": "gmpo", "clip_low": -0.1},
        {"type": "gmpo", "clip": "row"},
        {"type": "grpo", "clip_low": 1.0},
    ],
)
def test_an_unknown_type_key_or_value_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build(config)
