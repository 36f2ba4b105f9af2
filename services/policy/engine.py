"""One vLLM engine that holds one policy version at a time, and vLLM's own OpenAI layer over it."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import threading
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import EngineError
from services.policy.config import ServeConfig

if TYPE_CHECKING:
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
    from vllm.v1.engine.async_llm import AsyncLLM

CPU_KV_CACHE_MIB = 256
STOP_TIMEOUT_S = 5
_ONE_AT_A_TIME = threading.Lock()
"""vLLM takes its sockets' folder from the environment, which all engines of a process share."""


def prepare_environment(config: ServeConfig) -> None:
    """What torch and vLLM read while they are imported; must run before either is."""
    os.environ.update(VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", OMP_NUM_THREADS=str(config.threads))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    for name in ("VLLM_CPU_KVCACHE_SPACE", "VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_API_KEY"):
        os.environ.pop(name, None)  # each would override what this module decides
    if config.gpus == 0:
        # nobind: engines on one machine would all be bound to the same cores. Without multiprocessing the model lives
        # in the engine's own process, which spares another import of vLLM.
        os.environ.update(VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_ENABLE_V1_MULTIPROCESSING="0")


def engine_options(config: ServeConfig, model: Path) -> dict[str, Any]:
    """vLLM's settings for this endpoint, by the names of its command line."""
    kv_cache_mib = config.kv_cache_mib or (None if config.gpus else CPU_KV_CACHE_MIB)
    options: dict[str, Any] = {
        "model": str(model),
        "load_format": "safetensors",
        # vLLM's own "auto" would serve float32 weights in half precision.
        "dtype": _stored_dtype(model) if config.dtype == "auto" else config.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_running,
        "max_logprobs": config.limits.logprobs,
        "kv_cache_memory_bytes": kv_cache_mib and kv_cache_mib << 20,
        "worker_extension_cls": "services.policy.lifeline.Lifeline",
        "disable_log_stats": True,
        "enable_log_requests": False,
    }
    if config.gpus:
        share = config.gpu_memory_share / config.resident
        return options | {"tensor_parallel_size": config.gpus, "gpu_memory_utilization": share, "enforce_eager": config.eager}
    # A request with a seed whose prompt is read in two pieces kills vLLM's CPU engine, so prompts are never split.
    return options | {"distributed_executor_backend": "uni", "enforce_eager": True, "enable_chunked_prefill": False}


class ServingEngine:
    """One running engine. Build it in a thread, `open` it in the event loop that answers requests; `stop` leaves no process behind."""

    completions: OpenAIServingCompletion
    """vLLM's handler of /v1/completions; there once the engine is open, as is the other."""
    chat: OpenAIServingChat

    def __init__(self, config: ServeConfig, model: Path) -> None:
        """Start the engine's process with the weights in `model`; takes seconds."""
        prepare_environment(config)
        self._longest = config.limits.max_tokens
        with _ONE_AT_A_TIME:
            self._sockets = tempfile.TemporaryDirectory(prefix="gmpo-", ignore_cleanup_errors=True)  # vLLM leaves its sockets behind
            os.environ["VLLM_RPC_BASE_PATH"] = self._sockets.name
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

            self.arguments = _arguments(engine_options(config, model))
            before = set(multiprocessing.active_children())
            try:
                self.llm: AsyncLLM = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(self.arguments))
            except RuntimeError as error:
                raise EngineError(f"the engine did not start: {error}") from error
            self.processes = [process for process in multiprocessing.active_children() if process not in before]

    async def open(self) -> None:
        """Put vLLM's OpenAI handlers over the engine."""
        from starlette.datastructures import State
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state

        state = State()
        await init_app_state(self.llm, state, self.arguments, await self.llm.get_supported_tasks())
        self.completions, self.chat = state.openai_serving_completion, state.openai_serving_chat
        self._names: list[Any] = state.openai_serving_models.base_model_paths
        # Of a request that names no length; where the context has less room, vLLM gives that.
        self.chat.default_sampling_params.setdefault("max_tokens", self._longest)

    def introduce(self, name: str, fingerprint: str) -> None:
        """The name and the `system_fingerprint` that answers carry from now on."""
        from vllm.entrypoints.openai.models.protocol import BaseModelPath

        self._names[:] = [BaseModelPath(name=name, model_path=name)]
        self.completions.system_fingerprint = self.chat.system_fingerprint = fingerprint

    async def load(self, model: Path) -> None:
        """Take the verified weights in `model` instead of its own; no request may be under way.

        A failure leaves the engine without weights: it must be stopped.
        """
        await self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(model)})
        if not await self.llm.reset_prefix_cache():
            raise EngineError("keys and values of the weights before could not be forgotten")

    @property
    def dead(self) -> bool:
        """Whether its process has ended."""
        return bool(self.llm.errored)

    def stop(self) -> None:
        """End the engine and see its processes gone."""
        self.llm.shutdown(timeout=STOP_TIMEOUT_S)
        for process in self.processes:
            process.kill()  # does nothing to one that has ended
            process.join()
        self._sockets.cleanup()


def _arguments(options: dict[str, Any]) -> Namespace:
    """vLLM's command line with these options set: its application reads far more settings than the engine does."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    arguments: Namespace = make_arg_parser(parser).parse_args([])
    if unknown := options.keys() - vars(arguments).keys():
        raise TypeError(f"vLLM has no settings named {sorted(unknown)}")
    vars(arguments).update(options)
    return arguments


def _stored_dtype(model: Path) -> str:
    return str(json.loads((model / "config.json").read_text())["dtype"])
