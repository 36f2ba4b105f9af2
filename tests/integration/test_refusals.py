"""What cannot work is refused with a message that names it, status 2, and nothing started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from services.cli import app
from tests.integration.conftest import TINY

pytestmark = pytest.mark.integration


def refused(tmp_path: Path, *overrides: str) -> str:
    """The message with which `gmpo train` refuses."""
    result = CliRunner().invoke(app, ["train", str(TINY), f"run.root={tmp_path / 'runs'}", *overrides])
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "runs").exists()
    return result.output


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("run.stepz=3", "run.stepz"),
        ("run.steps=many", "run.steps"),
        ("learner.updates_per_step=7", "learner.updates_per_step"),
        ("learner.objective.type=nothing", "learner.objective"),
        ("prompts.source={type: file, path: /nowhere/rows.jsonl}", "/nowhere/rows.jsonl"),
        ("policy.heads=8", "16"),
        ("generation.tensor_parallel=2", "generation.tensor_parallel"),
        ("cluster.device=gpu", "GPU"),
        ("replay.capacity=3", "replay.capacity"),
        ("policy={type: pretrained, path: /nowhere/model}", "/nowhere/model"),
    ],
)
def test_the_message_names_what_is_wrong(tmp_path: Path, override: str, named: str) -> None:
    assert named in refused(tmp_path, override)


def test_a_model_directory_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 128, "num_attention_heads": 4}))
    message = refused(tmp_path, f"policy={yaml.safe_dump({'type': 'pretrained', 'path': str(tmp_path)}, default_flow_style=True).strip()}")
    assert "no safetensors" in message


def test_prompts_that_no_verifier_can_grade_are_refused(tmp_path: Path, warm_model: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "1+1=", "answer": "2"}) + "\n")
    policy = f"policy={{type: pretrained, path: {warm_model}, dtype: float32}}"
    source = f"prompts={{source: {{type: file, path: {rows}}}, task: telepathy, max_tokens: 32}}"
    assert "telepathy" in refused(tmp_path, policy, source, "prompts.held_out=0")
