"""How a question becomes the text, and then the tokens, that the policy sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jinja2 import TemplateError

from actors.errors import DataError
from actors.prompts.config import TemplateName
from actors.prompts.problems import Message, Question
from actors.types import IntArray

QWEN_MATH_SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that prompts need."""

    def apply_chat_template(self, conversation: list[dict[str, Any]], *, add_generation_prompt: bool, tokenize: bool) -> Any:
        """The conversation as text, up to where the assistant begins."""

    def __call__(self, text: list[str], *, add_special_tokens: bool) -> Any:
        """A mapping whose `input_ids` are the token ids of each text."""


def _qwen_math(question: str) -> str:
    """The chat format that Qwen2.5-Math was tuned with, written out: its base models' tokenizers carry another system message."""
    return f"<|im_start|>system\n{QWEN_MATH_SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def _r1(question: str) -> str:
    """The R1-Zero conversation for base models: the tags and the open <think> are its format, the words are ours.

    It asks for \\boxed{} inside the answer, which is where the math verifier looks.
    """
    return (
        "Below, a User talks to an Assistant who answers questions. Before answering, the Assistant works the problem out in private, "
        "between <think> and </think>. What the User is to read comes after that, between <answer> and </answer>, and the final result "
        "in it is written as \\boxed{}: <think> working </think> <answer> reply with \\boxed{result} </answer>.\n"
        f"User: {question}\nAssistant: <think>"
    )


def _plain(question: str) -> str:
    """For base models and rows that already hold the whole prompt."""
    return question


_WRITTEN_OUT: Mapping[TemplateName, Callable[[str], str]] = {"qwen_math": _qwen_math, "r1": _r1, "plain": _plain}


class Renderer:
    """Renders and tokenizes questions by one template. Raises DataError at once if the tokenizer cannot follow it.

    `system` is put before a chat that has no system message of its own.
    """

    def __init__(self, tokenizer: Tokenizer, template: TemplateName, system: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._write = _WRITTEN_OUT.get(template)
        self._system = system
        self.render("1+1=")

    def render(self, question: Question) -> str:
        """The prompt as text; DataError for messages that the template cannot express."""
        return self._chat(question) if self._write is None else self._write(_single_message(question))

    def encode(self, texts: Sequence[str]) -> list[IntArray]:
        """Token ids of rendered prompts. No special tokens are added: where a model needs them, its template wrote them."""
        if not texts:
            return []
        return [np.asarray(ids, dtype=np.int32) for ids in self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def _chat(self, question: Question) -> str:
        messages: list[Message] = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
        if self._system is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self._system})
        try:
            return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        except (ValueError, TemplateError) as error:
            raise DataError(f"the tokenizer's chat template cannot be used: {error}") from error


def _single_message(question: Question) -> str:
    if isinstance(question, str):
        return question
    if len(question) != 1 or question[0]["role"] != "user":
        raise DataError("only the chat template takes more than one user message")
    return str(question[0]["content"])
