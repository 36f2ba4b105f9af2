"""vLLM's asynchronous engine and its OpenAI application; the only module of the endpoint that knows vLLM."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.policy.config import ServeConfig

if TYPE_CHECKING:
    from fastapi import FastAPI
    from vllm.v1.engine.async_llm import AsyncLLM

CPU_KV_CACHE_MIB = 256
STOP_TIMEOUT_S = 5


def prepare_environment(config: ServeConfig) -> None:
    """What torch and vLLM read while they are imported; must run before either is."""
    os.environ.update(VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", OMP_NUM_THREADS=str(config.threads))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    for name in ("VLLM_CPU_KVCACHE_SPACE", "VLLM_SERVER_DEV_MODE", "VLLM_API_KEY"):
        os.environ.pop(name, None)  # each would override what this module decides
    if config.gpus == 0:
        # nobind: engines on one machine would all be bound to the same cores. Without multiprocessing the model lives
        # in the engine's own process, which spares another import of vLLM.
        os.environ.update(VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_ENABLE_V1_MULTIPROCESSING="0")


def engine_options(config: ServeConfig, model: Path, names: list[str]) -> dict[str, Any]:
    """vLLM's settings for this endpoint, by the names of its command line."""
    kv_cache_mib = config.kv_cache_mib or (None if config.gpus else CPU_KV_CACHE_MIB)
    options: dict[str, Any] = {
        "model": str(model),
        "served_model_name": names,
        "load_format": "safetensors",
        # vLLM's own "auto" would serve float32 weights in half precision.
        "dtype": _stored_dtype(model) if config.dtype == "auto" else config.dtype,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_running,
        "kv_cache_memory_bytes": kv_cache_mib and kv_cache_mib << 20,
        "worker_extension_cls": "services.policy.lifeline.Lifeline",
        "disable_log_stats": True,
        "enable_log_requests": False,
    }
    if config.gpus:
        gpu = {"tensor_parallel_size": config.gpus, "gpu_memory_utilization": config.gpu_memory_share, "enforce_eager": config.eager}
        return options | gpu
    # A request with a seed whose prompt is read in two pieces kills vLLM's CPU engine, so prompts are never split.
    return options | {"distributed_executor_backend": "uni", "enforce_eager": True, "enable_chunked_prefill": False}


class ServingEngine:
    """One running engine. Build it in the event loop that will answer requests; `stop` leaves no process behind."""

    def __init__(self, config: ServeConfig, model: Path, names: list[str]) -> None:
        prepare_environment(config)
        self._sockets = tempfile.TemporaryDirectory(prefix="gmpo-", ignore_cleanup_errors=True)  # vLLM leaves its sockets behind
        os.environ["VLLM_RPC_BASE_PATH"] = self._sockets.name
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.arguments = _arguments(engine_options(config, model, names))
        before = set(multiprocessing.active_children())
        self.llm: AsyncLLM = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(self.arguments))
        self.processes = [process for process in multiprocessing.active_children() if process not in before]

    async def application(self) -> FastAPI:
        """vLLM's own OpenAI application over this engine, with every route it has."""
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app

        tasks = await self.llm.get_supported_tasks()
        app = build_app(self.arguments, tasks, self.llm.model_config)
        await init_app_state(self.llm, app.state, self.arguments, tasks)
        return app

    def running(self) -> int:
        """Requests that have been accepted and not yet answered in full."""
        return self.llm.get_num_unfinished_requests()

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
