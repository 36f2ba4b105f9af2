"""What was trained on, one Parquet file a step: tokens, texts, verdicts, versions and log-probs, as the learner saw them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.replay.freeze import FrozenStep
from actors.types import GroupMeta, RolloutGroup


def record(directory: Path, frozen: FrozenStep, *groups: RolloutGroup) -> None:
    """Write `<directory>/step-N.parquet`, one row per response of the step's groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    trained = zip(groups, frozen.metas, frozen.advantages, strict=True)
    rows = [row for group, meta, advantages in trained for row in _rows(frozen.step, group, meta, advantages)]
    directory.mkdir(parents=True, exist_ok=True)
    place = directory / f"step-{frozen.step:06d}.parquet"
    partial = place.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows), partial, compression="zstd")
    os.replace(partial, place)


def _rows(step: int, group: RolloutGroup, meta: GroupMeta, advantages: Sequence[float]) -> list[dict[str, Any]]:
    prompt = group.prompt
    verdicts = group.verdicts or ()
    references = group.ref_logprobs or (None,) * len(group.rollouts)
    rows = []
    for sample, (rollout, verdict, reference) in enumerate(zip(group.rollouts, verdicts, references, strict=True)):
        versions = [span.version for span in rollout.spans]
        rows.append(
            {
                "step": step,
                "ordinal": prompt.ordinal,
                "sample": sample,
                "task": prompt.task,
                "row": prompt.row,
                "prompt": prompt.text,
                "response": rollout.text,
                "answer": str(prompt.answer),
                "score": verdict.score,
                "outcome": verdict.outcome.value,
                "extracted": verdict.extracted,
                "kl": meta.kl[sample] if meta.kl else None,
                "advantage": advantages[sample],
                "version_oldest": min(versions, default=None),
                "version_newest": max(versions, default=None),
                "finish_reason": rollout.finish_reason,
                "prompt_token_ids": prompt.token_ids.tolist(),
                "token_ids": rollout.token_ids.tolist(),
                "mask": rollout.mask.tolist(),
                "logprobs": rollout.logprobs.tolist(),
                "ref_logprobs": reference.tolist() if reference is not None else None,
                "spans": [list(span) for span in rollout.spans],
            }
        )
    return rows
