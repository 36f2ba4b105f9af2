"""What a client may ask for, checked on vLLM's own request models before an engine hears of it.

Only the fields listed here are taken: vLLM's models know more, some of which are doors into the server (chat templates and media from
the request, adapters, transfer of keys and values, priorities).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from services.policy.config import LimitsConfig

_SAMPLING = """
model n temperature top_p top_k min_p seed max_tokens min_tokens stop stop_token_ids ignore_eos presence_penalty frequency_penalty
repetition_penalty logit_bias logprobs stream stream_options user skip_special_tokens include_stop_str_in_output echo
"""
SAMPLING = frozenset(_SAMPLING.split())
COMPLETION = SAMPLING | {"prompt", "add_special_tokens", "return_token_ids"}
CHAT = SAMPLING | {"messages", "max_completion_tokens", "top_logprobs"}

MESSAGE = frozenset({"role", "content", "name"})

LONGEST_STOP = 256
"""Characters of a stop string."""
MOST_STOP_IDS = 64
LARGEST_TOP_K = 2**31 - 1


class Refused(ValueError):
    """A request that asks for what it may not have."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


class Asked(Protocol):
    """The part of vLLM's request models that is looked at."""

    model_fields_set: set[str]
    model_extra: dict[str, Any] | None
    n: int | None
    stop: str | list[str] | None
    stop_token_ids: list[int] | None
    top_k: int | None
    logit_bias: dict[str, float] | None
    max_tokens: int | None
    min_tokens: int


def check_completion(request: Any, limits: LimitsConfig) -> None:
    """Refuse a /v1/completions request that goes beyond the limits."""
    _check_fields(request, COMPLETION)
    _check(request, limits, prompts=_prompts(request.prompt), logprobs=request.logprobs)


def check_chat(request: Any, limits: LimitsConfig) -> None:
    """Refuse a /v1/chat/completions request that goes beyond the limits."""
    _check_fields(request, CHAT)
    for message in request.messages:
        if unknown := sorted({*message} - MESSAGE) if isinstance(message, dict) else []:
            raise Refused("messages", f"a message has no {unknown[0][:100]!r} here")
        _check_content(message.get("content") if isinstance(message, dict) else None)
    if request.max_completion_tokens is not None:
        _at_most("max_completion_tokens", request.max_completion_tokens, limits.max_tokens)
    _check(request, limits, prompts=1, logprobs=request.top_logprobs)


def _check_fields(request: Asked, allowed: frozenset[str]) -> None:
    given = [name for name in request.model_fields_set if getattr(request, name, None) is not None]
    given += [name for name, value in (request.model_extra or {}).items() if value is not None]
    if unknown := sorted(set(given) - allowed):
        raise Refused(unknown[0][:100], "this endpoint does not take it")


def _check(request: Asked, limits: LimitsConfig, *, prompts: int, logprobs: int | None) -> None:
    samples = prompts * (request.n or 1)
    if samples > limits.samples:
        raise Refused("n", f"{samples} answers asked for in one request, at most {limits.samples} are given")
    if request.max_tokens is not None:
        _at_most("max_tokens", request.max_tokens, limits.max_tokens)
    _at_most("min_tokens", request.min_tokens, limits.max_tokens)
    _at_most("logprobs", logprobs or 0, limits.logprobs)
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    _at_most("stop", len(stops), limits.stops)
    if any(len(stop) > LONGEST_STOP for stop in stops):
        raise Refused("stop", f"a stop string has at most {LONGEST_STOP} characters")
    if any(not _is_unicode(stop) for stop in stops):
        raise Refused("stop", "it holds half of a surrogate pair")
    _at_most("top_k", request.top_k or 0, LARGEST_TOP_K)
    _at_most("stop_token_ids", len(request.stop_token_ids or []), MOST_STOP_IDS)
    _at_most("logit_bias", len(request.logit_bias or {}), limits.logit_bias)


def _at_most(param: str, value: int, limit: int) -> None:
    if value > limit:
        raise Refused(param, f"{value} is more than {limit}, the most that is given")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _prompts(prompt: Any) -> int:
    """How many prompts a completion's `prompt` holds: text or token ids, or a list of either."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return len(prompt)
    return 1


def _check_content(content: str | Iterable[Any] | None) -> None:
    """Only text: a URL of an image would be fetched by the server."""
    for part in content if content is not None and not isinstance(content, str) else ():
        if not isinstance(part, str) and (not isinstance(part, dict) or part.get("type") != "text"):
            raise Refused("messages", "only text is taken")
