from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch

from actors.learner.config import KlConfig
from actors.learner.objectives import BatchTotals, PolicyTerms
from actors.learner.regularizers import kl_estimate, regularizer_loss

ESTIMATORS = ("k1", "k2", "k3")
NAN = float("nan")


def terms(dtype: torch.dtype = torch.float64) -> PolicyTerms:
    """Three responses of 3, 1 and 0 tokens; NaN wherever there is no token."""
    mask = torch.tensor([[True, True, True], [False, True, False], [False, False, False]])

    def values(seed: int) -> torch.Tensor:
        drawn = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return drawn.to(dtype).masked_fill(~mask, NAN)

    return PolicyTerms(
        logprobs=values(0).requires_grad_(),
        old_logprobs=values(1),
        advantages=torch.zeros(3, dtype=dtype),
        mask=mask,
        ref_logprobs=values(2),
        entropy=values(3).requires_grad_(),
    )


def part(batch: PolicyTerms, start: int, end: int) -> PolicyTerms:
    """Some of its rows."""
    return PolicyTerms._make(None if values is None else values[start:end] for values in batch)


def share(values: list[list[float]]) -> float:
    """Mean over the three responses of the mean over each one's tokens."""
    return sum(float(np.mean(row)) for row in values if row) / 3


TOTALS = BatchTotals(3, 4)


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    [
        ("k1", lambda d: -d, lambda d: 1.0),
        ("k2", lambda d: d * d / 2, lambda d: -d),
        ("k3", lambda d: np.exp(d) - d - 1, lambda d: 1 - np.exp(d)),
    ],
)
def test_the_kl_term_is_a_mean_over_tokens_then_over_responses(
    estimator: Literal["k1", "k2", "k3"], value: Callable[[float], float], slope: Callable[[float], float]
) -> None:
    batch = terms()
    assert batch.ref_logprobs is not None
    gaps = (batch.ref_logprobs - batch.logprobs).detach().numpy()
    rows = [[float(gap) for gap in row[keep]] for row, keep in zip(gaps, batch.mask.numpy(), strict=True)]
    loss = regularizer_loss(KlConfig(coefficient=0.3, estimator=estimator), 0.0, batch, TOTALS)
    assert loss.item() == pytest.approx(0.3 * share([[value(gap) for gap in row] for row in rows]), rel=1e-12)
    loss.backward()
    expected = np.zeros((3, 3))
    for index, (row, keep) in enumerate(zip(rows, batch.mask.numpy(), strict=True)):
        expected[index, keep] = [0.3 * slope(gap) / len(row) / 3 for gap in row]
    assert batch.logprobs.grad is not None
    np.testing.assert_allclose(batch.logprobs.grad.numpy(), expected, rtol=1e-9)


def test_the_entropy_bonus_lowers_the_loss() -> None:
    batch = terms()
    assert batch.entropy is not None
    loss = regularizer_loss(KlConfig(), 0.01, batch, TOTALS)
    rows = [row[keep].tolist() for row, keep in zip(batch.entropy.detach().numpy(), batch.mask.numpy(), strict=True)]
    assert loss.item() == pytest.approx(-0.01 * share(rows), rel=1e-12)
    loss.backward()
    assert batch.entropy.grad is not None
    np.testing.assert_allclose(batch.entropy.grad.numpy()[0], -0.01 / 9)
    np.testing.assert_allclose(batch.entropy.grad.numpy()[1:], np.asarray([[0, -0.01 / 3, 0], [0, 0, 0]]))


@pytest.mark.parametrize("kl", [KlConfig(), KlConfig(coefficient=1.0, place="reward")])
def test_nothing_is_added_where_nothing_is_asked_for(kl: KlConfig) -> None:
    loss = regularizer_loss(kl, 0.0, terms(torch.float32), TOTALS)
    assert loss.item() == 0 and loss.dtype == torch.float32 and not loss.requires_grad


def test_without_reference_log_probs_there_is_no_kl_term() -> None:
    assert regularizer_loss(KlConfig(coefficient=1.0), 0.0, terms()._replace(ref_logprobs=None), TOTALS).item() == 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_pieces_add_up(estimator: Literal["k1", "k2", "k3"]) -> None:
    kl, batch = KlConfig(coefficient=0.2, estimator=estimator), terms()
    whole = regularizer_loss(kl, 0.1, batch, TOTALS)
    pieces = [regularizer_loss(kl, 0.1, part(batch, a, b), TOTALS) for a, b in pairwise([0, 1, 3])]
    assert sum(piece.item() for piece in pieces) == pytest.approx(whole.item(), rel=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_absurd_differences_stay_finite_in_float32(estimator: str) -> None:
    logprobs = torch.tensor([-500.0, 500.0], requires_grad=True)
    estimate = kl_estimate(logprobs, torch.zeros(2), estimator)
    estimate.sum().backward()
    assert estimate.isfinite().all() and logprobs.grad is not None and logprobs.grad.tolist() == [0, 0]


def test_k3_is_never_negative_however_small_the_difference() -> None:
    gaps = torch.linspace(-1e-3, 1e-3, 2001)
    assert (kl_estimate(-gaps, torch.zeros(2001), "k3") >= 0).all()


def test_only_k2_in_the_loss_has_the_gradient_of_the_kl() -> None:
    """Over every token of a vocabulary, weighed by the policy: the gradient of each estimate's mean, the weights held constant."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    policy = logits.log_softmax(-1)
    probabilities = policy.exp().detach()
    exact = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)[0]
    reverse = torch.autograd.grad((reference.exp() * (reference - policy)).sum(), logits, retain_graph=True)[0]
    gradient = {
        name: torch.autograd.grad((probabilities * kl_estimate(policy, reference, name)).sum(), logits, retain_graph=True)[0]
        for name in ESTIMATORS
    }
    torch.testing.assert_close(gradient["k2"], exact)
    torch.testing.assert_close(gradient["k1"], torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(gradient["k3"], reverse)
