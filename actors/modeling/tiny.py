"""Builds the tiny policy from nothing: a byte-level tokenizer that can read any text, and a randomly initialised Qwen2 model.

The chat template adds no markers around the user's words, so that a raw completion and a chat with one question see the same tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actors.modeling.config import TinyPolicy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

END, PAD = "<|end|>", "<|pad|>"
CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte (ids 0-255), then the end of an answer and padding."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True), AddedToken(PAD, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False
    )


def make_model(config: TinyPolicy) -> Qwen2ForCausalLM:
    """A random model on the CPU in float32, seeded by the warm-up's seed."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(config.warmup.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),  # no row without a token: whatever is sampled has a text
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=config.tied,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            dtype="float32",
            architectures=["Qwen2ForCausalLM"],
        )
    )


def save(model: Qwen2ForCausalLM, directory: Path) -> None:
    """Write model and tokenizer in Hugging Face's layout."""
    from huggingface_hub import save_torch_model

    # The model's own save_pretrained imports every accelerator library it finds installed.
    directory.mkdir(parents=True, exist_ok=True)
    save_torch_model(model, directory)
    model.config.save_pretrained(directory)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
