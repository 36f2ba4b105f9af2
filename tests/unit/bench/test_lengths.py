from __future__ import annotations

import numpy as np
import pytest

from services.bench.lengths import CAP, make_rows, rollout_lengths, share_out


def test_lengths_come_to_the_tokens_asked_for_and_depend_on_the_seed_alone() -> None:
    for tokens in (2, 3, 511, 20_000):
        pairs = rollout_lengths(tokens, np.random.default_rng(1))
        assert tokens - 1 <= sum(map(sum, pairs)) <= tokens
        assert min(map(min, pairs)) >= 1
        assert pairs == rollout_lengths(tokens, np.random.default_rng(1))


@pytest.mark.parametrize("divisor", [1, 4])
def test_responses_have_the_spread_of_published_rollouts(divisor: int) -> None:
    pairs = rollout_lengths(20_000_000 // divisor, np.random.default_rng(0), divisor=divisor)
    prompts, responses = np.array(pairs).T * divisor
    assert np.median(responses) == pytest.approx(600, rel=0.03)
    assert 0.04 < (responses >= CAP).mean() < 0.06 and responses.max() <= CAP + divisor
    # Below the cap: ln 10 from the median to the 99th percentile is 0.99 of a standard normal's 2.326, so 0.84 from the median to the 80th.
    assert np.quantile(responses, 0.8) / np.median(responses) == pytest.approx(np.exp(0.99 * 0.8416), rel=0.03)
    assert np.median(prompts) == pytest.approx(84, rel=0.05)


def test_no_row_is_without_an_advantage_and_ratios_lie_on_both_sides_of_the_clip() -> None:
    rows = make_rows([(5, 400)] * 8, 100, np.random.default_rng(0))
    assert all(row.advantage for row in rows) and {row.advantage > 0 for row in rows} == {True, False}
    distance = np.concatenate([row.logprobs for row in rows]) + np.log(100)
    assert 0.05 < (abs(distance) > 0.4).mean() < 0.5


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_row_goes_to_one_rank_in_its_order_and_ranks_are_about_even(ranks: int) -> None:
    rows = make_rows(rollout_lengths(30_000, np.random.default_rng(2)), 50, np.random.default_rng(2))
    shares = share_out(rows, ranks)
    assert sorted(id(row) for share in shares for row in share) == sorted(map(id, rows))
    where = {id(row): index for index, row in enumerate(rows)}
    assert all([where[id(row)] for row in share] == sorted(where[id(row)] for row in share) for share in shares)
    loads = [sum(len(row.token_ids) for row in share) for share in shares]
    assert max(loads) - min(loads) <= max(len(row.token_ids) for row in rows)
