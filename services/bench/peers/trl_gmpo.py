"""TRL's experimental GMPO trainer on the work of `gmpo bench whole`, run by an interpreter that has TRL: `PYTHON trl_gmpo.py WORK`.

WORK is a JSON file, the fields of `services.bench.work.TrlWork`. A line of JSON is written after each step. The rewards of both
sides are here too, in TRL's signature, which this project's reward functions may have as well.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def digit_share(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """Share of the digit 7 among a response's characters; 0 for an empty one."""
    return [text.count("7") / max(1, len(text)) for text in completions]


def exact(prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str], **columns: Any) -> list[float]:
    """1 for the right answer, 0 for any other."""
    return [float(text.strip() == gold) for text, gold in zip(completions, answer, strict=True)]


def main() -> None:
    """Train as WORK says."""
    train(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


def train(work: dict[str, Any]) -> None:
    """`steps` steps, each one batch of responses and the optimizer updates made from it."""
    import torch
    from datasets import load_dataset  # type: ignore[import-untyped]
    from transformers import AutoTokenizer
    from trl.experimental.gmpo import GMPOTrainer  # type: ignore[import-not-found]

    torch.set_num_threads(work["threads"])
    trainer = GMPOTrainer(
        model=work["model"],
        reward_funcs=globals()[work["reward"]],
        args=arguments(work),
        train_dataset=load_dataset("json", data_files=work["rows"], split="train", cache_dir=work["output"]),
        processing_class=AutoTokenizer.from_pretrained(work["model"]),
    )
    with Path(work["steps_file"]).open("w", buffering=1, encoding="utf-8") as file:
        generations: list[dict[str, float]] = []
        trainer._generate_single_turn = timed(trainer._generate_single_turn, generations)
        trainer.add_callback(clock(file.write, generations, work["updates"]))
        trainer.train()


def arguments(work: dict[str, Any]) -> Any:
    """The same updates in TRL's terms: `steps_per_generation` batches of a fraction of the responses each, one optimizer step a batch.

    Where TRL's default is slower on a CPU it is not taken: weights in float32, nothing recomputed in the backward pass.
    """
    from trl.experimental.gmpo import GMPOConfig

    return GMPOConfig(
        output_dir=work["output"],
        per_device_train_batch_size=work["responses"] // work["updates"],
        gradient_accumulation_steps=1,
        steps_per_generation=work["updates"],
        num_iterations=1,
        max_steps=work["steps"] * work["updates"],
        num_generations=work["group_size"],
        max_completion_length=work["max_tokens"],
        temperature=1.0,
        beta=0.0,
        learning_rate=work["lr"],
        lr_scheduler_type="constant",
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=False,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
        use_cpu=True,
        dataloader_pin_memory=False,
        seed=work["seed"],
        report_to=[],
        save_strategy="no",
        logging_steps=work["updates"],
        disable_tqdm=True,
    )


def timed(generate: Callable[..., Any], generations: list[dict[str, float]]) -> Callable[..., Any]:
    """The trainer's own sampling, with a note of what each call took and gave."""

    def wrapped(*positional: Any, **named: Any) -> Any:
        began = time.monotonic()
        found = generate(*positional, **named)
        responses = found[0]
        generations.append(
            {"generation_s": time.monotonic() - began, "responses": len(responses), "tokens": sum(len(response) for response in responses)}
        )
        return found

    return wrapped


def clock(write: Callable[[str], object], generations: list[dict[str, float]], updates: int) -> Any:
    """A callback that writes a line once all updates of a batch are made: unix seconds, and its generation."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % updates == 0:
                generation = {name: sum(one[name] for one in generations) for name in ("generation_s", "responses", "tokens")}
                generations.clear()
                write(json.dumps({"time": time.time(), **generation}) + "\n")

    return Clock()


if __name__ == "__main__":
    main()
