from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.config import Recipe, differing_keys, load_recipe, resolved
from services.evaluation.suites import load_suite
from services.plan.estimate import Machine, estimate
from services.plan.parts import GIB, Part
from services.plan.shapes import Shape
from tests.unit.recipes import TINY
from tests.unit.test_cli import gmpo

RECIPES = TINY.parent
DOCUMENT = (RECIPES.parents[1] / "docs" / "recipes.md").read_text()
PAPER = RECIPES / "qwen2.5-math-7b.yaml"
MOE = RECIPES / "qwen3-30b-a3b.yaml"
SIZED = sorted(path for path in RECIPES.glob("*.yaml") if "# Machine:" in path.read_text() and path != MOE)

THE_PAPERS_SETTINGS: list[tuple[str, Any, str]] = [
    ("--prompt_template", "qwen_math", "prompts.template"),
    ("--verifier_version math_verify", "math", "prompts.task"),
    ("--prompt_max_length", 1024, "prompts.max_tokens"),
    ("--generate_max_length", 3000, "generation.max_tokens"),
    ("--num_samples", 8, "generation.group_size"),
    ("--temperature", 1.0, "generation.temperature"),
    ("--top_p", 1.0, "generation.top_p"),
    ("all tokens, no top-k", 0, "generation.top_k"),
    ("--rollout_batch_size", 128, "run.prompts_per_step"),
    ("--rollout_batch_size x --num_samples / --train_batch_size", 8, "learner.updates_per_step"),
    ("the step that is evaluated", 500, "run.steps"),
    ("--save_steps", 100, "run.export_every"),
    ("on-policy rounds", 0, "replay.max_staleness"),
    ("--critic_type_modify", "gmpo", "learner.objective.type"),
    ("--cliprange, below", 0.4, "learner.objective.clip_low"),
    ("--cliprange, above", 0.4, "learner.objective.clip_high"),
    ("clip of each token", "token", "learner.objective.clip"),
    ("exponent 1/length", True, "learner.objective.length_normalized"),
    ("--critic_type grpo", "z_score", "learner.advantage.type"),
    ("unbiased deviation", 1, "learner.advantage.ddof"),
    ("added to the deviation", 1e-8, "learner.advantage.epsilon"),
    ("old log-probs by the learner", "recomputed", "learner.denominator"),
    ("no rollout correction", "none", "learner.correction.type"),
    ("--beta", 0.0, "learner.kl.coefficient"),
    ("no entropy bonus", 0.0, "learner.entropy_coefficient"),
    ("--learning_rate", 1e-6, "learner.optimizer.lr"),
    ("--lr_scheduler", "constant", "learner.optimizer.schedule"),
    ("no warm-up", 0, "learner.optimizer.warmup_updates"),
    ("Adam's betas", [0.9, 0.95], "learner.optimizer.betas"),
    ("l2", 0.0, "learner.optimizer.weight_decay"),
    ("max_norm", 1.0, "learner.max_grad_norm"),
    ("--gradient-checkpointing", True, "learner.activation_checkpointing"),
    ("--bf16", "bfloat16", "policy.dtype"),
    ("reward of 0 or 1", [{"type": "verifier", "name": None, "task": None, "weight": 1.0}], "reward.parts"),
    ("no punishment of length", None, "reward.overlong"),
    ("no groups are filtered", False, "replay.dynamic_sampling"),
]
"""(setting of the paper or of its script, value, our key)."""

PLACES = {"run.name", "run.root", "policy.path", "prompts.source.path", "prompts.held_out_source.path"}
LAYOUT = {"generation.engines", "generation.tensor_parallel", "learner.ranks", "reference.actors"}
ON_NODES = {
    *("generation.resources.engines", "learner.resources.learner", "reference.resources.learner", "reward.resources.cpu_pool"),
    *("reward.workers", "reward.cpus", "cluster.device", "cluster.wait_timeout_s"),
}


