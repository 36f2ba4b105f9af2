"""`gmpo bench generation`: tokens per second of the engine actor, beside vLLM's own `LLM.generate` in one process.

gmpo     the engine actor on a Ray cluster, asked prompt by prompt as the conductor does, answers by reference
bare     `LLM.generate` over all prompts at once

Both get the same model, vLLM arguments, prompts, seeds and lengths, and the same environment; each measurement is a process of its own,
`python -m services.bench.generation JSON`, which samples a few tokens of every prompt before its clock starts.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from actors.errors import ConfigError, GmpoError
from actors.generation.config import GenerationConfig
from actors.generation.spec import EngineSpec, Sampling, sample_seed
from actors.types import Prompt
from services.bench.results import Aim, Report, Row, Spread, device_name, ratios
from services.bench.shapes import SHAPES

SPEED_AIM = 0.95
WAYS = ("gmpo", "bare")
MODEL = "30m"
PROMPT_TOKENS = 48
WARMING_TOKENS = 4
CHILD_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how often."""

    model: str = MODEL
    responses: int = 64
    shortest: int = 16  # tokens
    longest: int = 256  # tokens
    threads: int = 1  # CPU threads of the model
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shortest > self.longest:
            raise ConfigError(f"bench generation: --shortest {self.shortest} is more than --longest {self.longest}")

    @property
    def lengths(self) -> list[int]:
        """Tokens of each response: evenly spread from the shortest to the longest, shuffled."""
        spread = np.linspace(self.shortest, self.longest, self.responses).round().astype(int)
        return [int(length) for length in np.random.default_rng(self.seed).permutation(spread)]

    @property
    def prompts(self) -> list[Prompt]:
        """Random tokens: a function of the seed."""
        draw = np.random.default_rng((self.seed, 1))
        shape = draw.integers(0, SHAPES[self.model].vocabulary, (self.responses, PROMPT_TOKENS), dtype=np.int32)
        return [Prompt(ordinal, "", token_ids, "", "", "bench") for ordinal, token_ids in enumerate(shape)]

    def spec(self, directory: str) -> EngineSpec:
        """The engine that holds the model in `directory`."""
        config = GenerationConfig(group_size=2, max_running=self.responses, threads=self.threads)
        longest = PROMPT_TOKENS + self.longest
        return EngineSpec(index=0, model=directory, dtype="float32", transport="gloo", max_model_len=longest, gpu=False, config=config)


def sampling(tokens: int) -> Sampling:
    """One response of so many tokens: no token that the model knows ends one."""
    return Sampling(samples=1, temperature=1.0, top_p=1.0, top_k=0, max_tokens=tokens)


def save_model(settings: Settings, directory: Path) -> None:
    """Random weights, and a tokenizer with a word for each token; the end of a text is a token beyond those that the model has."""
    from huggingface_hub import save_torch_model
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    shape = SHAPES[settings.model]
    model = shape.build(seed=settings.seed)
    model.config.architectures = [type(model).__name__]
    save_torch_model(model, directory)
    model.config.save_pretrained(directory)
    words = {f"w{index}": index for index in range(shape.vocabulary)} | {"<|end|>": shape.vocabulary}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(directory)


