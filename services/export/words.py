"""What a recipe means, in the sentences and table rows of a model card. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from actors.learner.objective_config import GmpoConfig
from actors.modeling.config import PolicyConfig, PretrainedPolicy
from actors.prompts.config import DigitsSource, FileSource, HubSource, PromptsConfig, ReasoningGymSource, Source
from actors.reward.config import FunctionPart, VerifierPart
from services.config import Recipe
from services.export.recipe import hub_id, last_part

Row = tuple[str, str]
"""(what, its value)."""


def objective(recipe: Recipe) -> str:
    """What was optimised."""
    config = recipe.learner.objective
    if not isinstance(config, GmpoConfig):
        return (inspect.getdoc(type(config)) or "").partition("\n")[0]
    mean = "the geometric mean of its tokens' probability ratios" if config.length_normalized else "the product of its tokens' ratios"
    bounds = f"at {-config.clip_low:g} where the advantage is negative, at {config.clip_high:g} where it is positive"
    clip = {
        "token": f"Each token's log-ratio is clipped, {bounds}.",
        "sequence": f"The sum of a response's log-ratios is clipped, {bounds}.",
        "none": "Nothing is clipped.",
    }[config.clip]
    return f"Geometric-Mean Policy Optimization (arXiv 2507.20673): a response's advantage is weighed by {mean}, new to old policy. {clip}"


def base(policy: PolicyConfig) -> str:
    """What was trained."""
    if isinstance(policy, PretrainedPolicy):
        if (name := hub_id(policy)) is not None:
            return f"[{name}](https://huggingface.co/{name}) at revision `{policy.revision}`."
        return f"`{last_part(policy.path)}`, a model in a local directory; the run does not say where that came from."
    return (
        f"A Qwen2 model of {policy.layers} layers, {policy.hidden_size} wide, made at random (seed {policy.warmup.seed}) and taught by "
        f"examples until {policy.warmup.target[0]:.0%} to {policy.warmup.target[1]:.0%} of its sampled answers were right. "
        "It knows nothing but the task below."
    )


def needed(recipe: Recipe) -> str:
    """What has to be there for the shareable recipe to be trained again, besides the software; may be nothing."""
    model = isinstance(recipe.policy, PretrainedPolicy) and hub_id(recipe.policy) is None
    sources = (recipe.prompts.source, recipe.prompts.held_out_source)
    files = any(isinstance(one, FileSource) for one in sources)
    lacking = ["the model's directory"] * model + ["the files of problems"] * files
    return f", with {' and '.join(lacking)} in the working directory" if lacking else ""


def repeatable(recipe: Recipe) -> str:
    """Whether the same recipe comes to the same weights."""
    if not recipe.replay.by_turns:
        return "Training was asynchronous, so the same recipe comes to other weights each time."
    if recipe.generation.engines > 1:
        return "Which engine takes which prompt is not fixed, so the same recipe comes to other weights each time."
    return "On a CPU, with the same packages, the same recipe comes to the same weights, bit for bit; on a GPU it does not."


def source(config: Source) -> str:
    """Where problems came from."""
    match config:
        case FileSource():
            return ", ".join(f"`{last_part(path)}`" for path in config.paths)
        case HubSource():
            return f"[{config.name}](https://huggingface.co/datasets/{config.name}), `{config.id}` at revision `{config.revision}`"
        case ReasoningGymSource():
            options = f", options {config.options}" if config.options else ""
            return f"{config.size:,} generated problems of reasoning-gym's `{config.task}`{options}"
        case DigitsSource():
            return f"generated digit problems: `{config.task}`, {config.digits} digits"


def held_out(config: PromptsConfig) -> str:
    """Which problems were kept for evaluation, and by what rule."""
    if config.held_out == 0:
        return "None."
    if config.held_out_source is not None and not isinstance(config.held_out_source, DigitsSource):
        return f"The first {config.held_out:,} usable problems of {source(config.held_out_source)}; a copy of one is not trained on."
    if isinstance(config.held_out_source or config.source, DigitsSource):
        return f"One question in 16, told by its hash, is never trained on; {config.held_out:,} of those are asked."
    return (
        f"{config.held_out:,} of the same source, chosen by the hash of the question, whatever the seed and the order of the rows; "
        "a copy of one is not trained on."
    )


def reward(recipe: Recipe) -> str:
    """What a response was rewarded for."""
    parts = [_part(part, recipe.prompts.task) + ("" if part.weight == 1 else f", times {part.weight:g}") for part in recipe.reward.parts]
    overlong = " Responses near the token limit are punished." if recipe.reward.overlong else ""
    return f"{'; plus '.join(parts)}.{overlong}"


def _part(part: VerifierPart | FunctionPart, task: str | None) -> str:
    if isinstance(part, FunctionPart):
        return f"the function `{part.path}`"
    named = part.task or task
    return f"the verifier `{named}`" if named else "the verifier of each problem's own task"


def settings(recipe: Recipe) -> list[Row]:
    """The main settings; all of them are in recipe.yaml."""
    return [*_sampling(recipe), *_learning(recipe)]


def _sampling(recipe: Recipe) -> Iterator[Row]:
    run, generation = recipe.run, recipe.generation
    yield "prompts a step, responses to each", f"{run.prompts_per_step} x {generation.group_size}"
    yield "temperature, top-p, top-k", f"{generation.temperature:g}, {generation.top_p:g}, {generation.top_k or 'all'}"
    yield "longest prompt, longest response", f"{recipe.prompts.max_tokens:,}, {generation.max_tokens:,} tokens"
    yield "greatest staleness", f"{recipe.replay.max_staleness} versions"
    yield "dynamic sampling", "yes" if recipe.replay.dynamic_sampling else "no"


def _learning(recipe: Recipe) -> Iterator[Row]:
    learner, optimizer = recipe.learner, recipe.learner.optimizer
    yield "objective", _fields(learner.objective.model_dump())
    yield "advantage", _fields(learner.advantage.model_dump())
    yield "updates a step", str(learner.updates_per_step)
    yield "ratio's denominator, rollout correction", f"{learner.denominator}, {_fields(learner.correction.model_dump())}"
    kl = learner.kl
    yield "KL to the start", f"{kl.coefficient:g} ({kl.estimator}, in the {kl.place})" if kl.coefficient else "none"
    yield "entropy bonus", f"{learner.entropy_coefficient:g}" if learner.entropy_coefficient else "none"
    ending = "" if optimizer.schedule == "constant" else f" to {optimizer.lr_end:g}"
    rate = f"{optimizer.lr:g}, {optimizer.schedule}{ending}, {optimizer.warmup_updates} updates of warm-up"
    yield "learning rate", rate
    yield "AdamW betas, weight decay", f"{optimizer.betas[0]:g}, {optimizer.betas[1]:g}, {optimizer.weight_decay:g}"
    yield "greatest gradient norm", f"{learner.max_grad_norm:g}"
    yield "adapters", f"LoRA, rank {learner.lora.rank}, alpha {learner.lora.alpha}, merged" if learner.lora else "none"
    yield "type of the weights", recipe.policy.dtype
    yield "seed", str(recipe.run.seed)


def _fields(section: dict[str, object]) -> str:
    kind = section.pop("type")
    rest = ", ".join(f"{name} {value}" for name, value in section.items())
    return f"{kind} ({rest})" if rest else str(kind)
