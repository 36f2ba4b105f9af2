"""A generation engine: one vLLM AsyncLLM behind a few methods. Token ids in, token ids out; engines never listen on a port.

Control calls (pause, weights, health) never wait behind generation: everything is asynchronous on one loop, and the actor is given
a concurrency far above the number of responses in flight.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import ray

from actors.errors import EngineError
from actors.generation.spec import EngineSpec, Sampling, sample_seed
from actors.generation.vllm_terms import digest_of, engine_arguments, sampling_params, to_rollout
from actors.types import GroupMeta, Prompt, Rollout, RolloutGroup


class Engine:
    """One vLLM engine. Call `start` first; it returns once the engine can take requests."""

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._llm: Any = None
        self._sockets = tempfile.TemporaryDirectory(prefix="gmpo-", ignore_cleanup_errors=True)  # vLLM leaves its sockets behind
        self._halted: set[str] = set()  # reasons to stand still
        self._updating = False  # the model is open for new weights
        self._submitted = 0
        self._submission = asyncio.Condition()

    async def start(self) -> float:
        """Bring the engine up; returns the seconds it took. Called again it does nothing: an answer may have been lost."""
        began = time.monotonic()
        if self._llm is not None:
            return 0.0
        os.environ["VLLM_RPC_BASE_PATH"] = self._sockets.name
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(self._spec)))
        return time.monotonic() - began

    async def process(self) -> tuple[int, str]:
        """(process id, Ray node id): where to end this engine from outside when it does not answer."""
        return os.getpid(), ray.get_runtime_context().get_node_id()

    async def generate(self, prompt: Prompt, seed: int, sampling: Sampling | None = None) -> tuple[GroupMeta, RolloutGroup]:
        """Sample the responses to one prompt, each from its own seed under the run's `seed`. Cancelling the call aborts them."""
        began = time.monotonic()
        if self._llm is None:
            raise EngineError(f"engine {self._spec.index} has not started")
        chosen = sampling or Sampling.of(self._spec.config)
        requests = [self._sample(prompt, chosen, sample_seed(seed, prompt.ordinal, sample)) for sample in range(chosen.samples)]
        group = RolloutGroup(prompt, tuple(await asyncio.gather(*requests)))
        meta = GroupMeta(
            ordinal=prompt.ordinal,
            versions=group.versions,
            lengths=tuple(len(rollout.token_ids) for rollout in group.rollouts),
            truncated=sum(rollout.finish_reason == "length" for rollout in group.rollouts),
            seconds=time.monotonic() - began,
        )
        return meta, group

    async def _sample(self, prompt: Prompt, sampling: Sampling, seed: int) -> Rollout:
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        params = sampling_params(sampling, seed)
        request_id = f"{prompt.row}/{prompt.ordinal}/{seed}/{time.monotonic_ns()}"
        try:
            queue = await self._llm.add_request(request_id, {"prompt_token_ids": prompt.token_ids.tolist()}, params)
            await self._count_submission()
            while not (output := await queue.get()).finished:
                pass
        except asyncio.CancelledError:  # nobody waits for it any more
            await self._llm.abort(request_id)
            raise
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineError(f"engine {self._spec.index} failed on prompt {prompt.ordinal}: {error}") from None
        return to_rollout(output.outputs[0])

    async def _count_submission(self) -> None:
        async with self._submission:
            self._submitted += 1
            self._submission.notify_all()

    async def hold(self) -> None:
        """Freeze scheduling, so that what is submitted next starts as one batch whatever the arrival times."""
        self._submitted = 0
        await self._halt("together", clear_cache=False)

    async def release(self, responses: int) -> None:
        """Let go once `responses` have been submitted since `hold`: the engine then sees the same queue in every run."""
        async with self._submission:
            await self._submission.wait_for(lambda: self._submitted >= responses)
        await self._go_on("together")

    async def pause(self) -> None:
        """Freeze running responses and drop their keys and values, which the coming weights would make wrong."""
        await self._halt("update", clear_cache=True)

    async def resume(self) -> None:
        """Go on, recomputing keys and values under the present weights."""
        await self._go_on("update")

    async def _halt(self, reason: str, *, clear_cache: bool) -> None:
        self._halted.add(reason)
        await self._llm.pause_generation(mode="keep", clear_cache=clear_cache)

    async def _go_on(self, reason: str) -> None:
        """Resume once no reason to stand still is left: a release must not wake an engine whose weights are in parts."""
        self._halted.discard(reason)
        if not self._halted:
            await self._llm.resume_generation()

    async def join(self, info: Mapping[str, Any]) -> None:
        """Join the weight group; returns when every member has."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=dict(info)))

    async def begin_update(self) -> None:
        """Open the model for new weights; the engine must be paused. One that was left open by a broken publication starts anew."""
        if self._updating:
            await self._llm.finish_weight_update()
        await self._llm.start_weight_update()
        self._updating = True

    async def receive(self, params: list[tuple[str, str, list[int]]]) -> None:
        """Take one publication's bytes; runs while rank 0 of the group sends."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        try:
            await self._llm.update_weights(WeightTransferUpdateRequest(update_info={"params": params}))
        except BaseException:
            self._updating = False  # vLLM closes the model itself then, with its weights in parts
            raise

    async def commit(self, version: int) -> tuple[str, str]:
        """Put the weights in place and label them. Returns (digest of the bytes received, digest of the engine's own tensors)."""
        await self._llm.finish_weight_update(str(version))
        self._updating = False
        received = await self._llm.collective_rpc("received_digest")
        checksums = await self._llm.compute_weight_checksums()
        if len(set(received)) != 1:
            raise EngineError(f"workers of engine {self._spec.index} received different bytes")
        return str(received[0]), digest_of(checksums)

    async def probe(self, token_ids: list[int]) -> list[float]:
        """Log-probs of token_ids[1:] given what precedes each, at temperature 1: [len - 1]."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
        request_id = f"probe/{time.monotonic_ns()}"
        queue = await self._llm.add_request(request_id, {"prompt_token_ids": list(token_ids)}, params, priority=-1)
        while not (output := await queue.get()).finished:
            pass
        return [float(entry[token].logprob) for entry, token in zip(output.prompt_logprobs[1:], token_ids[1:], strict=True)]

    async def health(self) -> str:
        """The version label the engine samples with; raises EngineError if it is dead."""
        if self._llm is None or self._llm.errored:
            raise EngineError("its vLLM core is dead")
        return str(await self._llm.get_weight_version())

    async def close(self) -> None:
        """Stop the engine and its children."""
        if self._llm is not None:
            self._llm.shutdown()
        self._sockets.cleanup()