def run(settings: Settings) -> Report:
    """Measure both ways in turns, each in a fresh process, and hold one against the other."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="gmpo-bench-") as directory:
        save_model(settings, Path(directory))
        for repeat in range(settings.repeats):
            for way in WAYS if repeat % 2 == 0 else reversed(WAYS):
                seconds[way].append(_child(way, settings, directory))
    found = {"gmpo_over_bare": ratios(seconds["bare"], seconds["gmpo"])}
    judged = settings == Settings(threads=settings.threads, repeats=settings.repeats)
    return Report(
        bench="generation",
        device=device_name("cpu"),
        settings=asdict(settings) | {"tokens": sum(settings.lengths), "prompt_tokens": PROMPT_TOKENS},
        rows=[_row(way, seconds[way], settings) for way in WAYS],
        ratios=found,
        aims=[Aim.at_least(name, SPEED_AIM, spread) for name, spread in found.items()] if judged else [],
        notes=[
            "tokens per second of the responses, from the first request until the last answer; start-up is not part of it",
            "both ways sample with seeds and log-probs of the sampled tokens, under the same vLLM arguments",
        ],
    )


def _row(way: str, seconds: Sequence[float], settings: Settings) -> Row:
    rates = Spread.of([sum(settings.lengths) / one for one in seconds])
    return {
        "way": way,
        "tokens_per_s_median": rates.median,
        "tokens_per_s_low": rates.low,
        "tokens_per_s_high": rates.high,
        "seconds_median": Spread.of(seconds).median,
    }


def _child(way: str, settings: Settings, directory: str) -> float:
    """Seconds of one way, measured in a process of its own."""
    from actors.generation.vllm_terms import engine_environment

    arguments = json.dumps({"way": way, "model_directory": directory, **asdict(settings)})
    command = [sys.executable, "-m", "services.bench.generation", arguments]
    environment = os.environ | engine_environment(settings.spec(directory))
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=CHILD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise GmpoError(f"bench generation: the way {way} did not end in {CHILD_TIMEOUT_S} s") from None
    if done.returncode:
        raise GmpoError(f"bench generation: the way {way} ended with {done.returncode}: {done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def _bare(settings: Settings, directory: str) -> float:
    """`LLM.generate`, nothing else."""
    from vllm import LLM

    from actors.generation.vllm_terms import engine_arguments, sampling_params

    spec = settings.spec(directory)
    arguments = engine_arguments(spec)
    del arguments["enable_log_requests"]  # which only the asynchronous engine has
    llm = LLM(**arguments)
    prompts: list[Any] = [{"prompt_token_ids": prompt.token_ids.tolist()} for prompt in settings.prompts]

    def generate(lengths: Sequence[int]) -> list[int]:
        params = [sampling_params(sampling(length), sample_seed(settings.seed, index, 0)) for index, length in enumerate(lengths)]
        return [len(answer.outputs[0].token_ids) for answer in llm.generate(prompts, params, use_tqdm=False)]

    generate([WARMING_TOKENS] * settings.responses)
    began = perf_counter()
    _check(generate(settings.lengths), settings)
    return perf_counter() - began


def _gmpo(settings: Settings, directory: str) -> float:
    """The engine actor, after the publisher gave it a version: no engine samples without."""
    import ray

    from actors.generation.engine import Engine
    from actors.weights.config import WeightsConfig
    from actors.weights.publisher import Publisher
    from services.bench.surroundings import own_cluster, place

    def generate(engine: Any, lengths: Sequence[int]) -> list[int]:
        generating = engine.generate.options(num_returns=2)
        asked = zip(settings.prompts, lengths, strict=True)
        calls = [generating.remote(prompt, settings.seed, sampling(length)) for prompt, length in asked]
        return [meta.lengths[0] for meta in ray.get([meta for meta, _ in calls])]

    with own_cluster():
        engine = place(Engine, settings.spec(directory), concurrency=1_000)
        ray.get(engine.start.remote())
        publisher = Publisher(WeightsConfig(), "gloo", rank=0, tolerance=math.inf)
        publisher.use([engine], 1)
        publisher.publish(0, _Weights(directory), ([1, 2], [0.0]), lambda text: text)
        publisher.close()
        generate(engine, [WARMING_TOKENS] * settings.responses)
        began = perf_counter()
        _check(generate(engine, settings.lengths), settings)
        seconds = perf_counter() - began
        ray.get(engine.close.remote())
    return seconds


class _Weights:
    """The weights of a saved model, as they are published."""

    def __init__(self, directory: str) -> None:
        from safetensors.torch import load_file

        self._tensors = load_file(Path(directory) / "model.safetensors")

    def specs(self) -> list[Any]:
        """See WeightStream."""
        from actors.weights.protocol import ParamSpec

        return [ParamSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in self._tensors.items()]

    def tensors(self) -> Iterator[Any]:
        """See WeightStream."""
        return iter(self._tensors.values())


def _check(lengths: Sequence[int], settings: Settings) -> None:
    if list(lengths) != settings.lengths:
        raise GmpoError("bench generation: the responses are not of the lengths that were asked for")


def main() -> None:
    """Entry point of the child: settings as JSON in, seconds out."""
    arguments = json.loads(sys.argv[1])
    way, directory = arguments.pop("way"), arguments.pop("model_directory")
    seconds = {"gmpo": _gmpo, "bare": _bare}[way](Settings(**arguments), directory)
    sys.stdout.write(f"{seconds}\n")


if __name__ == "__main__":
    main()
