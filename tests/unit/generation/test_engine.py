"""What of an engine can be said without one."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from actors.errors import EngineError
from actors.generation.config import GenerationConfig
from actors.generation.spec import EngineSpec, Sampling, sample_seed
from actors.generation.vllm_terms import digest_of, engine_arguments, engine_environment, to_rollout, version_of
from actors.types import Span


def spec(*, gpu: bool = False, **config: Any) -> EngineSpec:
    return EngineSpec(0, "/model", "float32", "gloo", 48, gpu, GenerationConfig.model_validate(config))


def output(*, spans: Any = (), entries: Any = None) -> Any:
    """vLLM's output of three tokens."""
    token_ids = (5, 6, 7)
    logprobs = [{token: SimpleNamespace(logprob=-float(token))} for token in token_ids] if entries is None else entries
    return SimpleNamespace(token_ids=token_ids, logprobs=logprobs, weight_versions=spans, finish_reason=None, text="abc")


def test_every_response_of_a_run_has_a_seed_of_its_own_and_always_the_same() -> None:
    places = [(seed, ordinal, sample) for seed in (0, 1) for ordinal in range(50) for sample in range(8)]
    seeds = [sample_seed(*place) for place in places]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
    assert seeds == [sample_seed(*place) for place in places]


def test_an_output_becomes_a_rollout_with_the_version_of_every_token() -> None:
    spans = [SimpleNamespace(version="3", start=0, end=1), SimpleNamespace(version="4", start=1, end=3)]
    rollout = to_rollout(output(spans=spans))
    assert rollout.token_ids.tolist() == [5, 6, 7] and rollout.logprobs.tolist() == [-5, -6, -7]
    assert rollout.spans == (Span(3, 0, 1), Span(4, 1, 3))
    assert rollout.mask.all() and rollout.finish_reason == "abort"


def test_a_token_without_a_log_prob_is_an_error_and_not_a_shift() -> None:
    with pytest.raises(ValueError, match="zip"):
        to_rollout(output(entries=[{5: SimpleNamespace(logprob=-1.0)}]))


@pytest.mark.parametrize("label", ["default", "", "-1"])
def test_a_response_sampled_before_any_version_was_confirmed_is_refused(label: str) -> None:
    with pytest.raises(EngineError):
        version_of(label)


def test_engines_agree_by_tensor_and_not_by_order_or_number_of_workers() -> None:
    whole = digest_of([{"a": "1", "b": "2"}])
    assert whole == digest_of([{"b": "2", "a": "1"}]) == digest_of([{"b": "2"}, {"a": "1"}])
    assert whole != digest_of([{"a": "2", "b": "1"}])


def test_an_engine_on_a_cpu_neither_chunks_nor_captures() -> None:
    cpu, gpu = engine_arguments(spec()), engine_arguments(spec(gpu=True))
    assert cpu["enforce_eager"] and cpu["enable_chunked_prefill"] is False and cpu["kv_cache_memory_bytes"] == 256 * 2**20
    assert gpu["kv_cache_memory_bytes"] is None and engine_arguments(spec(gpu=True, kv_cache_mib=64))["kv_cache_memory_bytes"] == 64 * 2**20
    assert not gpu["enforce_eager"] and "enable_chunked_prefill" not in gpu
    for arguments in (cpu, gpu):
        assert arguments["logprobs_mode"] == "processed_logprobs" and arguments["trust_remote_code"] is False
        assert arguments["enable_prefix_caching"] is False and arguments["generation_config"] == "vllm"


def test_insecure_serialization_is_never_switched_on() -> None:
    for gpu in (False, True):
        environment = engine_environment(spec(gpu=gpu))
        assert environment["VLLM_SERVER_DEV_MODE"] == environment["VLLM_ALLOW_INSECURE_SERIALIZATION"] == "0"


def test_a_spec_travels_and_its_recipe_says_how_to_sample() -> None:
    sent = spec(group_size=4, max_tokens=9, temperature=0.7, top_p=0.9, top_k=20)
    assert pickle.loads(pickle.dumps(sent)) == sent
    assert Sampling.of(sent.config) == Sampling(4, 0.7, 0.9, 20, 9)
