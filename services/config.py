"""The recipe: one typed tree, composed of each pool's own section. Parsing it imports neither torch nor vLLM.

A recipe is a YAML file; `section.field=value` on the command line overrides it. Each bad field is named by its path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from actors.errors import ConfigError
from actors.generation.config import GenerationConfig
from actors.learner.config import LearnerConfig
from actors.learner.objective_config import DrGrpoConfig
from actors.modeling.config import PolicyConfig, TinyPolicy
from actors.prompts.config import PromptsConfig
from actors.reference.config import ReferenceConfig
from actors.replay.config import ReplayConfig
from actors.reward.config import RewardConfig
from actors.section import Section
from actors.weights.config import WeightsConfig
from services.complaints import complaints
from services.evaluation.config import LiveEvaluationConfig
from services.policy.config import ServeConfig
from services.telemetry.config import TelemetryConfig

NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)
"""What parsing raises on text that is no YAML; the last two on impossible dates, endless numbers and bottomless nesting."""


class RunConfig(Section):
    """The run's name, size and seed."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """The run directory is `<root>/<name>`; the same name continues the same run."""
    root: str = Field(default_factory=lambda: os.environ.get("GMPO_RUN_ROOT", "runs"))
    """Path in which run directories are; driver and learner must both see it. The environment variable GMPO_RUN_ROOT sets the default."""
    seed: int = Field(0, ge=0)
    """Seed of prompts, samples, shuffles and initial states."""
    steps: int = Field(gt=0)
    """Training steps; each publishes one policy version."""
    prompts_per_step: int = Field(gt=0)
    """Groups in one step."""
    export_every: int = Field(10, gt=0)
    """Steps between two servable versions under `policies/`; the last step always makes one."""
    keep_policies: int = Field(3, gt=0)
    """Newest versions kept; older ones are deleted."""
    record_share: float = Field(1.0, ge=0, le=1)
    """Share of the steps whose rollouts are written to `rollouts/`."""
    storage: str | None = None
    """Where the folder `checkpoints/` is: a path, or a URL that pyarrow opens, of this run alone; by default the run directory. At a URL
    there are also copies of the policy versions, and an endpoint elsewhere finds them there."""


class HealthConfig(Section):
    """How dead and hung processes are found, and when a prompt is taken for their cause."""

    every_s: float = Field(5, gt=0)
    """Seconds between two calls to each actor of the generation, reward and reference pools."""
    answer_s: float = Field(60, gt=0)
    """Seconds an actor, or a learner rank, may take to answer; then its process is killed and replaced."""
    deaths: int = Field(3, gt=0)
    """Processes that may die under one prompt; then it is dropped as poisoned."""


class EvaluationConfig(Section):
    """Held-out accuracy during training, by the engines themselves."""

    every: int = Field(0, ge=0)
    """Steps between two evaluations; before the first and after the last step there always is one. 0: only those two. With
    `replay.exact_staleness` there is none in the last `replay.max_staleness` steps but the very last."""
    samples: int = Field(4, gt=0)
    """Sampled responses per held-out problem, beside the greedy one."""
    live: LiveEvaluationConfig = LiveEvaluationConfig()
    """A suite put to every n-th version through the endpoint, while the run trains (serve.during_training)."""


class ClusterConfig(Section):
    """The Ray cluster the pools live in."""

    address: str | None = None
    """Address of a running cluster; by default RAY_ADDRESS (set in every Ray job), and without it a cluster of its own on this machine."""
    cpus: float | None = Field(None, gt=0)
    """CPUs of the own cluster; by default all."""
    object_store_mib: int = Field(512, ge=80)
    """Object store of the own cluster, in MiB."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """What models run on; auto takes GPUs where there are any."""
    log_to_driver: bool = False
    """Print what the actors print; they always write to Ray's own log files."""
    wait_timeout_s: float = Field(300, gt=0)
    """Seconds a growing cluster may take to offer what the pools ask for."""
    allow_open: bool = False
    """Run on a cluster without token authentication; only where someone else secures it."""


class Recipe(Section):
    """All of a run's settings."""

    run: RunConfig
    policy: PolicyConfig = TinyPolicy()
    prompts: PromptsConfig
    generation: GenerationConfig = GenerationConfig()
    reward: RewardConfig = RewardConfig()
    reference: ReferenceConfig = ReferenceConfig()
    replay: ReplayConfig = ReplayConfig()
    learner: LearnerConfig = LearnerConfig()
    weights: WeightsConfig = WeightsConfig()
    health: HealthConfig = HealthConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    serve: ServeConfig = ServeConfig()
    cluster: ClusterConfig = ClusterConfig()

    @property
    def run_dir(self) -> Path:
        """The run directory."""
        return Path(self.run.root) / self.run.name

    @property
    def max_model_len(self) -> int:
        """Longest prompt + response the engines plan for, in tokens."""
        return self.generation.max_model_len or self.prompts.max_tokens + self.generation.max_tokens

    @property
    def outstanding(self) -> int:
        """Prompts that may be under way at once (running, ready or claimed) under the staleness bound."""
        return (self.replay.max_staleness + 1) * self.run.prompts_per_step

    @model_validator(mode="after")
    def _fits_itself(self) -> Recipe:
        if found := list(_contradictions(self)):
            raise ValueError("\n".join(f"{path}: {problem}" for path, problem in found))
        return self


