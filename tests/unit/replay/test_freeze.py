from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.learner.advantages import build
from actors.learner.config import KlConfig, ReinforceAdvantage, ZScoreAdvantage
from actors.replay.freeze import FrozenStep, freeze, share
from actors.types import GRADED, GroupMeta, Outcome

ADVANTAGES = build(ZScoreAdvantage(), KlConfig())
LIKELY = [Outcome.RIGHT, Outcome.WRONG, Outcome.WRONG, Outcome.UNPARSEABLE, Outcome.TIMEOUT, Outcome.CRASH, Outcome.OOM]


@st.composite
def steps(draw: st.DrawFn) -> list[GroupMeta]:
    groups, size = draw(st.integers(1, 8)), draw(st.integers(2, 6))
    metas = []
    for index in range(groups):
        outcomes = draw(st.lists(st.sampled_from(LIKELY), min_size=size, max_size=size))
        lengths = draw(st.lists(st.integers(0, 40), min_size=size, max_size=size))
        scores = tuple(float(outcome is Outcome.RIGHT) for outcome in outcomes)
        prompt = draw(st.integers(1, 60))
        metas.append(GroupMeta(3 * index + 1, (4, 5), tuple(lengths), scores, tuple(outcomes), prompt_length=prompt))
    return metas


def frozen_of(metas: list[GroupMeta], *, step: int = 6, updates: int = 2, seed: int = 0, skip: bool = True) -> FrozenStep:
    return freeze(step, metas, advantages=ADVANTAGES, updates=updates, seed=seed, skip_zero_advantage=skip)


def graded(metas: list[GroupMeta]) -> dict[tuple[int, int], int]:
    """(group, sample) -> length of the responses that count."""
    return {
        (group, sample): meta.lengths[sample]
        for group, meta in enumerate(metas)
        for sample, outcome in enumerate(meta.outcomes)
        if outcome in GRADED
    }


@given(metas=steps(), updates=st.integers(1, 5), ranks=st.integers(1, 4), skip=st.booleans())
def test_every_graded_row_is_in_one_update_and_on_one_rank(metas: list[GroupMeta], updates: int, ranks: int, skip: bool) -> None:
    frozen = frozen_of(metas, updates=updates, skip=skip)
    held = Counter((row.group, row.sample) for rank in range(ranks) for row in share(frozen, rank, ranks))
    values = ADVANTAGES(metas)
    wanted = {place for place in graded(metas) if not skip or values[place[0]].any()}
    assert held == Counter(wanted)
    assert frozen.advantages == tuple(tuple(row) for row in values)
    for row in frozen.rows:
        assert row.advantage == frozen.advantages[row.group][row.sample]


@given(metas=steps(), updates=st.integers(1, 5), skip=st.booleans())
def test_totals_count_every_graded_row_skipped_ones_too(metas: list[GroupMeta], updates: int, skip: bool) -> None:
    frozen = frozen_of(metas, updates=updates, skip=skip)
    places = graded(metas)
    assert len(frozen.totals) == updates
    assert sum(totals.sequences for totals in frozen.totals) == len(places)
    assert sum(totals.tokens for totals in frozen.totals) == sum(places.values())
    sizes = [totals.sequences for totals in frozen.totals]
    assert max(sizes) - min(sizes) <= 1
    assert frozen.totals == frozen_of(metas, updates=updates, skip=not skip).totals


@given(metas=steps(), ranks=st.lists(st.integers(1, 5), min_size=2, max_size=2))
def test_any_number_of_ranks_shares_the_same_rows(metas: list[GroupMeta], ranks: list[int]) -> None:
    frozen = frozen_of(metas)
    few, many = ({row for rank in range(count) for row in share(frozen, rank, count)} for count in ranks)
    assert few == many == set(frozen.rows)


@given(metas=steps(), ranks=st.integers(2, 4))
def test_tokens_are_balanced_over_the_ranks_in_every_update(metas: list[GroupMeta], ranks: int) -> None:
    frozen = frozen_of(metas)
    shares = [share(frozen, rank, ranks) for rank in range(ranks)]
    for update in range(2):
        loads = [sum(tokens(metas[row.group], row.sample) for row in mine if row.update == update) for mine in shares]
        assert max(loads) - min(loads) <= max(tokens(meta, sample) for meta in metas for sample in range(len(meta.lengths)))


