"""What the simulated pipeline is expected to take, and how its aims are judged: without Ray."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from actors.errors import ConfigError
from actors.types import Outcome, Prompt
from services.bench.lengths import CAP
from services.bench.pipeline import Case, Ran, Settings, growth_cases, overlap_cases, report
from services.bench.simulated import Engines, Verifier, World

WORLD = World(seed=0, responses=4, slots=2, longest_s=3.0, verify_s=0.5, learn_s=2.0)


def prompt(ordinal: int) -> Prompt:
    return Prompt(ordinal, "", np.zeros(1, dtype=np.int32), "", "", "row")


def test_a_group_takes_as_long_as_its_longest_response_and_never_longer_than_the_cap() -> None:
    alone = [replace(WORLD, responses=1).generation_s(ordinal) for ordinal in range(200)]
    together = [WORLD.generation_s(ordinal) for ordinal in range(200)]
    assert all(group >= first for group, first in zip(together, alone, strict=True)) and together != alone
    assert max(together) == 3.0 and min(alone) >= 3.0 / CAP * 10
    assert 0.1 < np.median(alone) / 3.0 < 0.3  # the median response is a fifth of the cap


def test_an_engine_gives_the_next_prompt_to_the_slot_that_is_free_first() -> None:
    first, second, third = (WORLD.generation_s(ordinal) for ordinal in range(3))
    assert WORLD.makespan_s(range(3), 1) == pytest.approx(max(first, second, min(first, second) + third) + 0.5)


def test_engines_share_a_cohort_in_turn() -> None:
    one = replace(WORLD, slots=1)
    first, second, third = (one.generation_s(ordinal) for ordinal in range(3))
    assert one.makespan_s(range(3), 2) == pytest.approx(max(first + third, second) + 0.5)
    assert one.makespan_s(range(3), 8) == pytest.approx(max(first, second, third) + 0.5)


def test_a_step_is_expected_to_take_the_sum_without_staleness_and_the_longer_with() -> None:
    case = Case("a", WORLD, engines=1, prompts=2, staleness=0, steps=3)
    makespans = [WORLD.makespan_s([2, 3], 1), WORLD.makespan_s([4, 5], 1)]
    assert case.makespans_s == makespans  # the first step is not counted
    assert case.expected_s == pytest.approx(np.mean(makespans) + 2.0)
    assert replace(case, staleness=1).expected_s == pytest.approx(np.mean([max(one, 2.0) for one in makespans]))


def ran_as_expected(settings: Settings, *, factor: float) -> tuple[list[Ran], list[Ran]]:
    overlap = [Ran(case, case.expected_s * factor) for case in overlap_cases(settings)]
    return overlap, [Ran(case, case.expected_s) for case in growth_cases(settings)]


def test_aims_are_judged_at_the_default_size_and_each_mode_by_its_own() -> None:
    found = report(Settings(), *ran_as_expected(Settings(), factor=1.03))
    met = {aim.ratio: (aim.bound, aim.met) for aim in found.aims}
    assert met["learning 1 x, staleness 0"] == (1.02, False) and met["learning 1 x, staleness 1"] == (1.05, True)
    assert met["growth over linear, 256 engines"] == (0.9, True)
    smaller = Settings(steps=3)
    assert report(smaller, *ran_as_expected(smaller, factor=1.0)).aims == []


def test_growth_is_held_against_as_many_times_the_smallest_pool() -> None:
    settings = Settings(growth=(1, 4))
    overlap, (one, four) = ran_as_expected(settings, factor=1.0)
    found = report(settings, overlap, [replace(one, step_s=10.0), replace(four, step_s=20.0)])
    assert found.ratios["growth over linear, 4 engines"].median == pytest.approx(0.5)


def test_one_step_is_too_few() -> None:
    with pytest.raises(ConfigError, match="--steps"):
        Settings(steps=1)


async def test_a_held_engine_begins_once_all_was_asked_for() -> None:
    engines = Engines(replace(WORLD, longest_s=0.0))
    await engines.hold(0)
    releasing = asyncio.ensure_future(engines.release(0, 8))
    first = asyncio.ensure_future(engines.generate(0, prompt(0)))
    other, _ = await engines.generate(1, prompt(1))
    assert other.ordinal == 1 and not first.done() and not releasing.done()
    second = asyncio.ensure_future(engines.generate(0, prompt(2)))
    metas = [meta for meta, _ in await asyncio.gather(first, second)]
    await releasing
    assert [meta.ordinal for meta in metas] == [0, 2]


async def test_a_group_knows_the_versions_that_it_was_sampled_by_and_every_other_response_is_right() -> None:
    engines = Engines(replace(WORLD, longest_s=0.0))
    await engines.take(3)
    _, group = await engines.generate(0, prompt(7))
    meta, _ = await Verifier(replace(WORLD, verify_s=0.0)).verify(group)
    assert (meta.ordinal, meta.versions) == (7, (3, 3))
    assert meta.outcomes == (Outcome.RIGHT, Outcome.WRONG) * 2 and meta.scores == (1.0, 0.0, 1.0, 0.0)
