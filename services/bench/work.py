"""The work of `gmpo bench whole`: which policies, prompts and rewards, and the same of it in a recipe's terms and in TRL's."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from actors.prompts.digits import problem
from services.bench.shapes import SHAPES
from services.config import Recipe, parse_recipe

CHARACTERS = string.digits + string.ascii_letters + string.punctuation[:26]
"""What the 25m policy reads and writes; with an end and a padding token its vocabulary has 90."""
END, PAD = "<|end|>", "<|pad|>"
DIGITS = 6
"""Of a question, as in the tiny recipe."""
REWARDS = "services.bench.peers.trl_gmpo"
NEVER = 1_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """One size of run."""

    name: str
    prompts: int  # of a step
    group_size: int
    updates: int  # optimizer steps made from a step's responses
    max_tokens: int  # of a response
    lr: float
    reward: str  # a function of REWARDS
    kv_cache_mib: int
    timed_steps: int
    aim: float  # least ratio of samples per second, ours over theirs

    @property
    def responses(self) -> int:
        """Of a step."""
        return self.prompts * self.group_size


CASES = {
    # 25.2 M parameters; at random weights each token ends a response with a probability of about 1 in 90.
    "25m": Case("25m", 8, 8, 4, 256, 1e-6, "digit_share", kv_cache_mib=640, timed_steps=2, aim=2.0),
    # The policy, the prompts and the updates of deploy/recipes/tiny.yaml: right answers are 7 tokens long.
    "tiny": Case("tiny", 32, 8, 4, 16, 3e-4, "exact", kv_cache_mib=64, timed_steps=6, aim=0.8),
}


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person with so many cores chooses for speed."""

    cores: int
    engine_threads: int
    learner_threads: int
    max_staleness: int


@dataclass(frozen=True, slots=True)
class TrlWork:
    """The arguments of `peers/trl_gmpo.py`."""

    model: str
    rows: str
    output: str
    steps_file: str
    steps: int
    updates: int
    responses: int
    group_size: int
    max_tokens: int
    lr: float
    reward: str
    threads: int
    seed: int


def policy(case: Case, place: Path, *, seed: int, tell: Callable[[str], None]) -> Path:
    """The directory of the starting policy: of random weights, or the tiny recipe's, taught unless it is cached."""
    if case.name == "tiny":
        from services.training.warmup import warm_policy

        tree = {
            "run": {"name": "warm", "steps": 1, "prompts_per_step": case.prompts},
            "policy": {"type": "tiny"},
            "prompts": {"source": {"type": "digits", "task": "reverse", "digits": DIGITS}, "max_tokens": 32},
            "generation": {"max_tokens": case.max_tokens},
        }
        return warm_policy(parse_recipe(tree), tell)
    from huggingface_hub import save_torch_model

    tokenizer = character_tokenizer()
    model = replace(SHAPES["30m"], vocabulary=len(tokenizer)).build(seed=seed)
    model.config.update({"use_cache": True, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id})
    model.config.update({"bos_token_id": None, "max_position_embeddings": 1024, "architectures": [type(model).__name__]})
    place.mkdir()
    save_torch_model(model, place)
    model.config.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def character_tokenizer() -> Any:
    """One token a character."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(vocab={character: index for index, character in enumerate(CHARACTERS)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True), AddedToken(PAD, special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False)


def write_rows(path: Path, count: int, *, seed: int) -> None:
    """Prompts of both sides, one object a line."""
    problems = (problem("reverse", DIGITS, seed=seed, number=number) for number in range(count))
    path.write_text("".join(json.dumps({"prompt": one.question, "answer": one.answer}) + "\n" for one in problems), encoding="utf-8")


def recipe(case: Case, chosen: Choices, *, model: Path, rows: Path, root: Path, steps: int, seed: int) -> Recipe:
    """The run as a recipe: nothing is recorded, evaluated or checkpointed before its last step."""
    tree: Mapping[str, Any] = {
        "run": {
            "name": "whole",
            "root": str(root),
            "seed": seed,
            "steps": steps,
            "prompts_per_step": case.prompts,
            "export_every": NEVER,
            "record_share": 0,
        },
        "policy": {"type": "pretrained", "path": str(model), "dtype": "float32"},
        "prompts": {"source": {"type": "file", "path": str(rows)}, "template": "plain", "task": "exact", "max_tokens": 32},
        "generation": {
            "group_size": case.group_size,
            "max_tokens": case.max_tokens,
            "kv_cache_mib": case.kv_cache_mib,
            "threads": chosen.engine_threads,
        },
        "reward": {"parts": [{"type": "function", "path": f"{REWARDS}:{case.reward}", "style": "trl"}], "workers": 1},
        "reference": {"enabled": False},
        "replay": {"max_staleness": chosen.max_staleness},
        "learner": {
            "ranks": 1,
            "updates_per_step": case.updates,
            "threads": chosen.learner_threads,
            "optimizer": {"lr": case.lr},
            "checkpoint_every": NEVER,
        },
        "cluster": {"device": "cpu", "cpus": chosen.cores},
        "telemetry": {"console": "off"},
    }
    return parse_recipe(tree)


def write_trl_work(path: Path, case: Case, *, model: Path, rows: Path, steps: int, threads: int, seed: int) -> Path:
    """The same run for TRL, beside `path`; answers where it will tell of its steps."""
    work = TrlWork(
        model=str(model),
        rows=str(rows),
        output=str(path.with_suffix(".out")),
        steps_file=str(path.with_suffix(".steps")),
        steps=steps,
        updates=case.updates,
        responses=case.responses,
        group_size=case.group_size,
        max_tokens=case.max_tokens,
        lr=case.lr,
        reward=case.reward,
        threads=threads,
        seed=seed,
    )
    path.write_text(json.dumps(asdict(work)), encoding="utf-8")
    return Path(work.steps_file)
