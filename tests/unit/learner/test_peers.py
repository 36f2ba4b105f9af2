"""GMPO beside the official code, verl and TRL: one loss where they are right, and the case where each is wrong.

docs/objectives.md quotes the figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.learner.objectives import PolicyTerms, build
from tests.unit.learner import peers
from tests.unit.learner.objective_batches import Batch, batch_of, computed, terms_of

pytestmark = pytest.mark.peers


def official(terms: PolicyTerms, low: float = 0.4, high: float = 0.4, **ablation: Any) -> torch.Tensor:
    """Mean over responses of the official loss."""
    rows = [PolicyTerms._make(part[row : row + 1] if part is not None else None for part in terms) for row in range(len(terms.mask))]
    return torch.stack([peers.official(row, low, high, **ablation) for row in rows]).mean()


def pieces(batch: Batch, sizes: Iterable[int]) -> list[PolicyTerms]:
    ends = np.cumsum([0, *sizes])
    return [terms_of(batch.rows(slice(start, end))) for start, end in pairwise(ends)]


def gmpo(batch: Batch, low: float = 0.4, high: float = 0.4, **ablation: Any) -> float:
    return computed({"type": "gmpo", "clip_low": low, "clip_high": high, **ablation}, batch).loss


@st.composite
def healthy_batches(draw: st.DrawFn) -> Batch:
    """Eight responses, each with a token."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = random.integers(1, 60, 8)
    mask = np.arange(60)[None, :] < lengths[:, None]
    return batch_of(random.normal(0, draw(st.sampled_from([0.1, 0.5])), (8, 60)), random.choice([-1.2, 0.0, 0.8], 8), mask)


@settings(max_examples=25)
@given(batch=healthy_batches())
def test_all_agree_on_one_batch_in_one_piece_with_symmetric_bounds(batch: Batch) -> None:
    loss, scale = gmpo(batch), float(np.abs(batch.advantages).sum())
    assert official(terms_of(batch)).item() == pytest.approx(loss, rel=1e-12, abs=1e-12 * scale)
    assert peers.trl(terms_of(batch), 0.4, 0.4).item() == pytest.approx(loss, rel=1e-12, abs=1e-12 * scale)
    # verl adds 1e-8 to each length.
    assert peers.verl(terms_of(batch), 0.4, 0.4).item() == pytest.approx(loss, rel=2e-8, abs=2e-8 * scale)


@settings(max_examples=25)
@given(batch=healthy_batches())
def test_the_gradients_agree_too(batch: Batch) -> None:
    ours = computed({"type": "gmpo"}, batch).gradient
    for peer in (official, peers.verl, peers.trl):
        terms = terms_of(batch)
        [gradient] = torch.autograd.grad(peer(terms, 0.4, 0.4), terms.logprobs)
        np.testing.assert_allclose(gradient.numpy(), ours, rtol=1e-7)


@settings(max_examples=25)
@given(batch=healthy_batches(), clip=st.sampled_from(["token", "sequence", "none"]), length_normalized=st.booleans())
def test_the_ablations_are_those_of_the_official_code(batch: Batch, clip: str, length_normalized: bool) -> None:
    near = batch._replace(logprobs=batch.old + (batch.logprobs - batch.old) * 0.1)  # so that no sum meets the clamp
    theirs = official(terms_of(near), clip=clip, length_normalized=length_normalized).item()
    assert gmpo(near, clip=clip, length_normalized=length_normalized) == pytest.approx(theirs, rel=1e-12, abs=1e-13)


def test_asymmetric_bounds_change_places_in_the_official_code() -> None:
    batch = batch_of([[-0.9, 0.9]], [-1.0])
    assert gmpo(batch, 0.2, 0.6) == pytest.approx(1.419, abs=5e-4)  # a bad token's log-ratio counts as at least -0.2
    assert peers.verl(terms_of(batch), 0.2, 0.6).item() == pytest.approx(1.419, abs=5e-4)
    assert peers.trl(terms_of(batch), 0.2, 0.6).item() == pytest.approx(1.419, abs=5e-4)
    assert official(terms_of(batch), 0.2, 0.6).item() == pytest.approx(1.162, abs=5e-4)  # as at least -0.6