def tokens(meta: GroupMeta, sample: int) -> int:
    """What a response costs the rank that learns from it."""
    return meta.prompt_length + meta.lengths[sample]


@given(metas=steps(), seed=st.integers(0, 3))
def test_freezing_is_a_function_of_seed_and_step(metas: list[GroupMeta], seed: int) -> None:
    assert frozen_of(metas, seed=seed) == frozen_of(metas, seed=seed)
    assert share(frozen_of(metas, seed=seed), 1, 2) == share(frozen_of(metas, seed=seed), 1, 2)


def test_seed_and_step_shuffle_the_rows_over_the_updates() -> None:
    metas = [GroupMeta(index, (0, 0), (3, 4), (1.0, 0.0), (Outcome.RIGHT, Outcome.WRONG)) for index in range(16)]
    orders = {tuple(row.update for row in sorted(frozen_of(metas, seed=seed, step=step).rows)) for seed in (0, 1) for step in (1, 2)}
    assert len(orders) == 4


def test_advantages_may_be_of_the_whole_step() -> None:
    metas = [GroupMeta(index, (0, 0), (1, 1), (score, score), (Outcome.RIGHT,) * 2) for index, score in enumerate((1.0, 0.0))]
    whole = build(ReinforceAdvantage(baseline=False), KlConfig())
    frozen = freeze(1, metas, advantages=whole, updates=1, seed=0, skip_zero_advantage=True)
    assert [round(row.advantage, 6) for row in frozen.rows] == [1, 1, -1, -1]
    assert frozen.metrics["reward/zero_advantage_groups"] == 0


def test_a_step_without_a_single_graded_response_has_empty_updates() -> None:
    meta = GroupMeta(0, (0, 0), (5, 5), (0.0, 0.0), (Outcome.TIMEOUT, Outcome.OOM))
    frozen = frozen_of([meta], updates=2)
    assert frozen.rows == () and [totals.sequences for totals in frozen.totals] == [0, 0]
    assert share(frozen, 0, 2) == share(frozen, 1, 2) == ()
    assert frozen.metrics["reward/masked"] == 2 and frozen.metrics["reward/mean"] == 0


def test_the_figures_of_a_step() -> None:
    metas = [
        GroupMeta(0, (3, 5), (10, 0), (1.0, 0.0), (Outcome.RIGHT, Outcome.UNPARSEABLE), {"accuracy": 0.5, "format": 1.0}, truncated=1),
        GroupMeta(1, (5, 5), (20, 30), (0.0, 9.0), (Outcome.WRONG, Outcome.TIMEOUT), {"accuracy": 0.0}),
    ]
    figures = frozen_of(metas, step=6).metrics
    assert figures == {
        "reward/mean": pytest.approx(1 / 3),
        "reward/std": pytest.approx(np.std([1, 0, 0])),
        "reward/right": pytest.approx(1 / 3),
        "reward/parse_failures": 1,
        "reward/masked": 1,
        "reward/zero_advantage_groups": 1,
        "reward/part/accuracy": 0.25,
        "reward/part/format": 1.0,
        "generation/tokens": 60,
        "generation/length_mean": 15,
        "generation/truncated": 1,
        "generation/empty": 1,
        "staleness/mean": 1,
        "staleness/max": 2,
    }


def test_what_moving_away_cost_is_a_figure_where_it_cost_anything() -> None:
    meta = GroupMeta(0, (3, 5), (10, 5), (1.0, 0.0), (Outcome.RIGHT, Outcome.TIMEOUT))
    assert "reward/kl" not in frozen_of([meta]).metrics
    assert frozen_of([replace(meta, kl=(0.5, 1.0)), replace(meta, kl=(2.0, 0.5))]).metrics["reward/kl"] == 1


def test_groups_that_were_filtered_on_the_way_are_a_figure() -> None:
    meta = GroupMeta(0, (0, 0), (1, 1), (1.0, 0.0), (Outcome.RIGHT, Outcome.WRONG))
    frozen = freeze(1, [meta], advantages=ADVANTAGES, updates=1, seed=0, skip_zero_advantage=True, filtered=3)
    assert frozen.metrics["reward/filtered_groups"] == 3
