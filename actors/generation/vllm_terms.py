"""Our words in vLLM's terms, and vLLM's answers in ours: the only place besides the engine that knows its options by name."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.errors import EngineError
from actors.generation.spec import EngineSpec, Sampling
from actors.types import Rollout, Span

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput
    from vllm.sampling_params import SamplingParams


def engine_environment(spec: EngineSpec) -> dict[str, str]:
    """Environment an engine's processes need from their first instruction on."""
    common = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
        # Neither commands nor pickles reach an engine, whatever the machine's environment says.
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "0",
    }
    if spec.gpu:
        return common
    threads = str(spec.config.threads)
    # One process less to start than with the default executor; "nobind" because two engines on a node would claim the same cores.
    return common | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": threads}


def engine_arguments(spec: EngineSpec) -> dict[str, Any]:
    """vLLM's own arguments for this engine."""
    config = spec.config
    arguments: dict[str, Any] = {
        "model": spec.model,
        "dtype": spec.dtype,
        "seed": 0,
        "max_model_len": spec.max_model_len,
        "max_num_seqs": config.max_running,
        "tensor_parallel_size": config.tensor_parallel,
        "enable_prefix_caching": False,
        "logprobs_mode": "processed_logprobs",
        "weight_transfer_config": {"backend": f"gmpo-{spec.transport}"},
        "worker_extension_cls": "actors.weights.receiver.WeightReceiver",
        "trust_remote_code": False,
        "disable_log_stats": True,
        "enable_log_requests": False,
        "generation_config": "vllm",
    }
    if spec.gpu:
        return arguments | {
            "enforce_eager": config.eager,
            "kv_cache_memory_bytes": config.kv_cache_mib and config.kv_cache_mib * 2**20,  # None: what the share leaves
            "gpu_memory_utilization": config.gpu_memory_share,
            "distributed_executor_backend": "ray" if config.tensor_parallel > 1 else "uni",
        }
    # A seeded request whose prefill is split over two steps kills vLLM 0.32's CPU engine: no chunking, room for many prompts at once.
    return arguments | {
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
        "kv_cache_memory_bytes": (config.kv_cache_mib or 256) * 2**20,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(8192, spec.max_model_len),
    }


def sampling_params(sampling: Sampling, seed: int) -> SamplingParams:
    """vLLM's form of our sampling: log-prob of the sampled token only, one final output."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    greedy = sampling.temperature == 0
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=1.0 if greedy else sampling.top_p,
        top_k=0 if greedy else sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=None if greedy else seed,
        logprobs=0,
        skip_special_tokens=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def to_rollout(output: CompletionOutput) -> Rollout:
    """Our form of vLLM's output."""
    token_ids = np.asarray(output.token_ids, dtype=np.int32)
    entries: Any = output.logprobs or ()
    logprobs = [entry[int(token)].logprob for entry, token in zip(entries, token_ids, strict=True)]
    spans = tuple(Span(version_of(span.version), span.start, span.end) for span in output.weight_versions or ())
    return Rollout(
        token_ids=token_ids,
        logprobs=np.asarray(logprobs, dtype=np.float32),
        mask=np.ones(len(token_ids), dtype=np.bool_),
        spans=spans,
        finish_reason=output.finish_reason or "abort",
        text=output.text,
    )


def version_of(label: str) -> int:
    """The policy version behind vLLM's label; an engine that was never given a version must not have sampled."""
    if not label.isdigit():
        raise EngineError(f"a response was sampled before any version was confirmed (label {label!r})")
    return int(label)


def digest_of(checksums: list[dict[str, str]]) -> str:
    """One digest over vLLM's per-tensor checksums of all workers."""
    merged = sorted(item for worker in checksums for item in worker.items())
    return hashlib.sha256(repr(merged).encode()).hexdigest()