def test_an_empty_response_is_nan_in_the_official_code_and_a_constant_in_trl() -> None:
    batch = batch_of([[0.1, 0.1], [0.1, 0.1]], [1.0, -1.0], [[True, True], [False, False]])
    assert gmpo(batch) == pytest.approx(-np.exp(0.1) / 2)
    assert peers.verl(terms_of(batch), 0.4, 0.4).item() == pytest.approx(-np.exp(0.1) / 2)
    assert official(terms_of(batch)).isnan()
    assert peers.trl(terms_of(batch), 0.4, 0.4).item() == pytest.approx((1 - np.exp(0.1)) / 2)


def test_verl_multiplies_the_loss_by_the_number_of_micro_batches() -> None:
    batch = batch_of(np.full((8, 5), 0.1), np.ones(8))
    cut = sum(peers.verl(piece, 0.4, 0.4).item() for piece in pieces(batch, [1] * 8))
    assert cut / peers.verl(terms_of(batch), 0.4, 0.4).item() == pytest.approx(8.0)
    for even in (
        sum(build({"type": "gmpo"})(piece, batch.totals).loss.item() for piece in pieces(batch, [1] * 8)),
        sum(peers.trl(piece, 0.4, 0.4, 8).item() for piece in pieces(batch, [1] * 8)),
    ):
        assert even == pytest.approx(gmpo(batch), rel=1e-12)


@pytest.mark.parametrize(("cut", "trl", "verl"), [((2, 2), 1 / 4, 1 / 2), ((1, 3), 1 / 2, 1.0)])
def test_trl_and_verl_weigh_responses_by_the_size_of_their_micro_batch(cut: tuple[int, int], trl: float, verl: float) -> None:
    batch = batch_of(np.zeros((4, 3)), [1.0, 0.0, 0.0, 0.0])  # the loss is the weight of the first response
    parts = pieces(batch, cut)
    assert sum(build({"type": "gmpo"})(part, batch.totals).loss.item() for part in parts) == pytest.approx(-1 / 4)
    assert sum(peers.trl(part, 0.4, 0.4, 2).item() for part in parts) == pytest.approx(-trl)
    assert sum(peers.verl(part, 0.4, 0.4).item() for part in parts) == pytest.approx(-verl, rel=1e-7)


@pytest.mark.parametrize(("rejected", "tokens", "left"), [(1, 2, 1e-5), (1, 10, 0.1), (5, 10, 1e-5)])
def test_verl_silences_a_response_for_a_rejected_token(rejected: int, tokens: int, left: float) -> None:
    """One the engine and the learner disagree on; its neighbours are sound."""
    weights = [[0.0] * rejected + [1.0] * (tokens - rejected)]
    batch = batch_of(np.zeros((1, tokens)), [1.0], correction=weights)
    assert peers.verl(terms_of(batch), 0.4, 0.4).item() == pytest.approx(-left, rel=1e-6)
    assert gmpo(batch) == pytest.approx(-1.0)


def test_trl_knows_no_correction() -> None:
    batch = batch_of([[0.1, 0.2]], [1.0], correction=[[0.5, 0.5]])
    plain = batch._replace(correction=None)
    assert peers.trl(terms_of(batch), 0.4, 0.4).item() == peers.trl(terms_of(plain), 0.4, 0.4).item()
    assert gmpo(batch) == pytest.approx(gmpo(plain) / 2)


def test_verl_and_the_official_code_report_clips_that_do_not_bind() -> None:
    batch = batch_of([[0.9, -0.9, 0.0, 0.0]], [1.0])
    assert peers.clip_fraction_of_both_sides(terms_of(batch), 0.4, 0.4) == 0.5
    assert computed({"type": "gmpo"}, batch).metrics["clip_fraction"] == 0.25


def test_an_absurd_log_ratio_is_infinite_in_all_three_and_finite_here() -> None:
    batch = batch_of([[200.0, 0.0]], [-1.0])
    for peer in (official, peers.verl, peers.trl):
        assert peer(terms_of(batch, torch.float32), 0.4, 0.4).isinf()
    assert computed({"type": "gmpo"}, batch, dtype=torch.float32).loss == pytest.approx(np.exp(15.0), rel=1e-5)  # (30 + 0) / 2