def value(recipe: Recipe, key: str) -> Any:
    """What a resolved recipe holds under a dotted key; KeyError for one that there is not."""
    node: Any = resolved(recipe)
    for part in key.split("."):
        node = node[part]
    return node


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of the first table under a heading of the document."""
    _, _, after = DOCUMENT.partition(f"## {heading}\n")
    rows = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert rows is not None, heading
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.group().splitlines()[2:]]


@pytest.mark.parametrize(("setting", "theirs", "key"), THE_PAPERS_SETTINGS, ids=[key for _, _, key in THE_PAPERS_SETTINGS])
def test_the_papers_run_has_the_papers_value(setting: str, theirs: Any, key: str) -> None:
    assert value(load_recipe(PAPER), key) == theirs, setting


def test_the_papers_run_is_of_the_papers_model_and_problems() -> None:
    recipe = load_recipe(PAPER)
    assert value(recipe, "policy.path").endswith("/Qwen2.5-Math-7B")
    assert value(recipe, "prompts.source.path").endswith("/math_lvl3to5.json")
    assert recipe.prompts.held_out_source is not None, "all 8,523 problems are trained on"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_is_a_recipe(path: Path) -> None:
    assert gmpo("config", path).exit_code == 0


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("qwen2.5-math-7b-async.yaml", {"replay.max_staleness", "learner.correction.type", "learner.correction.cap"}),
        ("qwen2.5-math-1.5b.yaml", LAYOUT),
        ("deepseek-r1-distill-qwen-7b.yaml", {"prompts.template"}),
        ("multi-node.yaml", LAYOUT | ON_NODES),
    ],
)
def test_variants_of_the_papers_run_differ_from_it_only_where_they_say(name: str, differs: set[str]) -> None:
    found = set(differing_keys(resolved(load_recipe(PAPER)), resolved(load_recipe(RECIPES / name))))
    assert found <= differs | PLACES


def figures(head: str) -> dict[str, tuple[float, ...]]:
    """Pool -> its GPUs in all, GiB on one of them, and GiB that it may take where the head says so."""
    line = r"^#   (\w+) +([\d.]+)(?: of (\d))? GPUs? +([\d.]+)(?: of ([\d.]+))? GiB"
    found = {}
    for name, many, each, size, limit in re.findall(line, head, re.MULTILINE):
        found["engines" if name == "engine" else name] = (float(many) * float(each or 1), float(size), *([float(limit)] if limit else []))
    return found


def pools(plan: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """The same of a plan; "together" is a GPU that pools share."""
    found: dict[str, tuple[float, ...]] = {}
    for pool in plan["pools"]:
        if pool["gpus"]:
            found[pool["name"]] = (pool["gpus"], sum(pool["gpu_bytes"].values()) / GIB, pool["gpu_limit_bytes"] / GIB)
    for gpu in plan["shared_gpus"]:
        found["together"] = (1, gpu["gpu_bytes"] / GIB, gpu["gpu_limit_bytes"] / GIB)
    return found


@pytest.mark.parametrize("path", SIZED, ids=lambda path: path.name)
def test_the_figures_in_a_recipes_head_are_those_of_the_plan_it_names(path: Path) -> None:
    head = path.read_text()
    command = re.search(r"gmpo plan deploy/recipes/(\S+) (--gpus .*)", head)
    assert command is not None and command[1] == path.name
    done = gmpo("plan", path, *shlex.split(command[2]), "--json", "-")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    told, made = figures(head), pools(plan)
    assert told.keys() == made.keys()
    for pool, numbers in told.items():
        assert numbers == pytest.approx(made[pool][: len(numbers)], abs=0.051), pool
    disk, rooms = plan["disk"], {pool["name"]: pool["responses"] for pool in plan["pools"]}
    stored = disk["checkpoint_bytes"] * disk["checkpoints"] + disk["version_bytes"] * disk["versions"] + disk["rollouts_bytes"]
    assert f"room for {rooms['engines']} whole responses" in head
    assert f"Host memory {plan['host_bytes'] / GIB:.0f} GiB" in head
    assert f"disk {stored / GIB:.0f} GiB" in head


def test_other_layouts_that_heads_and_the_document_offer_fit_too() -> None:
    machines = {
        "qwen2.5-math-7b.yaml": (r"`((?:learner\.backend|reference\.enabled)=.*?)`", DOCUMENT, ["--gpus", "8"]),
        "qwen2.5-math-1.5b.yaml": (r"^# On 2 GPUs.*?(\w+\.\w+=.*)$", None, ["--gpus", "2"]),
        "gsm8k-24gb.yaml": (r"^#   (\w+\.\w+=.*)$", None, ["--gpus", "1", "--gpu-gib", "22.5"]),
    }
    for name, (pattern, text, machine) in machines.items():
        offers = re.findall(pattern, text or (RECIPES / name).read_text(), re.MULTILINE)
        assert offers, name
        for offer in offers:
            done = gmpo("plan", RECIPES / name, *shlex.split(offer), *machine)
            assert done.exit_code == 0, (offer, done.output)


def test_the_times_of_a_step_in_the_document_are_the_plans() -> None:
    def step(recipe: str, *overrides: str) -> re.Match[str]:
        found = re.search(
            r"a step, roughly: .*= (\d+) s, here (?:.*= )?(\d+) s[:,]", gmpo("plan", RECIPES / recipe, *overrides, "--gpus", "8").stdout
        )
        assert found is not None
        return found

    told = {setting: here for setting, _, here in table("The paper's settings and ours")}
    turns, together = step(PAPER.name), step("qwen2.5-math-7b-async.yaml")
    assert f"{turns[2]} s a step where theirs takes {turns[1]}" in told["layout"]
    assert f"{together[2]} s in `qwen2.5-math-7b-async.yaml`" in told["layout"]
    without = re.search(r"`(reference\..*?)`", told["reference"])
    assert without is not None
    assert f"a step takes {step(PAPER.name, *without[1].split())[2]} s" in told["reference"]


def test_the_mixture_of_experts_fits_by_the_plans_formulas_and_says_that_it_is_untested() -> None:
    """All experts' weights as one wide feed-forward layer, and the activations of the eight that work."""
    head, recipe = MOE.read_text(), load_recipe(MOE)
    whole = Shape(2_048, 48, 32, 4, 128, 128 * 768, 151_936, False, head_norms=True)
    working = replace(whole, intermediate=8 * 768)
    assert whole.parameters + 48 * 128 * 2_048 == 30_532_122_624, "with its routers, what is published"
    by_tokens = {Part.ACTIVATIONS, Part.RECOMPUTED_ACTIVATIONS, Part.PASSES}
    machine = Machine(16, 80 * GIB, 8)
    told, sums = figures(head), {}
    for name in told:
        all_of_it, active = (estimate(recipe, shape, machine).pool(name) for shape in (whole, working))
        assert all_of_it.device is not None and active.device is not None and all_of_it.device.when == active.device.when
        size = sum(active.device.parts[part] if part in by_tokens else held for part, held in all_of_it.device.parts.items())
        sums[name] = (all_of_it.all_gpus, size / GIB, all_of_it.limit / GIB)
        assert size <= all_of_it.limit
    assert sum(gpus for gpus, _, _ in sums.values()) == machine.gpus
    assert {name: pytest.approx(numbers, abs=0.051) for name, numbers in sums.items()} == told
    assert head.startswith("# UNTESTED") and "WARNING: a wide clip" in head


