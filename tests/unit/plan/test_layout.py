from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from services.config import parse_recipe, resolved
from services.plan.colocated import colocated
from services.plan.estimate import Machine, estimate
from services.plan.inference import generation_engine
from services.plan.layout import Layout, choose
from services.plan.parts import GIB, Part
from services.plan.remedies import remedies
from services.plan.shapes import PUBLISHED
from tests.unit.plan.recipes import EIGHT, MATH_7B, paper

ONE_GPU = Path(__file__).parents[3] / "helm" / "gmpo" / "ci" / "one-gpu-values.yaml"
PARTS = ("generation={gpus: 0.4, gpu_memory_share: 0.4}", "learner.gpus=0.4", "reference.gpus=0.2")


def laid_out(name: str, machine: Machine, *overrides: str) -> Layout:
    """What is chosen for a model of Qwen's with the paper's recipe."""
    return choose(paper(f"policy.path=Qwen/{name}", *overrides), PUBLISHED[f"Qwen/{name}"], machine)


def test_qwen_math_7b_on_eight_gpus_gets_engines_a_learner_and_a_reference() -> None:
    layout = choose(paper(), MATH_7B, EIGHT)
    chosen = layout.recipe
    assert layout.estimate.fits
    assert (chosen.generation.engines, chosen.generation.tensor_parallel) == (3, 1)
    assert (chosen.learner.ranks, chosen.reference.actors) == (4, 1)
    assert chosen.learner.activation_checkpointing, "6.3 MB a token would not fit beside the weights"


