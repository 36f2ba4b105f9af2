from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.modeling.packing import pack
from actors.modeling.scoring import Scorer
from actors.reference.config import ReferenceConfig
from actors.reference.scorer import ReferenceScorer
from actors.types import Prompt, Rollout, RolloutGroup
from tests.tiny_model import build_model, save_tokenizer

LENGTHS = [4, 0, 11, 1, 6]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("policy")
    build_model(0).save_pretrained(place)
    return save_tokenizer(place)


def group(lengths: list[int]) -> RolloutGroup:
    random = np.random.default_rng(0)
    rollouts = tuple(
        Rollout(
            random.integers(0, 256, length).astype(np.int32),
            np.zeros(length, dtype=np.float32),
            np.ones(length, dtype=np.bool_),
            (),
            "stop",
            "",
        )
        for length in lengths
    )
    return RolloutGroup(Prompt(0, "math", np.asarray([5, 6, 7], dtype=np.int32), "1", "", ""), rollouts)


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
async def test_every_response_is_scored_however_small_a_pass_may_be(directory: Path, batch_tokens: int) -> None:
    scorer = ReferenceScorer(str(directory), "float32", 0.8, ReferenceConfig(batch_tokens=batch_tokens))
    asked = group(LENGTHS)
    scored, answered = await scorer.score(asked)
    assert scored.seconds > 0 and scored.kl == () and answered.prompt is asked.prompt and answered.ref_logprobs is not None
    assert [len(row) for row in answered.ref_logprobs] == LENGTHS
    model = Scorer(build_model(0))
    for rollout, found in zip(asked.rollouts, answered.ref_logprobs, strict=True):
        batch = pack([np.concatenate([asked.prompt.token_ids, rollout.token_ids])], [3], torch.device("cpu"))
        with torch.no_grad():
            wanted = model(batch, 0.8).logprobs[0].numpy()[: len(found)]
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert found.dtype == np.float32


async def test_a_group_of_empty_responses_is_no_trouble(directory: Path) -> None:
    _, answered = await ReferenceScorer(str(directory), "float32", 1.0, ReferenceConfig()).score(group([0, 0]))
    assert answered.ref_logprobs is not None and [row.shape for row in answered.ref_logprobs] == [(0,), (0,)]


async def test_where_the_reward_pays_for_it_the_driver_learns_how_far_each_response_moved(directory: Path) -> None:
    asked = group(LENGTHS)
    scored, answered = await ReferenceScorer(str(directory), "float32", 1.0, ReferenceConfig(), "k1").score(asked)
    assert answered.ref_logprobs is not None
    moved = [float((rollout.logprobs - row).sum()) for rollout, row in zip(asked.rollouts, answered.ref_logprobs, strict=True)]
    np.testing.assert_allclose(scored.kl, moved, rtol=1e-5)
    assert scored.kl[1] == 0
