from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from actors.errors import DataError
from actors.prompts.templates import Renderer

TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]


def test_chat_is_the_tokenizers_own_up_to_where_the_assistant_begins(tokenizer: PreTrainedTokenizerFast) -> None:
    text = Renderer(tokenizer, "chat").render("2+2?")
    assert text == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"


def test_a_rows_own_system_message_wins(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer, "chat", "Think hard.")
    assert renderer.render("2+2?").startswith("<|im_start|>system\nThink hard.<|im_end|>\n<|im_start|>user\n2+2?")
    assert renderer.render(TALK).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?")
    assert TALK[0]["content"] == "Be brief."


def test_qwen_math_is_written_as_the_model_knows_it(tokenizer: PreTrainedTokenizerFast) -> None:
    assert Renderer(tokenizer, "qwen_math").render("2+2?") == (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_r1_ends_in_an_open_thought(tokenizer: PreTrainedTokenizerFast) -> None:
    text = Renderer(tokenizer, "r1").render("Find {x} in \\frac{1}{x}.")
    assert text.endswith("\nUser: Find {x} in \\frac{1}{x}.\nAssistant: <think>")
    assert all(part in text for part in ("</think>", "<answer>", "</answer>", "\\boxed{"))


def test_plain_is_the_question(tokenizer: PreTrainedTokenizerFast) -> None:
    assert Renderer(tokenizer, "plain").render(TALK[1:]) == "2+2?"


@pytest.mark.parametrize("template", ["qwen_math", "r1", "plain"])
def test_conversations_need_the_chat_template(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    with pytest.raises(DataError, match="more than one user message"):
        Renderer(tokenizer, template).render(TALK)  # type: ignore[arg-type]


def test_encoding_adds_nothing_and_loses_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(tokenizer, "chat")
    texts = [renderer.render("2+2?"), renderer.render("Größe: 𝔽₂ ∑")]
    tokens = renderer.encode(texts)
    assert [tokenizer.decode(ids) for ids in tokens] == texts
    assert tokens[0].dtype == "int32" and 256 in tokenizer("2+2?")["input_ids"]
    assert all(256 not in ids for ids in tokens)


def test_a_tokenizer_that_cannot_follow_the_template_is_refused_at_once(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)  # type: ignore[no-untyped-call]
    with pytest.raises(DataError, match="chat_template is not set"):
        Renderer(bare, "chat")
    assert Renderer(bare, "plain").render("2+2?") == "2+2?"
    bare.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}{{ messages[0]['content'] }}"
    )
    assert Renderer(bare, "chat").render("2+2?") == "2+2?"
    with pytest.raises(DataError, match="no system message"):
        Renderer(bare, "chat", "Be brief.")