def test_an_engine_holds_what_its_share_of_the_gpu_leaves() -> None:
    engine = generation_engine(paper(), MATH_7B, 80 * GIB)
    rest = sum(size for part, size in engine.memory.parts.items() if part not in {Part.KEYS_AND_VALUES, Part.RECEIVED_WEIGHTS})
    assert engine.kv_bytes == pytest.approx(0.85 * 80 * GIB - rest)
    assert engine.responses == int(engine.kv_bytes // (57_344 * 4_024))


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-Math-7B"])
@given(gpus=st.integers(2, 64), memory=st.sampled_from([24, 40, 80, 141]))
@settings(max_examples=30)
def test_a_layout_that_fits_is_disjoint_within_the_gpus_and_a_recipe(name: str, gpus: int, memory: int) -> None:
    layout = choose(paper(f"policy.path={name}"), PUBLISHED[name], Machine(gpus, memory * GIB, 8))
    if not layout.estimate.fits:
        return
    assert 1 <= layout.estimate.gpus <= gpus
    assert parse_recipe(resolved(layout.recipe)) == layout.recipe
    assert estimate(layout.recipe, PUBLISHED[name], layout.estimate.machine).fits


@given(st.integers(2, 40))
@settings(max_examples=20)
def test_what_fits_on_some_gpus_fits_on_larger_ones(gpus: int) -> None:
    fits = [choose(paper(), MATH_7B, Machine(gpus, memory * GIB, 8)).estimate.fits for memory in (24, 48, 80, 96, 141)]
    assert fits == sorted(fits)


def test_what_the_recipe_says_stays() -> None:
    layout = choose(paper("learner.ranks=5", "generation.engines=2", "reference.enabled=false"), MATH_7B, EIGHT)
    assert (layout.recipe.learner.ranks, layout.recipe.generation.engines, layout.recipe.reference.enabled) == (5, 2, False)


def test_smaller_micro_batches_are_taken_where_they_free_a_gpu_for_the_slowest_pool() -> None:
    shape = PUBLISHED["Qwen/Qwen3-8B"]
    free = choose(paper("policy.path=Qwen/Qwen3-8B"), shape, EIGHT)
    bound = choose(paper("policy.path=Qwen/Qwen3-8B", "learner.micro_batch_tokens=16384"), shape, EIGHT)
    assert free.recipe.learner.micro_batch_tokens < 16_384
    assert free.recipe.generation.engines > bound.recipe.generation.engines


def test_more_than_there_is_does_not_fit() -> None:
    assert not choose(paper("learner.ranks=7", "generation.engines=2"), MATH_7B, EIGHT).estimate.fits
    assert not choose(paper(), MATH_7B, Machine(1, 80 * GIB, 8)).estimate.fits, "pools are disjoint"


FOUR, ONE, SMALL = Machine(4, 80 * GIB, 8), Machine(1, 80 * GIB, 8), Machine(8, 24 * GIB, 8)


@pytest.mark.parametrize(("name", "machine"), [("Qwen2.5-Math-7B", FOUR), ("Qwen2.5-0.5B", ONE), ("Qwen3-8B", SMALL)])
def test_every_remedy_makes_it_fit(name: str, machine: Machine) -> None:
    found = list(remedies(laid_out(name, machine)))
    assert found
    for remedy in found:
        gpus, _, word = remedy.partition(" ")
        many, changes = (Machine(int(gpus), 80 * GIB, 8), []) if word == "GPUs" else (machine, re.split(r" (?=\w+\.\w+=)", remedy))
        assert laid_out(name, many, *changes).estimate.fits, remedy


def test_more_gpus_are_no_remedy_where_the_model_does_not_fit_one_at_the_start() -> None:
    assert not any("GPUs" in remedy for remedy in remedies(laid_out("Qwen3-8B", SMALL)))
    assert list(remedies(laid_out("Qwen3-8B", Machine(8, 16 * GIB, 8)))) == []


def test_parts_of_a_gpu_share_it_and_its_memory() -> None:
    fits, tight = laid_out("Qwen2.5-0.5B", ONE, *PARTS), laid_out("Qwen2.5-0.5B", ONE, *PARTS, "generation.kv_cache_mib=65000")
    (shared,) = fits.estimate.shared
    assert [pool.name for pool in shared.pools] == ["engines", "learner", "reference"]
    assert shared.size == sum(pool.device.size for pool in shared.pools if pool.device)
    assert fits.estimate.fits and fits.estimate.gpus == 1
    (crowded,) = tight.estimate.shared
    assert all(pool.fits for pool in crowded.pools) and not crowded.fits and not tight.estimate.fits, "each alone would fit"


def test_the_example_of_one_gpu_for_all_fits_on_one_of_80_gib() -> None:
    recipe = parse_recipe(yaml.safe_load(ONE_GPU.read_text())["recipe"])
    found = choose(recipe, PUBLISHED["Qwen/Qwen2.5-0.5B"], ONE)
    assert found.estimate.fits and found.recipe.reference.enabled, "its reference section asks for a scorer"
    assert found.estimate.pool("engines").gpus == 0.4


def test_parts_that_do_not_add_up_to_a_gpu_need_two() -> None:
    layout = laid_out("Qwen2.5-0.5B", ONE, *PARTS, "reference.gpus=0.3")
    assert layout.estimate.gpus == 2 and not layout.estimate.fits


def test_pools_that_grow_are_counted_at_their_most() -> None:
    recipe = paper("reference={actors: 1, max_actors: 3}", "reward={actors: 1, max_actors: 5}")
    found = choose(recipe, MATH_7B, EIGHT).estimate
    assert (found.pool("reference").members, found.pool("reward").members) == (3, 5)
    assert found.gpus <= 8 and found.pool("reference").all_gpus == 3


def test_keys_and_values_on_a_gpu_are_as_large_as_asked() -> None:
    assert generation_engine(paper("generation.kv_cache_mib=4096"), MATH_7B, 80 * GIB).kv_bytes == 4 * GIB


def test_only_what_the_recipe_leaves_open_is_chosen_and_told_only_where_it_fits() -> None:
    asked = ("learner.ranks=4", "generation={engines: 3, tensor_parallel: 1}")
    fits = laid_out("Qwen2.5-Math-7B", EIGHT, *asked)
    assert set(fits.choices) == {"learner.activation_checkpointing", "learner.micro_batch_tokens", "reference.actors"}
    assert len(fits.overrides) == 3
    assert laid_out("Qwen2.5-Math-7B", FOUR, *asked).overrides == []


def test_a_kl_term_keeps_the_reference_on_two_gpus() -> None:
    two, small = Machine(2, 80 * GIB, 8), PUBLISHED["Qwen/Qwen2.5-Math-1.5B"]
    free = choose(paper("policy.path=Qwen/Qwen2.5-Math-1.5B"), small, two)
    bound = choose(paper("policy.path=Qwen/Qwen2.5-Math-1.5B", "learner={kl: {coefficient: 0.01}, skip_zero_advantage: false}"), small, two)
    assert not free.recipe.reference.enabled and free.estimate.fits
    assert bound.recipe.reference.enabled and not bound.estimate.fits


def test_the_paper_has_less_room_for_responses_in_all_and_all_gpus_in_turns() -> None:
    layout = choose(paper(), MATH_7B, EIGHT)
    there, room = colocated(layout, MATH_7B, EIGHT), layout.estimate.pool("engines").room
    assert there.engine == 0.35 * 80 * GIB
    assert there.learner[Part.WEIGHTS] == 2 * 7_615_616_512
    assert room is not None and there.responses * 8 < room.responses * 3
    assert there.step_s == there.generation_s + there.learning_s


def test_an_endpoint_beside_the_run_takes_its_gpu_from_the_others() -> None:
    layout = choose(paper("serve={during_training: true, gpus: 1}"), MATH_7B, EIGHT)
    assert layout.estimate.pool("endpoint").gpus == 1
    assert layout.estimate.fits and layout.estimate.gpus == 8
    assert layout.recipe.generation.engines == 2
