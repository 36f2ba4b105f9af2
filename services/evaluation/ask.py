"""Asking one pinned version over HTTP, patiently, with OpenAI's own client."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from actors.errors import EngineError, PolicyVersionError, UnknownVersion, UsageError
from actors.generation.spec import Sampling
from actors.types import Rollout, Span
from services.policy.headers import STEP_HEADER, WEIGHTS_HEADER

# The client takes a second to import; verbs that only read results need not wait for it.
if TYPE_CHECKING:
    import openai
    from openai.types import CompletionChoice

PATIENCE_S = 600.0
"""Seconds of refusals after which a question is given up."""
WAIT_S = 2.0
"""Seconds before the next try, where a refusal names no time."""
ANSWER_TIMEOUT_S = 3600.0
"""Seconds one request may take; the endpoint's own limit ends it sooner."""
SAMPLES_PER_REQUEST = 8
"""Answers asked for at once. A constant, so that seeds, and with them answers, do not depend on an endpoint's cap."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pinned:
    """The version that all answers must come from."""

    step: int
    weights: str  # the first 12 digits of the weights' sha256

    @property
    def name(self) -> str:
        """Its name as a model."""
        return f"policy@step-{self.step}"


class Asker:
    """A client of one endpoint; an async context manager.

    Where the endpoint is away, or says 429 or 503, it is asked again after the time it names, PATIENCE_S at most; then EngineError.
    UsageError for a key or a request that it refuses, UnknownVersion for a version it does not have.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        patience_s: float = PATIENCE_S,
        http_client: Any = None,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        import openai

        self._url, self._patience_s, self._wait, self._clock = url, patience_s, wait, clock
        # Without a key a word is sent: the client would send the one it finds in the environment, which is for someone else.
        self._client = openai.AsyncOpenAI(
            base_url=f"{url.rstrip('/')}/v1", api_key=key or "none", timeout=ANSWER_TIMEOUT_S, max_retries=0, http_client=http_client
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._client.close()

    async def pin(self, model: str) -> Pinned:
        """The version that a model's name means now, by the headers of an answer of one token; it is in memory then."""
        raw = await self._patiently(
            lambda: self._client.completions.with_raw_response.create(model=model, prompt="1", max_tokens=1, temperature=0)
        )
        return self._version(raw.headers)

    async def versions(self) -> list[int]:
        """Steps of the versions that the endpoint has and does not refuse, oldest first."""
        found: Any = await self._patiently(lambda: self._client.get("/policies", cast_to=object))
        return sorted(int(row["step"]) for row in found["data"] if row["refused"] is None)

    async def ask(self, version: Pinned, prompt: Sequence[int], sampling: Sampling, seed: str) -> tuple[Rollout, ...]:
        """`sampling.samples` answers to a prompt of token ids; the same seed gives the same answers.

        PolicyVersionError if one of them is another version's.
        """
        rollouts: list[Rollout] = []
        while len(rollouts) < sampling.samples:
            count = min(SAMPLES_PER_REQUEST, sampling.samples - len(rollouts))
            rollouts += await self._request(version, list(prompt), sampling, count, _seed(f"{seed}/{len(rollouts)}"))
        return tuple(rollouts)

    async def _request(self, version: Pinned, prompt: list[int], sampling: Sampling, count: int, seed: int) -> list[Rollout]:
        # A model's own generation_config would fill in whatever is not said here.
        extra = {"top_k": sampling.top_k, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}
        raw = await self._patiently(
            lambda: self._client.completions.with_raw_response.create(
                model=version.name,
                prompt=prompt,
                n=count,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=seed if sampling.temperature > 0 else None,
                extra_body=extra,
            )
        )
        if (answered := self._version(raw.headers)) != version:
            raise PolicyVersionError(
                f"{self._url}: asked {version.name} ({version.weights}), answered by {answered.name} ({answered.weights})"
            )
        choices = sorted(raw.parse().choices, key=lambda choice: choice.index)
        if len(choices) != count:
            raise EngineError(f"{self._url}: {count} answers asked for, {len(choices)} given")
        return [_rollout(choice, version.step) for choice in choices]

    def _version(self, headers: Any) -> Pinned:
        try:
            return Pinned(int(headers[STEP_HEADER]), headers[WEIGHTS_HEADER])
        except KeyError:
            raise UsageError(f"{self._url}: the answer has no {STEP_HEADER}, so this is not a gmpo endpoint") from None

    async def _patiently(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request until it is taken; the time between two tries is the endpoint's to say."""
        import openai

        deadline = self._clock() + self._patience_s
        while True:
            try:
                return await request()
            except openai.APIStatusError as error:
                if error.status_code not in (429, 503):
                    raise self._refusal(error) from None
                wait_s, reason = _retry_after_s(error), error.message
            except openai.APIConnectionError as error:
                wait_s, reason = WAIT_S, f"no answer ({error.__cause__ or error})"
            if self._clock() + wait_s > deadline:
                raise EngineError(f"{self._url}: given up after {self._patience_s:g} s: {reason}")
            await self._wait(wait_s)

    def _refusal(self, error: openai.APIStatusError) -> Exception:
        message = f"{self._url}: {error.message}"
        if error.status_code == 404:
            return UnknownVersion(message)
        return EngineError(message) if error.status_code >= 500 or error.status_code == 408 else UsageError(message)


def _retry_after_s(error: openai.APIStatusError) -> float:
    try:
        return max(0.0, float(error.response.headers["retry-after"]))
    except (KeyError, ValueError):
        return WAIT_S


def _seed(text: str) -> int:
    """31 bits: what every sampler takes."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1


def _rollout(choice: CompletionChoice, step: int) -> Rollout:
    """An answer as verifiers take it; its log-probs are not asked for, and zero."""
    ids = np.asarray((choice.model_extra or {})["token_ids"], dtype=np.int32)
    length = len(ids)
    return Rollout(
        token_ids=ids,
        logprobs=np.zeros(length, np.float32),
        mask=np.ones(length, np.bool_),
        spans=(Span(step, 0, length),),
        finish_reason=choice.finish_reason,
        text=choice.text,
    )
