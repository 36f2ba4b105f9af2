from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from services.policy.config import LimitsConfig
from services.policy.limits import Refused, check_chat, check_completion

LIMITS = LimitsConfig(samples=8, max_tokens=100, logprobs=5, stops=4, logit_bias=3)
DEFAULTS: dict[str, Any] = {
    "n": 1,
    "stop": [],
    "stop_token_ids": [],
    "logit_bias": None,
    "max_tokens": None,
    "min_tokens": 0,
    "logprobs": None,
    "top_k": None,
}
CHAT: dict[str, Any] = DEFAULTS | {"messages": [{"role": "user", "content": "1="}], "max_completion_tokens": None, "top_logprobs": 0}


def request(defaults: dict[str, Any], **given: Any) -> SimpleNamespace:
    """What vLLM's models offer of a parsed request."""
    known = {name: value for name, value in given.items() if not name.startswith("x_")}
    extra = {name: value for name, value in given.items() if name.startswith("x_")}
    return SimpleNamespace(**defaults | known, model_fields_set={*known}, model_extra=extra)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"n": 9}, "n"),
        ({"n": 10**6}, "n"),
        ({"prompt": ["a"] * 3, "n": 3}, "n"),
        ({"prompt": [[1, 2]] * 9}, "n"),
        ({"max_tokens": 101}, "max_tokens"),
        ({"min_tokens": 101}, "min_tokens"),
        ({"logprobs": 6}, "logprobs"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": "a" * 257}, "stop"),
        ({"stop": ["\ud800"]}, "stop"),
        ({"top_k": 2**64}, "top_k"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
        ({"logit_bias": dict.fromkeys("1234", 1.0)}, "logit_bias"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"priority": 3}, "priority"),
        ({"kv_transfer_params": {"do_remote_prefill": True}}, "kv_transfer_params"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"structured_outputs": {"regex": "(a+)+"}}, "structured_outputs"),
        ({"prompt_logprobs": 5}, "prompt_logprobs"),
        ({"x_unknown": 1}, "x_unknown"),
    ],
)
def test_what_goes_beyond_a_limit_is_refused_by_name(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        check_completion(request(DEFAULTS | {"prompt": "1="}, **given), LIMITS)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "1=", "n": 8, "max_tokens": 100, "logprobs": 5, "stop": ["\n"] * 4, "echo": True, "seed": 1, "user": "ana"},
        {"prompt": [1, 2, 3] * 100},
        {"prompt": [[1, 2], [3]], "n": 4},
        {"prompt": "1=", "priority": None, "x_unknown": None},
    ],
)
def test_what_stays_within_the_limits_passes(given: dict[str, Any]) -> None:
    check_completion(request(DEFAULTS, **given), LIMITS)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "[" * 9}}]}]}, "messages"),
        ({"max_completion_tokens": 101}, "max_completion_tokens"),
        ({"top_logprobs": 6}, "logprobs"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "1="}, {"type": "input_audio"}]}]}, "messages"),
    ],
)
def test_no_template_and_no_media_come_from_a_client(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refused:
        check_chat(request(CHAT, **given), LIMITS)
    assert refused.value.param == param


def test_text_in_parts_is_taken() -> None:
    check_chat(request(CHAT, messages=[{"role": "user", "content": [{"type": "text", "text": "1="}]}], max_completion_tokens=100), LIMITS)
