"""One endpoint for all tests that only ask: a run with versions 0, 5 and 10, figures and rollouts, served as `gmpo serve` does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from actors.records import write_groups
from actors.types import GroupMeta, Outcome, Prompt, Rollout, RolloutGroup, Span, Verdict
from actors.weights.version import version_path, write_version
from services.policy import keys
from services.policy.keys import Scope
from tests.tiny_model import build_model, save_tokenizer

STEPS = (0, 5, 10)
EOS_FREE = "483920="
SERVE = """
import sys
from pathlib import Path
from services.policy.config import ServeConfig
from services.policy.endpoint import serve_until_interrupted
config = ServeConfig.model_validate_json(sys.argv[2])
serve_until_interrupted(Path(sys.argv[1]), config, lambda endpoint: print(endpoint.url, flush=True))
"""


@dataclass(frozen=True, slots=True)
class Running:
    """An endpoint that answers."""

    url: str
    run_dir: Path
    admin_key: str
    query_key: str
    process: subprocess.Popen[str]

    @property
    def policies(self) -> Path:
        """Where its versions are."""
        return self.run_dir / "policies"

    def client(self) -> openai.OpenAI:
        """The official client, with a query key."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.query_key, max_retries=0)

    def get(self, path: str) -> Any:
        """What a GET with a query key answers."""
        return httpx.get(self.url + path, headers=bearer(self.query_key), timeout=60).raise_for_status().json()

    def order(self, order: str, **body: int) -> httpx.Response:
        """An operator's order."""
        return httpx.post(f"{self.url}/v1/policies/{order}", json=body, headers=bearer(self.admin_key), timeout=60)


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"authorization": f"Bearer {key}"}


def add_version(run_dir: Path, step: int, *, seed: int | None = None) -> Path:
    """A version with the weights of a seed, by default its step's; returns its directory."""
    model = build_model(seed=step if seed is None else seed)
    tokenizer = run_dir / "tokenizer"
    directory = version_path(run_dir / "policies", step)
    write_version(
        directory,
        state_dict=model.state_dict(),
        model_config=model.config,
        tokenizer_dir=tokenizer if tokenizer.exists() else save_tokenizer(tokenizer),
        step=step,
        parent=None,
        run=run_dir.name,
    )
    return directory


def make_run(run_dir: Path) -> Path:
    """A run directory as a training run leaves it."""
    for step in STEPS:
        add_version(run_dir, step)
    metrics = [{"step": step, "reward/mean": step / 20, "step/seconds": 1.0, "learner/entropy": 1 - step / 20} for step in range(1, 11)]
    _write_lines(run_dir / "metrics.jsonl", metrics)
    accuracies = [(0, 0.3, 0.6), (5, 0.5, 0.9), (10, 0.4, 0.8)]
    evaluations = [{"step": step, "sampled": sampled, "greedy": greedy, "n": 8, "samples": []} for step, sampled, greedy in accuracies]
    _write_lines(run_dir / "evaluation.jsonl", evaluations)
    for step in (5, 10):
        groups = [_group(ordinal, step) for ordinal in range(12)]
        write_groups(run_dir / "rollouts" / f"step-{step:06d}.parquet", groups, metas=[_meta(group) for group in groups], step=step)
    return run_dir


@contextmanager
def serving(run_dir: Path, **settings: Any) -> Iterator[Running]:
    """Serve a run in a process of its own until the end of the block."""
    file = run_dir / "keys.json"
    secrets = []
    for name, scope in (("ana", Scope.ADMIN), ("quentin", Scope.QUERY)):
        secret, key = keys.make(name, scope)
        keys.add(file, key)
        secrets.append(secret)
    config = json.dumps({"port": 0, "keys_file": str(file), "poll_s": 0.2, "stay_s": 0.5, "limits": {"max_tokens": 5000}} | settings)
    command = [sys.executable, "-c", SERVE, str(run_dir), config]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"RAY_ADDRESS": "local"}) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            yield Running(url, run_dir, *secrets, process)
        finally:
            process.send_signal(signal.SIGINT)


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two resident versions. A test that gives orders takes them back."""
    with serving(make_run(tmp_path_factory.mktemp("endpoint") / "run")) as running:
        yield running


def _group(ordinal: int, step: int) -> RolloutGroup:
    prompt = Prompt(ordinal, "exact", np.arange(3, dtype=np.int32), "029384", f"{ordinal:06d}=", f"digits#{ordinal}")
    rollouts, verdicts = [], []
    for sample in range(2):
        right = (ordinal + sample) % 3 == 0
        ids = np.arange(4, dtype=np.int32)
        text = "029384" if right else f"<b>wrong</b> {sample}"
        rollouts.append(Rollout(ids, np.zeros(4, np.float32), np.ones(4, np.bool_), (Span(step - 1, 0, 4),), "stop", text))
        verdicts.append(Verdict(float(right), Outcome.RIGHT if right else Outcome.WRONG, text))
    return RolloutGroup(prompt, tuple(rollouts), tuple(verdicts))


def _meta(group: RolloutGroup) -> GroupMeta:
    verdicts = group.verdicts or ()
    return GroupMeta(
        ordinal=group.prompt.ordinal,
        versions=group.versions,
        lengths=tuple(len(rollout.token_ids) for rollout in group.rollouts),
        scores=tuple(verdict.score for verdict in verdicts),
        outcomes=tuple(verdict.outcome for verdict in verdicts),
    )


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
