from __future__ import annotations

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and a beginning-of-text token that plain calls prepend, as many models' tokenizers do."""
    vocabulary = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    inner = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = ByteLevelDecoder()
    inner.add_special_tokens(["<|bos|>", "<|im_start|>", "<|im_end|>"])
    inner.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 256)])
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|bos|>", eos_token="<|im_end|>")  # type: ignore[no-untyped-call]
    fast.chat_template = CHAT
    return fast


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real problems, which is not part of the repository."""
    default = Path(__file__).parents[3].parent / "shared" / "data"
    folder = Path(os.environ.get("GMPO_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real problems at {folder}: set GMPO_SHARED_DATA to a folder with train/ and eval/")
    return folder
