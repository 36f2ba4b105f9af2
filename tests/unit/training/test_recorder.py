from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from actors.replay.freeze import FrozenStep
from actors.types import GroupMeta, Outcome, Prompt, Rollout, RolloutGroup, Span, Verdict
from services.training.recorder import record


def group(ordinal: int, lengths: list[int], *, reference: bool) -> RolloutGroup:
    rollouts = tuple(
        Rollout(
            np.arange(length, dtype=np.int32),
            -np.arange(length, dtype=np.float32),
            np.ones(length, dtype=np.bool_),
            (Span(3, 0, 1), Span(4, 1, length)) if length else (),
            "stop",
            f"answer {index}",
        )
        for index, length in enumerate(lengths)
    )
    verdicts = tuple(Verdict(0.5, Outcome.WRONG, "7") for _ in lengths)
    references = tuple(rollout.logprobs - 1 for rollout in rollouts) if reference else None
    prompt = Prompt(ordinal, "math", np.asarray([1, 2], dtype=np.int32), ["7", 7], "2+5=", "rows#1")
    return RolloutGroup(prompt, rollouts, verdicts, references)


def frozen(step: int, *advantages: tuple[float, ...], kl: tuple[float, ...] = ()) -> FrozenStep:
    metas = tuple(GroupMeta(index, (3, 4), (0,) * len(values), kl=kl) for index, values in enumerate(advantages))
    return FrozenStep(step, metas, advantages, (), (), {})


def test_one_row_per_response_tells_what_was_trained_on(tmp_path: Path) -> None:
    step = frozen(12, (1.0, -1.0), (0.5, -0.5), kl=(3.0, 0.0))
    record(tmp_path / "rollouts", step, group(5, [3, 0], reference=True), group(9, [1, 2], reference=True))
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["step-000012.parquet"]
    rows = pq.read_table(tmp_path / "rollouts" / "step-000012.parquet").to_pylist()
    assert [(row["ordinal"], row["sample"], row["advantage"]) for row in rows] == [(5, 0, 1.0), (5, 1, -1.0), (9, 0, 0.5), (9, 1, -0.5)]
    first, empty = rows[:2]
    assert first["token_ids"] == [0, 1, 2] and first["logprobs"] == [0, -1, -2] and first["ref_logprobs"] == [-1, -2, -3]
    assert (first["version_oldest"], first["version_newest"], first["spans"]) == (3, 4, [[3, 0, 1], [4, 1, 3]])
    assert (first["outcome"], first["score"], first["extracted"], first["prompt_token_ids"]) == ("wrong", 0.5, "7", [1, 2])
    assert empty["token_ids"] == [] and empty["version_oldest"] is None
    assert [row["kl"] for row in rows] == [3, 0, 3, 0]


def test_without_a_reference_its_columns_are_empty(tmp_path: Path) -> None:
    record(tmp_path, frozen(1, (1.0,)), group(0, [2], reference=False))
    table = pq.read_table(tmp_path / "step-000001.parquet")
    assert table.column("ref_logprobs").to_pylist() == table.column("kl").to_pylist() == [None]