def _contradictions(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(path, problem) of each."""
    yield from _in_sizes(recipe)
    yield from _in_learning(recipe)


def _in_sizes(recipe: Recipe) -> Iterator[tuple[str, str]]:
    run, generation, updates = recipe.run, recipe.generation, recipe.learner.updates_per_step
    if "://" in run.root:
        yield "run.root", "a path is needed; checkpoints and policy versions can go to a URL, by run.storage"
    if (rows := run.prompts_per_step * generation.group_size) % updates:
        product = "run.prompts_per_step x generation.group_size"
        yield "learner.updates_per_step", f"{rows} responses a step ({product}) cannot be cut into {updates} equal updates"
    if recipe.replay.capacity is not None and recipe.replay.capacity < recipe.outstanding:
        admitted = f"the {recipe.outstanding} groups that max_staleness and prompts_per_step admit"
        yield "replay.capacity", f"{recipe.replay.capacity} is less than {admitted}: the run would stand still"
    if recipe.prompts.max_tokens + generation.max_tokens > recipe.max_model_len:
        yield "generation.max_model_len", "prompts.max_tokens + generation.max_tokens do not fit"
    if recipe.evaluation.live.every and not recipe.serve.during_training:
        yield "evaluation.live.every", "versions are evaluated through the endpoint: set serve.during_training, or use gmpo evaluate"
    if isinstance(recipe.policy, TinyPolicy) and recipe.max_model_len > recipe.policy.max_positions:
        yield "policy.max_positions", f"{recipe.policy.max_positions} is less than the {recipe.max_model_len} tokens of a sequence"
    if recipe.reward.overlong is not None and recipe.reward.overlong.limit > generation.max_tokens:
        yield "reward.overlong.limit", f"no response is longer than generation.max_tokens ({generation.max_tokens}); give at most as many"


def _in_learning(recipe: Recipe) -> Iterator[tuple[str, str]]:
    learner, generation = recipe.learner, recipe.generation
    if learner.kl.coefficient > 0 and not recipe.reference.enabled:
        yield "reference.enabled", "learner.kl.coefficient needs the reference pool"
    if learner.trusts_engine_logprobs:
        uses = "learner.correction, learner.denominator: behaviour and learner.kl.place: reward"
        problem = f"the engine's log-probs are then of a part of the vocabulary, and {uses} compare them with those of all of it"
        yield from ((f"generation.{name}", problem) for name, whole in (("top_p", 1), ("top_k", 0)) if getattr(generation, name) != whole)
    objective = learner.objective
    if isinstance(objective, DrGrpoConfig) and objective.max_length != generation.max_tokens:
        problem = f"{objective.max_length} is not generation.max_tokens ({generation.max_tokens}), by which Dr. GRPO divides"
        yield "learner.objective.max_length", problem


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `section.field=value` overrides; ConfigError names the path of every bad field."""
    tree = read_mapping(path, "a recipe is a mapping of sections")
    for override in overrides:
        _override(tree, override)
    return parse_recipe(tree)


def read_mapping(path: Path, otherwise: str) -> dict[str, Any]:
    """The mapping in a YAML file. ConfigError where there is no such file, or something else in it: then it says `otherwise`."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except NOT_YAML as error:
        raise ConfigError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: {otherwise}")
    return tree


def parse_recipe(tree: Mapping[str, Any]) -> Recipe:
    """Turn a plain tree into a Recipe, or raise ConfigError with one line per bad field."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(complaints(error, tree, Recipe))) from None


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The whole tree as plain values, defaults filled in."""
    return recipe.model_dump(mode="json")


def dump(recipe: Recipe) -> str:
    """The resolved tree as YAML."""
    return yaml.safe_dump(resolved(recipe), sort_keys=False)


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted paths at which two trees differ."""
    keys = []
    for key in dict.fromkeys([*ours, *theirs]):
        left, right = ours.get(key), theirs.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            keys += differing_keys(left, right, f"{prefix}{key}.")
        elif left != right:
            keys.append(f"{prefix}{key}")
    return keys


def _override(tree: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{override!r}: an override is written section.field=value")
    node = tree
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{path}: {key} is not a section")
        node = child
    try:
        node[keys[-1]] = _merged(node.get(keys[-1]), yaml.safe_load(value))
    except NOT_YAML:
        raise ConfigError(f"{path}: {value!r} is not a YAML value") from None


def _merged(held: Any, given: Any) -> Any:
    """A mapping changes the keys it names and leaves the others, unless it is of another type; anything else replaces."""
    if not isinstance(held, dict) or not isinstance(given, dict) or given.get("type", held.get("type")) != held.get("type"):
        return given
    return held | {key: _merged(held.get(key), value) for key, value in given.items()}
