from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from actors.learner.config import CorrectionConfig, GeometricMaskCorrection, IcePopCorrection, NoCorrection, TisCorrection
from actors.learner.correction import weights

NAN = float("nan")


def computed(config: CorrectionConfig, ratios: list[list[float]], mask: list[list[bool]] | None = None) -> torch.Tensor:
    """Weights of tokens with these ratios pi_learner / pi_engine."""
    gaps = torch.tensor(ratios, dtype=torch.float64).log()
    engine = torch.full_like(gaps, -1.5)
    keep = torch.ones_like(gaps, dtype=torch.bool) if mask is None else torch.tensor(mask)
    result = weights(config, engine + gaps, engine, keep)
    assert result is not None
    return result


def test_nothing_is_corrected_without_a_rule() -> None:
    logprobs = torch.zeros(1, 2)
    assert weights(NoCorrection(), logprobs, logprobs, torch.ones(1, 2, dtype=torch.bool)) is None


def test_tis_cuts_great_ratios() -> None:
    torch.testing.assert_close(computed(TisCorrection(cap=2.0), [[0.1, 1.0, 1.9, 7.0]]).tolist(), [[0.1, 1.0, 1.9, 2.0]])


def test_icepop_rejects_ratios_outside_its_band() -> None:
    result = computed(IcePopCorrection(low=0.5, high=5.0), [[0.49, 0.51, 1.0, 4.9, 5.1]])
    torch.testing.assert_close(result.tolist(), [[0.0, 0.51, 1.0, 4.9, 0.0]])


def test_the_geometric_mask_rejects_whole_responses_whatever_their_length() -> None:
    config = GeometricMaskCorrection(low=0.99, high=1.01)
    ratios = [[1.5, 1 / 1.5, 1.0, 1.0], [1.02, 1.02, 1.02, 1.02], [0.98, 0.98, NAN, NAN], [1.005, NAN, NAN, NAN]]
    mask = [[True] * 4, [True] * 4, [True, True, False, False], [True, False, False, False]]
    assert computed(config, ratios, mask).tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("config", [TisCorrection(), IcePopCorrection(), GeometricMaskCorrection()])
def test_only_tokens_under_the_mask_are_read_and_weigh(config: CorrectionConfig) -> None:
    result = computed(config, [[1.0, NAN, 1.0], [NAN, NAN, NAN]], [[True, False, True], [False, False, False]])
    assert result.tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("config", [TisCorrection(), IcePopCorrection(), GeometricMaskCorrection()])
def test_weights_are_constants_and_keep_their_dtype(config: CorrectionConfig) -> None:
    for dtype in (torch.float32, torch.float64):
        logprobs = torch.zeros(1, 2, dtype=dtype, requires_grad=True)
        result = weights(config, logprobs, torch.zeros(1, 2, dtype=dtype), torch.ones(1, 2, dtype=torch.bool))
        assert result is not None and not result.requires_grad and result.dtype == dtype


def test_a_token_the_learner_finds_impossible_has_a_weight_above_zero() -> None:
    """Zero means rejected; an importance weight, however small, does not."""
    result = weights(TisCorrection(), torch.full((1, 1), -1e4), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))
    assert result is not None and 0 < result.item() < 1e-8


@pytest.mark.parametrize("config", [TisCorrection(), IcePopCorrection(), GeometricMaskCorrection()])
def test_a_response_is_weighed_alike_in_any_micro_batch(config: CorrectionConfig) -> None:
    random = torch.Generator().manual_seed(2)
    learner, engine = torch.randn(6, 9, generator=random), torch.randn(6, 9, generator=random)
    mask = torch.rand(6, 9, generator=random) > 0.3
    whole = weights(config, learner, engine, mask)
    pieces = [weights(config, learner[a:b], engine[a:b], mask[a:b]) for a, b in pairwise([0, 1, 4, 6])]
    assert whole is not None
    assert torch.equal(whole, torch.cat([piece for piece in pieces if piece is not None]))
