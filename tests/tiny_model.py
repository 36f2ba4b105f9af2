"""A random Qwen2 of about 0.8 M parameters and a byte-level tokenizer: what a policy is made of, small enough to build in a test."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

END, PAD = "<|end|>", "<|pad|>"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% if message['role'] == 'assistant' %}" + END + "{% endif %}{% endfor %}"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, then the end and the padding token."""
    vocabulary = {character: index for index, character in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(END, special=True), AddedToken(PAD, special=True)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)
    fast.chat_template = TEMPLATE
    return fast


def build_config() -> Qwen2Config:
    """Tied embeddings and heads of 32, the smallest size that engines run on a CPU."""
    return Qwen2Config(
        vocab_size=258,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=384,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=256,
        pad_token_id=257,
        bos_token_id=None,
    )


def build_model(seed: int = 0) -> Qwen2ForCausalLM:
    """Random float32 weights, a function of the seed."""
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(build_config()).eval()


def save_tokenizer(directory: Path) -> Path:
    """The tokenizer's files, in their own directory."""
    build_tokenizer().save_pretrained(directory)
    return directory
