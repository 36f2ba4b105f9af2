"""Warm-up: makes the tiny policy and teaches it, by supervised learning through the learner's own backend, until it is right less
than half of the time. Cached by the hash of everything that shapes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import ConfigError, ModelError
from actors.learner.config import LearnerConfig
from actors.modeling import tiny
from actors.modeling.config import TinyPolicy
from actors.prompts.config import DigitsSource, PromptsConfig
from actors.prompts.digits import WORKED
from services.config import Recipe

if TYPE_CHECKING:
    from actors.learner.backends import Backend
    from actors.types import Prompt

MEASURED = 256
"""Problems on which accuracy is measured while warming up; none of them is taught."""
NOTICEABLE = 0.05
"""Accuracy from which every update is checked: it rises from there to the target within a dozen."""
TAUGHT_FROM = 1_000_000
"""Ordinal of the first problem taught: training starts at 0, so the two never meet in a run of fewer prompts."""


def require_tiny(recipe: Recipe) -> None:
    """Refuse a recipe whose policy is not made here."""
    if not isinstance(recipe.policy, TinyPolicy):
        raise ConfigError("policy.type: only a tiny policy is warmed up; this one is pretrained")


def cached_policy(recipe: Recipe) -> Path:
    """Where the warm policy of this recipe is, or will be."""
    policy = recipe.policy
    assert isinstance(policy, TinyPolicy)
    prompts = recipe.prompts.model_dump(mode="json", include={"source", "template"})
    shaping = {"format": 3, "policy": policy.model_dump(mode="json"), "prompts": prompts}
    digest = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]
    root = Path(os.environ.get("GMPO_CACHE", Path.home() / ".cache" / "gmpo"))
    return root / "policies" / digest


def warm_policy(recipe: Recipe, tell: Callable[[str], None]) -> Path:
    """The directory of the warm policy, taught now if it is not cached. ModelError if it does not learn in time."""
    directory = cached_policy(recipe)
    if (directory / "warmup.json").exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as place:
        draft = Path(place) / "policy"
        _teach(recipe, draft, tell)
        if not (directory / "warmup.json").exists():  # else another process was as fast, and taught the same
            shutil.rmtree(directory, ignore_errors=True)
            os.replace(draft, directory)
    return directory


def _teach(recipe: Recipe, directory: Path, tell: Callable[[str], None]) -> None:
    import torch

    from actors.learner import backends
    from actors.prompts.stream import open_stream

    policy, source = recipe.policy, recipe.prompts.source
    assert isinstance(policy, TinyPolicy)
    if not isinstance(source, DigitsSource):
        raise ConfigError("policy.type: a tiny policy can only be taught a digit task; set prompts.source.type to digits")
    warmup = policy.warmup
    # Plain prompts of the same source: sampling settings and seed of the run do not shape the policy.
    prompts = PromptsConfig(source=source, template=recipe.prompts.template, max_tokens=recipe.prompts.max_tokens, held_out=MEASURED)
    tokenizer = tiny.make_tokenizer()
    stream = open_stream(prompts, tokenizer, seed=warmup.seed)
    torch.set_num_threads(recipe.learner.threads)
    model = tiny.make_model(policy)
    tiny.save(model, directory)
    with _single_rank():
        backend = backends.build(model, LearnerConfig(), dtype="float32", device=torch.device("cpu"))
        examinee = tiny.make_model(policy)
        accuracy = 0.0
        for update in range(warmup.max_updates):
            first = TAUGHT_FROM + update * warmup.batch_size
            _learn(backend, [stream.nth(first + index) for index in range(warmup.batch_size)], tokenizer, warmup.lr)
            if accuracy < NOTICEABLE and (update + 1) % warmup.check_every:
                continue
            accuracy = _measure(backend, examinee, stream.held_out(), tokenizer, seed=update)
            if (update + 1) % warmup.check_every == 0 or accuracy >= warmup.target[0]:
                tell(f"warm-up: update {update + 1}, {accuracy:.2f} of sampled answers right (until {warmup.target[0]:.2f})")
            if accuracy >= warmup.target[0]:
                break
    low, high = warmup.target
    if not low <= accuracy <= high:
        raise ModelError(f"policy.warmup: sampled accuracy {accuracy:.2f} after {update + 1} updates is not within {low} to {high}")
    tiny.save(examinee, directory)
    (directory / "warmup.json").write_text(json.dumps({"updates": update + 1, "sampled": accuracy}))


def _learn(backend: Backend, problems: list[Prompt], tokenizer: Any, lr: float) -> None:
    """One update towards right responses, working included."""
    import numpy as np

    from actors.modeling.packing import pack

    responses = [tokenizer.encode(f"{_response(problem)}{tiny.END}", add_special_tokens=False) for problem in problems]
    sequences = [
        np.concatenate([problem.token_ids, np.asarray(response, dtype=np.int32)])
        for problem, response in zip(problems, responses, strict=True)
    ]
    batch = pack(sequences, [len(problem.token_ids) for problem in problems], backend.device)
    scores = backend.score(batch, 1.0)
    backend.backward(-scores.logprobs.sum() / batch.mask.sum(), last=True)
    backend.step(lr)


def _response(problem: Prompt) -> str:
    """A whole right response: with its working, if the task has any."""
    return str(problem.columns.get(WORKED, problem.answer))


def _measure(backend: Backend, examinee: Any, problems: list[Prompt], tokenizer: Any, *, seed: int) -> float:
    """Share of right answers among one sample each, at temperature 1."""
    import torch

    from actors.reward.verifiers import verify
    from actors.types import Outcome

    state = {spec.name: tensor for spec, tensor in zip(backend.specs(), backend.tensors(), strict=True)}
    examinee.load_state_dict(state)
    torch.manual_seed(seed)
    width = max(len(problem.token_ids) for problem in problems)
    pad = tokenizer.pad_token_id
    token_ids = torch.tensor([[pad] * (width - len(problem.token_ids)) + problem.token_ids.tolist() for problem in problems])
    longest = max(len(_response(problem)) for problem in problems) + 2
    sampled = examinee.generate(
        token_ids, attention_mask=(token_ids != pad).long(), do_sample=True, max_new_tokens=longest, pad_token_id=pad, top_k=0
    )
    texts = tokenizer.batch_decode(sampled[:, width:], skip_special_tokens=True)
    verdicts = [verify(problem.task, text, problem.answer) for problem, text in zip(problems, texts, strict=True)]
    return sum(verdict.outcome is Outcome.RIGHT for verdict in verdicts) / len(verdicts)


@contextlib.contextmanager
def _single_rank() -> Iterator[None]:
    """A process group of this process alone: the backend is the distributed one."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
