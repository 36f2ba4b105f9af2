from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from matplotlib.image import imread
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from actors.errors import ConfigError, PolicyVersionError
from actors.weights.manifest import read_manifest
from services.cli import app
from services.compare.series import read_run
from services.config import load_recipe
from services.export.choice import choose
from services.export.figures import up_to
from services.export.folder import write_folder
from tests.tiny_model import build_model

LEAKS = ("someone", "hunter2", "mlflow", "keys.json", "GMPO_SECRET_PHRASE", "correct-horse-battery")


def gmpo(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Step 2, the best one."""
    to = tmp_path_factory.mktemp("exported") / "model"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GMPO_SECRET_PHRASE", "correct-horse-battery")
        done = gmpo("export", f"{finished}@best", "--to", to)
    assert done.exit_code == 0, done.output
    return to


def test_the_folder_is_a_model_with_the_version_s_logits(exported: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(exported).eval(), AutoTokenizer.from_pretrained(exported)
    inputs = tokenizer("483920=", return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, build_model(2)(**inputs).logits)


def test_it_says_where_it_came_from(exported: Path, finished: Path) -> None:
    origin = json.loads((exported / "gmpo.json").read_text())
    manifest = read_manifest(finished / "policies" / "step-2")
    assert (origin["run"], origin["step"], origin["weights_sha256"]) == ("a-run", 2, manifest.weights_sha256)
    assert origin["files"].keys() == manifest.files.keys() and {"python", "torch", "transformers"} <= origin["packages"].keys()
    assert {path.name for path in exported.iterdir()} == manifest.files.keys() | {"README.md", "recipe.yaml", "gmpo.json", "figures"}


def test_the_card_s_metadata_are_what_the_hub_reads(exported: Path) -> None:
    said = ModelCard.load(exported / "README.md").data.to_dict()
    assert (said["library_name"], said["pipeline_tag"]) == ("transformers", "text-generation") and "gmpo" in said["tags"]
    assert not {"license", "base_model", "datasets"} & said.keys()  # the run does not say
    (index,) = said["model-index"]
    values = {(result["dataset"]["type"], *metric.values()) for result in index["results"] for metric in result["metrics"]}
    assert values == {("sums/all", "pass@1", 0.3), ("digits", "accuracy", 0.75, "greedy accuracy")}


def test_the_card_tells_what_the_run_found_of_this_step(exported: Path) -> None:
    page = (exported / "README.md").read_text()
    assert "| 0 | 64 | 25.0 (16.0 to 36.8) | 12.5 |\n| 2 | 64 | 75.0 (63.2 to 84.0) | 37.5 |\n\n" in page
    assert "| sums | all | 40 x 1 | pass@1 | 30.0 (18.1 to 45.4) | 10.0 (4.0 to 23.1) |" in page
    assert "4 prompts trained up to this step, 8 responses to each (8 prompts in the run's 4 steps so far)" in page
    assert "It was chosen among the versions of the run for its `eval/greedy`" in page


def test_its_figures_are_those_of_reward_accuracy_entropy_and_log_ratios(exported: Path) -> None:
    page = (exported / "README.md").read_text()
    shown = re.findall(r"!\[(.*?): .*?\]\((figures/.*?)\)", page)
    titles = " ".join(title for title, _ in shown).lower()
    assert all(word in titles for word in ("reward", "sampled", "greedy", "entropy", "log-ratio"))
    assert all(imread(exported / file).std() > 0.02 for _, file in shown)  # not blank


def test_its_figures_end_with_the_exported_step(finished: Path) -> None:
    until = up_to(read_run(finished), 2)
    assert until.curve("reward/mean")[0].tolist() == [1, 2] and until.curve("eval/greedy")[0].tolist() == [0, 2]


def test_its_recipe_can_be_trained_again(exported: Path, finished: Path) -> None:
    again = load_recipe(exported / "recipe.yaml")
    assert again.learner.objective == load_recipe(finished / "config.yaml").learner.objective and again.run.name == "a-run"


def test_nothing_of_the_machine_goes_out(exported: Path, finished: Path) -> None:
    told = "\n".join(path.read_text() for path in exported.rglob("*") if path.suffix in {".md", ".yaml", ".json", ".svg", ".jinja"})
    assert not [word for word in (*LEAKS, str(finished.parent), str(exported.parent)) if word in told]


def flip(path: Path) -> None:
    """Change the last byte."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda version: (version / "tokenizer.json").write_bytes(b"x"), r"tokenizer\.json: 1 bytes, the manifest says"),
        (lambda version: flip(version / "model.safetensors"), r"model\.safetensors: its sha256 is not"),
        (lambda version: (version / "extra.safetensors").touch(), r"extra\.safetensors: not in the manifest"),
    ],
)
def test_a_damaged_version_is_refused_and_nothing_written(
    run: Path, tmp_path: Path, harm: Callable[[Path], object], complaint: str
) -> None:
    harm(run / "policies" / "step-4")
    with pytest.raises(PolicyVersionError, match=complaint):
        write_folder(choose(str(run)), tmp_path / "to" / "model")
    assert not (tmp_path / "to").exists()


def test_a_place_that_holds_something_is_left_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = gmpo("export", finished, "--to", tmp_path)
    assert done.exit_code == 2 and "not an empty directory" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_directory_takes_the_same_version_with_the_same_bytes(exported: Path, finished: Path, tmp_path: Path) -> None:
    write_folder(choose(f"{finished}@best"), tmp_path)
    files = {path.relative_to(exported) for path in exported.rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert [file for file in files if (exported / file).read_bytes() != (tmp_path / file).read_bytes()] == []


def test_a_secret_in_the_recipe_ends_it_with_nothing_written(terse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "correct \"horse\"\\ 'battery'"  # which no file of the folder holds as it is
    monkeypatch.setenv("SOME_TOKEN", secret)
    tree = yaml.safe_load((terse / "config.yaml").read_text())
    tree["prompts"]["system"] = f"The password is {secret}.\n"
    (terse / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match="would hold the value of the environment variable SOME_TOKEN"):
        write_folder(choose(str(terse)), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["a-run"]


def test_a_run_that_recorded_little_has_a_shorter_card(terse: Path, tmp_path: Path) -> None:
    write_folder(choose(f"{terse}@4"), tmp_path / "model")
    page = (tmp_path / "model" / "README.md").read_text()
    assert "The run asked no held-out problems." in page and "![" not in page and "Account" not in page
    assert "model-index" not in page and not (tmp_path / "model" / "figures").exists()
