"""The learner on one rank, with a real backend and a small random policy."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import OPTConfig, OPTForCausalLM

from actors.errors import ConfigError, TrainingDiverged
from actors.learner import backends, checkpoint
from actors.learner.checkpoint import Waiting
from actors.learner.config import LearnerConfig
from actors.learner.learner import Learner, LearnerSpec
from actors.modeling.packing import pack
from actors.modeling.scoring import Scorer
from actors.types import BatchTotals, Row, StepResult, TrainBatch
from tests.tiny_model import build_model

pytestmark = pytest.mark.usefixtures("single_rank")

LENGTHS = [5, 1, 9, 0, 7, 3]
ADVANTAGES = [1.0, -1.0, 0.5, 2.0, -0.5, 0.0]


def make(**config: Any) -> Learner:
    settings = LearnerConfig.model_validate({"optimizer": {"lr": 1e-3}, "updates_per_step": 2, **config})
    backend = backends.build(build_model(0), settings, dtype="float32", device=torch.device("cpu"))
    return Learner(backend, LearnerSpec(settings, 1.0, 100))


def row(index: int, length: int, advantage: float, *, reference: bool = True) -> Row:
    random = np.random.default_rng(index)
    behaviour = random.uniform(-6, -5, length).astype(np.float32)
    token_ids = random.integers(0, 256, 4 + length).astype(np.int32)
    valid = np.ones(length, dtype=np.bool_)
    return Row(token_ids, 4, valid, behaviour, behaviour - 0.1 if reference else None, advantage, index % 2, valid)


def batch(step: int = 1, *, reference: bool = True) -> TrainBatch:
    rows = tuple(
        row(index, length, value, reference=reference) for index, (length, value) in enumerate(zip(LENGTHS, ADVANTAGES, strict=True))
    )
    totals = tuple(BatchTotals(3, sum(LENGTHS[update::2])) for update in range(2))
    return TrainBatch(step, rows, totals)


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {spec.name: tensor.clone() for spec, tensor in zip(learner.backend.specs(), learner.backend.tensors(), strict=True)}


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((ours[name] - theirs[name]).square().sum()) for name in ours))


def same_figures(ours: StepResult, theirs: StepResult) -> None:
    timed = {"learner/seconds", "learner/tokens_per_s"}
    for name in ours.metrics.keys() - timed:
        assert ours.metrics[name] == pytest.approx(theirs.metrics[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("objective", ["gmpo", "grpo"])
def test_how_a_step_is_cut_into_micro_batches_changes_nothing(objective: str) -> None:
    whole, cut = (make(objective={"type": objective}, micro_batch_tokens=tokens) for tokens in (10_000, 8))
    before = weights(whole)
    same_figures(whole.train(batch()), cut.train(batch()))
    moved = distance(weights(whole), before)
    assert moved > 0
    assert distance(weights(whole), weights(cut)) < 1e-3 * moved


def test_the_first_update_is_on_policy_and_the_second_is_not() -> None:
    learner = make()
    first = learner.train(TrainBatch(1, tuple(entry for entry in batch().rows if entry.update == 0), batch().totals[:1]))
    assert first.metrics["learner/log_ratio_max"] == pytest.approx(0, abs=1e-6)
    assert first.metrics["learner/sequence_ratio"] == pytest.approx(1, abs=1e-6)
    assert make().train(batch()).metrics["learner/log_ratio_max"] > 1e-4


def test_with_behaviour_as_denominator_the_engine_counts() -> None:
    recomputed, behaviour = make().train(batch()), make(denominator="behaviour").train(batch())
    assert abs(behaviour.metrics["learner/log_ratio_min"]) > 0.1 > abs(recomputed.metrics["learner/log_ratio_min"])
    # Measured where the policy is still the one that sampled: on the first update's rows alone, since no other is scored beforehand.
    first = make().train(TrainBatch(1, tuple(entry for entry in batch().rows if entry.update == 0), batch().totals[:1]))
    assert behaviour.metrics["learner/mismatch"] == pytest.approx(first.metrics["learner/mismatch"])


def test_skipped_rows_change_neither_weights_nor_the_mean_ratio() -> None:
    kept, skipping = make(), make()
    full, before = batch(), weights(kept)
    same = kept.train(full), skipping.train(TrainBatch(1, tuple(entry for entry in full.rows if entry.advantage), full.totals))
    assert distance(weights(kept), weights(skipping)) < 1e-3 * distance(weights(kept), before)
    assert [result.metrics["learner/sequence_ratio"] for result in same] == pytest.approx([1, 1], abs=0.05)


@pytest.mark.parametrize("length", [0, 4])
def test_a_step_with_nothing_to_learn_moves_nothing(length: int) -> None:
    """All responses empty, or all advantages 0."""
    learner = make()
    before = weights(learner)
    result = learner.train(TrainBatch(1, (row(0, length, 0.0), row(1, length, 0.0)), (BatchTotals(1, length), BatchTotals(1, length))))
    assert distance(weights(learner), before) == 0
    assert result.metrics["learner/loss"] == 0 and result.metrics["learner/grad_norm"] == 0


def test_a_step_whose_verifications_all_failed_moves_nothing() -> None:
    learner = make()
    before = weights(learner)
    result = learner.train(TrainBatch(1, (), (BatchTotals(0, 0), BatchTotals(0, 0))))
    assert distance(weights(learner), before) == 0
    assert all(math.isfinite(value) for value in result.metrics.values())


def test_without_a_reference_there_is_no_divergence_from_it() -> None:
    assert "learner/kl_ref" not in make().train(batch(reference=False)).metrics
    assert make().train(batch()).metrics["learner/kl_ref"] > 0


def test_the_kl_term_pulls_towards_the_reference() -> None:
    plain, pulled = make(), make(kl={"coefficient": 0.1}, skip_zero_advantage=False)
    assert pulled.train(batch()).metrics["learner/loss"] > plain.train(batch()).metrics["learner/loss"]
    assert distance(weights(plain), weights(pulled)) > 0


def test_every_update_takes_the_next_learning_rate() -> None:
    learner = make(optimizer={"lr": 1e-3, "warmup_updates": 4})
    assert learner.train(batch()).metrics["learner/lr"] == pytest.approx(0.5e-3)
    assert learner.train(batch(2)).metrics["learner/lr"] == pytest.approx(1e-3)
    assert learner.progress.updates_done == 4


def test_a_restored_learner_goes_on_bit_for_bit(tmp_path: Path) -> None:
    first = make()
    first.train(batch())
    assert dist.group.WORLD is not None
    checkpoint.write(str(tmp_path), checkpoint.take(first, step=1, rank=0, waiting=Waiting()), dist.group.WORLD)
    unbroken = first.train(batch(2))
    second = make()
    checkpoint.read(str(tmp_path), 1, second, rank=0)
    resumed = second.train(batch(2))
    assert distance(weights(first), weights(second)) == 0
    assert unbroken.metrics["learner/loss"] == resumed.metrics["learner/loss"]
    assert unbroken.metrics["learner/grad_norm"] == resumed.metrics["learner/grad_norm"]


def test_a_tied_output_layer_travels_under_its_own_name_too() -> None:
    held = weights(make())
    torch.testing.assert_close(held["lm_head.weight"], held["model.embed_tokens.weight"], rtol=0, atol=0)


def poisoned(step: int = 1) -> TrainBatch:
    """The first update's advantages are no numbers, the second's are sound."""
    sound = batch(step)
    return TrainBatch(step, tuple(replace(entry, advantage=math.nan) if entry.update == 0 else entry for entry in sound.rows), sound.totals)


def test_an_update_that_is_not_finite_leaves_no_trace() -> None:
    healthy, hit = make(), make()
    sound = batch()
    second = TrainBatch(1, tuple(replace(entry, update=0) for entry in sound.rows if entry.update == 1), sound.totals[1:])
    healthy.train(second)
    result = hit.train(poisoned())
    assert result.metrics["learner/skipped_updates"] == 1 and result.metrics["learner/updates"] == 1
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert distance(weights(healthy), weights(hit)) == 0


def test_too_many_skipped_updates_in_a_row_end_the_run() -> None:
    learner = make(max_skipped_updates=2)
    nothing_sound = TrainBatch(1, tuple(replace(entry, advantage=math.nan) for entry in batch().rows), batch().totals)
    before = weights(learner)
    learner.train(poisoned())  # the sound update in between starts the count anew
    moved = weights(learner)
    with pytest.raises(TrainingDiverged, match="2 updates in a row"):
        learner.train(nothing_sound)
    assert distance(weights(learner), before) > 0 and distance(weights(learner), moved) == 0


def test_adapters_alone_are_trained_and_travel_merged() -> None:
    learner = make(lora={"rank": 4, "alpha": 8})
    plain = weights(make())
    before = weights(learner)
    assert before.keys() == plain.keys()
    assert distance(before, plain) == 0  # a fresh adapter changes nothing
    learner.train(batch())
    learner.train(batch(2))
    after = weights(learner)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert "model.layers.0.self_attn.q_proj.weight" in moved and "model.layers.3.mlp.down_proj.weight" in moved
    assert not any("norm" in name or "embed" in name or "lm_head" in name for name in moved)


def test_merged_adapters_score_as_the_adapted_policy_does() -> None:
    learner = make(lora={"rank": 4, "alpha": 8}, optimizer={"lr": 1e-2})
    learner.train(batch())
    learner.train(batch(2))
    plain = build_model(1)
    plain.load_state_dict(weights(learner))
    batches = pack([entry.token_ids for entry in batch().rows], [4] * len(LENGTHS), torch.device("cpu"))
    with torch.no_grad():
        adapted = learner.backend.score(batches, 1.0).logprobs
        torch.testing.assert_close(adapted, Scorer(plain)(batches, 1.0).logprobs, rtol=0, atol=1e-5)


def test_recomputing_activations_changes_no_gradient() -> None:
    kept, recomputed = make(), make(activation_checkpointing=True)
    same_figures(kept.train(batch()), recomputed.train(batch()))
    assert distance(weights(kept), weights(recomputed)) == 0


def test_an_entropy_bonus_raises_the_entropy() -> None:
    plain, bonus = make(), make(entropy_coefficient=10.0, skip_zero_advantage=False)
    for step in range(1, 6):
        entropies = [learner.train(batch(step)).metrics["learner/entropy"] for learner in (plain, bonus)]
    assert entropies[1] > entropies[0]


def test_a_correction_reports_what_it_weighs_and_leaves_out() -> None:
    corrected = make(correction={"type": "icepop", "low": 0.9, "high": 1.1}).train(batch()).metrics
    assert 0 < corrected["learner/correction_rejected"] < 1
    assert "learner/correction_mean" not in make().train(batch()).metrics


def test_ratios_to_the_sampling_policy_shrink_the_effective_sample() -> None:
    assert 0 < make().train(batch()).metrics["learner/effective_samples"] < 1


def test_percentiles_lie_between_the_extremes() -> None:
    found = make(denominator="behaviour").train(batch()).metrics
    order = [found[f"learner/log_ratio_{name}"] for name in ("min", "p01", "p99", "max")]
    assert order == sorted(order)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning")  # torch's compiler's own
def test_compiled_layers_make_the_same_update() -> None:
    plain, compiled = make(), make(compile=True)
    before = weights(plain)
    same_figures(plain.train(batch()), compiled.train(batch()))
    assert distance(weights(plain), weights(compiled)) < 1e-3 * distance(weights(plain), before)


@pytest.mark.parametrize("targets", [["q_proj", "q_projj"], ["lm_head"], ["embed_tokens"]])
def test_layers_that_no_adapter_can_train_are_refused_by_name(targets: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"learner.lora.targets: .*'{targets[-1]}'"):
        make(lora={"targets": targets})


def test_a_snapshot_of_a_fresh_optimizer_leaves_it_as_it_was() -> None:
    plain, saved = make(), make()
    saved.backend.snapshot()
    plain.train(batch())
    saved.train(batch())
    assert distance(weights(plain), weights(saved)) == 0


def test_recomputing_activations_brings_no_dropout() -> None:
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=258, hidden_size=32, ffn_dim=64, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=64, dropout=0.5
        )
    )
    settings = LearnerConfig(activation_checkpointing=True)
    backend = backends.build(model, settings, dtype="float32", device=torch.device("cpu"))
    packed = pack([entry.token_ids for entry in batch().rows], [4] * len(LENGTHS), torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(backend.score(packed, 1.0).logprobs, backend.score(packed, 1.0).logprobs)
