"""Writing the folder: whole or not at all.

version (verified) ──► draft beside DIR: model files ──► figures ──► recipe.yaml, gmpo.json, README.md ──► renamed to DIR
"""

from __future__ import annotations

import shutil
import uuid
from dataclasses import asdict
from pathlib import Path

import yaml

from actors.errors import ConfigError, PolicyVersionError, UsageError
from actors.modeling.loading import load_tokenizer
from actors.prompts.templates import Renderer
from actors.weights.manifest import Manifest, describe
from services.compare.series import read_run
from services.export import findings
from services.export.card import CARD, Story, write_card
from services.export.choice import Chosen
from services.export.figures import FOLDER, draw_figures
from services.export.leaks import refuse_secrets
from services.export.origin import ORIGIN, origin_of
from services.export.recipe import shareable

RECIPE = "recipe.yaml"


def write_folder(chosen: Chosen, to: Path, *, repo_id: str | None = None) -> Manifest:
    """Write the version, its card and its recipe into `to`, which must not exist or be empty; returns the version's manifest.

    `repo_id` is where the folder will be pushed, for the card to name. PolicyVersionError refuses a damaged version before anything is
    written; ConfigError names a place that cannot be written, or a text that would give a secret away.
    """
    place = to.absolute()
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ConfigError(f"{to}: is there already and not an empty directory; name another")
    version, manifest = _fetched(chosen)
    draft = place.with_name(f".{place.name}.{uuid.uuid4().hex}.tmp")
    try:
        draft.mkdir(parents=True)
        _copy(version, draft, manifest)
        _tell(chosen, manifest, draft, repo_id)
        draft.rename(place)
    except OSError as error:
        raise ConfigError(f"{to}: cannot be written: {error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


def _fetched(chosen: Chosen) -> tuple[Path, Manifest]:
    """The version on this machine, verified to its last number."""
    try:
        return chosen.catalogue.fetch(chosen.step), chosen.catalogue.manifest(chosen.step)
    except OSError as error:
        raise UsageError(f"policy@step-{chosen.step} cannot be had from its storage: {error}") from None


def _copy(version: Path, draft: Path, manifest: Manifest) -> None:
    """Copy the files that the manifest names, and hold the copies against it: the version may be deleted meanwhile, disks may fail."""
    for name in manifest.files:
        try:
            source = (version / name).open("rb")
        except FileNotFoundError:
            raise PolicyVersionError(f"{version}: deleted while it was exported") from None
        with source, (draft / name).open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
    for name, entry in describe(draft).items():
        if entry != manifest.files[name]:
            raise PolicyVersionError(f"{version / name}: its copy is not what the manifest says")


def _tell(chosen: Chosen, manifest: Manifest, draft: Path, repo_id: str | None) -> None:
    """Figures and texts, the latter after a look for secrets in them and in what they are written from."""
    run, recipe = read_run(chosen.run_dir), chosen.recipe
    origin = origin_of(manifest)
    story = Story(
        recipe=recipe,
        origin=origin,
        prompt=Renderer(load_tokenizer(str(draft)), recipe.prompts.template, recipe.prompts.system).render("{question}"),
        held_out=findings.held_out(run.evaluations, chosen.step),
        scores=findings.scores(chosen.run_dir, chosen.step, manifest.weights_sha256),
        prompts=findings.prompts(chosen.run_dir, chosen.step),
        figures=draw_figures(run, draft / FOLDER, step=chosen.step),
        best_by=chosen.best_by,
        repo_id=repo_id,
    )
    card, settings = write_card(story), shareable(recipe)
    refuse_secrets({CARD: [card, story.prompt], RECIPE: settings, ORIGIN: asdict(origin)})
    texts = {CARD: card, RECIPE: yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), ORIGIN: origin.to_json()}
    for name, text in texts.items():
        (draft / name).write_text(text, encoding="utf-8")