ABLATIONS: dict[str, dict[str, Any]] = {
    "GMPO": {},
    "GRPO, clip 0.8 to 1.2": {"type": "grpo", "clip_low": 0.2, "clip_high": 0.2, "bounds": "ratio"},
    "GMPO without clip": {"clip": "none"},
    "GMPO, sequence clip": {"clip": "sequence", "clip_low": 0.4, "clip_high": 0.4},
    "GMPO without 1/length": {"length_normalized": False, "clip": "token"},
    "GMPO, e^-0.2 to e^0.2": {"clip_low": 0.2, "clip_high": 0.2, "clip": "token"},
    "GMPO, e^-0.8 to e^0.8": {"clip_low": 0.8, "clip_high": 0.8, "clip": "token"},
    "GRPO, e^-0.4 to e^0.4": {"type": "grpo", "clip_low": 0.4, "clip_high": 0.4, "bounds": "log"},
    "HMPO": {"type": "pmpo", "power": -1.0, "clip_low": 0.4, "clip_high": 0.4},
    "Dr. GRPO (3000: the recipe's `generation.max_tokens`)": {"type": "dr_grpo", "max_length": 3000, "clip_low": 0.2, "clip_high": 0.2},
    "DAPO, the loss alone": {"type": "dapo", "clip_low": 0.2, "clip_high": 0.28},
    "DAPO (3000 likewise; 600: a fifth of it, as in its paper)": {"type": "dapo", "clip_low": 0.2, "clip_high": 0.28},
    "GSPO": {"type": "gspo", "clip_low": 3e-4, "clip_high": 4e-4},
    "CISPO": {"type": "cispo", "clip_low": 1.0, "clip_high": 4.0},
    "GMPO, ratio to the engine's log-probs": {},
}
"""Row of the document -> the objective it must give; what is not named is GMPO's own."""


