"""The model card: metadata that the Hugging Face hub reads, and a page for people. Written from a run's recipe and its own figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from actors.modeling.config import PolicyConfig, PretrainedPolicy
from actors.prompts.config import HubSource
from services.compare.figures import Drawing
from services.config import Recipe
from services.evaluation.estimate import Estimate
from services.export import words
from services.export.figures import FOLDER
from services.export.findings import HeldOut, Prompts, Score
from services.export.origin import Origin
from services.export.recipe import hub_id

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

CARD = "README.md"
LICENSE_KEYS = ("license", "license_name", "license_link")
UNLICENSED = "the run names none; see those of the model it was trained from and of the data."


@dataclass(frozen=True, slots=True)
class Story:
    """All that a card tells."""

    recipe: Recipe
    origin: Origin
    prompt: str  # what the policy was given, with {question} where the question stands
    held_out: Sequence[HeldOut]
    scores: Sequence[Score]
    prompts: Prompts | None
    figures: Sequence[Drawing]
    best_by: str | None  # the metric by which this version was chosen among the run's
    repo_id: str | None  # its name on the hub, where it is to go there


def write_card(story: Story) -> str:
    """The card as text: YAML between dashes, then Markdown."""
    return f"---\n{_metadata(story).to_yaml()}\n---\n\n{_page(story)}"


def license_of(policy: PolicyConfig) -> dict[str, str]:
    """What the card in a pretrained model's own directory says of its licence; empty where it says nothing or cannot be read."""
    from huggingface_hub import ModelCard

    path = Path(policy.path) / CARD if isinstance(policy, PretrainedPolicy) else None
    if path is None or not path.is_file():
        return {}
    try:
        said = ModelCard.load(path).data.to_dict()
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {key: said[key] for key in LICENSE_KEYS if isinstance(said.get(key), str)}


def _metadata(story: Story) -> ModelCardData:
    from huggingface_hub import ModelCardData

    recipe = story.recipe
    base = hub_id(recipe.policy)
    sources = (recipe.prompts.source, recipe.prompts.held_out_source)
    more: dict[str, Any] = license_of(recipe.policy) | ({"base_model_relation": "finetune"} if base else {})
    return ModelCardData(
        model_name=story.origin.run,
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base,
        datasets=list(dict.fromkeys(source.name for source in sources if isinstance(source, HubSource))) or None,
        tags=["reinforcement-learning", "verifiable-rewards", recipe.learner.objective.type],
        eval_results=_results(story) or None,
        **more,
    )


def _results(story: Story) -> list[EvalResult]:
    """The figures of this version that the hub can list."""
    from huggingface_hub import EvalResult

    found = [
        EvalResult(
            task_type="text-generation",
            dataset_type=f"{score.suite}/{score.set}",
            dataset_name=f"{score.suite}, {score.set}",
            metric_type=f"pass@{score.k}",
            metric_value=round(score.after.value, 4),
        )
        for score in story.scores
    ]
    asked = [one for one in story.held_out if one.step == story.origin.step]
    if asked:
        source = story.recipe.prompts.held_out_source or story.recipe.prompts.source
        kind = source.name if isinstance(source, HubSource) else source.type
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=kind,
                dataset_name="held-out problems of the run",
                metric_type="accuracy",
                metric_name="greedy accuracy",
                metric_value=round(asked[-1].greedy.value, 4),
            )
        )
    return found


def _page(story: Story) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # it writes Markdown
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"interval": _interval, "cell": _cell, "python": repr}
    recipe = story.recipe
    return environment.get_template("card.md.j2").render(
        story=story,
        step=story.origin.step,
        recipe=recipe,
        place=story.repo_id or ".",
        folder=FOLDER,
        texts=_texts(recipe),
        settings=words.settings(recipe),
    )


def _texts(recipe: Recipe) -> Mapping[str, str]:
    license_said = license_of(recipe.policy).get("license")
    return {
        "objective": words.objective(recipe),
        "base": words.base(recipe.policy),
        "license": f"{license_said}, by the card of the model it was trained from." if license_said else UNLICENSED,
        "source": words.source(recipe.prompts.source),
        "held_out": words.held_out(recipe.prompts),
        "reward": words.reward(recipe),
        "needed": words.needed(recipe),
        "repeatable": words.repeatable(recipe),
    }


def _interval(estimate: Estimate | None) -> str:
    """In percent, with its 95 % interval."""
    if estimate is None:
        return ""
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _cell(value: object) -> str:
    """Text that cannot end its table's cell."""
    return str(value).replace("|", "\\|").replace("\n", " ")