def test_the_documents_ablations_are_all_there() -> None:
    assert [row for row, _, _ in table("Ablations")] == list(ABLATIONS)


@pytest.mark.parametrize(("row", "overrides"), [(row, line.strip("`")) for row, line, _ in table("Ablations")])
def test_an_ablation_as_printed_gives_its_objective(row: str, overrides: str) -> None:
    base, made = load_recipe(PAPER), load_recipe(PAPER, shlex.split(overrides))
    wanted = ABLATIONS[row]
    own: dict[str, Any] = {} if "type" in wanted else value(base, "learner.objective")
    assert value(made, "learner.objective") == own | wanted
    beside = {key for key in differing_keys(resolved(base), resolved(made)) if not key.startswith("learner.objective.")}
    assert beside == {
        "Dr. GRPO": {"learner.advantage.type", "learner.advantage.ddof", "learner.advantage.epsilon"},
        "DAPO": {"replay.dynamic_sampling", "reward.overlong"},
        "GMPO, ratio to the engine's log-probs": {"learner.denominator"},
    }.get(row.partition(" (")[0], set())


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_ablation_goes_with_every_recipe_once_its_lengths_are_the_recipes(path: Path) -> None:
    longest = load_recipe(path).generation.max_tokens
    for row, line, _ in table("Ablations"):
        overrides = shlex.split(line.strip("`").replace("3000", str(longest)).replace("600", str(longest // 5)))
        made = value(load_recipe(path, overrides), "learner.objective")
        assert made["type"] == ABLATIONS[row].get("type", "gmpo")


def test_keys_that_the_document_sets_beside_other_projects_exist() -> None:
    recipe = load_recipe(PAPER)
    keys = [key for ours, *_ in table("Coming from verl, TRL or OpenRLHF") for key in re.findall(r"`(\w+\.[\w.]+)`", ours)]
    assert len(keys) > 40
    for key in keys:
        value(recipe, key)


def test_commands_of_the_document_are_accepted() -> None:
    commands = [shlex.split(line.partition(" #")[0]) for line in re.findall(r"^gmpo (.*)$", DOCUMENT, re.MULTILINE)]
    for verb, subject, *rest in commands:
        if verb == "train":
            load_recipe(RECIPES / Path(subject).name, rest)
        elif verb == "evaluate":
            suite = load_suite(rest[rest.index("--suite") + 1], [word for word in rest if re.match(r"\w+=", word)])
            assert len(suite.sets) == 5 and (suite.temperature, suite.samples, suite.max_tokens) == (0, 1, 3000)
    assert {verb for verb, *_ in commands} == {"config", "plan", "train", "evaluate"}


def test_every_recipe_is_in_the_documents_table() -> None:
    assert {path.name for path in RECIPES.glob("*.yaml")} == {recipe.strip("`") for recipe, *_ in table("The files")}
