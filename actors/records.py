"""Groups in a Parquet file, there and back exactly: what a step was trained on, and what a checkpoint keeps of the groups that are ready.

One row a response, in order; a group begins where `sample` is 0. Ids are int32, log-probs float32, as they are in memory. `answer`,
`columns` and `parts` are JSON. A text with half a surrogate pair, which no Parquet string can hold, stands in its column with question
marks and in `exact` as it is. The file's metadata holds, under the key `gmpo`, a JSON object: format, step, filtered, and the metas.

A file is whole or absent, whenever the process dies; pages carry checksums.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from actors.errors import DataError
from actors.types import GroupMeta, Outcome, Prompt, Rollout, RolloutGroup, Span, Verdict

FORMAT = 1
KEY = b"gmpo"

SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "ordinal": pa.int64(),
        "sample": pa.int32(),
        "task": pa.string(),
        "row": pa.string(),
        "prompt": pa.string(),
        "response": pa.string(),
        "answer": pa.string(),
        "columns": pa.string(),
        "score": pa.float64(),
        "outcome": pa.string(),
        "extracted": pa.string(),
        "parts": pa.string(),
        "kl": pa.float64(),
        "advantage": pa.float64(),
        "version_oldest": pa.int64(),
        "version_newest": pa.int64(),
        "finish_reason": pa.string(),
        "prompt_token_ids": pa.list_(pa.int32()),
        "token_ids": pa.list_(pa.int32()),
        "mask": pa.list_(pa.bool_()),
        "logprobs": pa.list_(pa.float32()),
        "ref_logprobs": pa.list_(pa.float32()),
        "spans": pa.list_(pa.list_(pa.int64())),  # [version, start, end] each
        "exact": pa.binary(),  # JSON: column -> text, of those texts that are not valid Unicode
    }
)
ARRAYS: Mapping[str, type[np.generic]] = {
    "prompt_token_ids": np.int32,
    "token_ids": np.int32,
    "mask": np.bool_,
    "logprobs": np.float32,
    "ref_logprobs": np.float32,
}
TEXTS = tuple(column.name for column in SCHEMA if column.type == pa.string())
NOT_OURS = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError)
"""What reading raises where a file was cut, damaged, or made by others."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a file holds; `metas` belong to `groups`, one each."""

    step: int | None  # that was trained on them; None in a checkpoint
    filtered: int  # groups dropped on the way to the step because they told no response from another
    groups: tuple[RolloutGroup, ...]
    metas: tuple[GroupMeta, ...]


def record_path(directory: Path, step: int) -> Path:
    """Where the groups of a step are."""
    return directory / f"step-{step:06d}.parquet"


def records(directory: Path) -> dict[int, Path]:
    """The recorded steps of a directory, in order."""
    named = ((re.fullmatch(r"step-(\d+)\.parquet", path.name), path) for path in directory.glob("step-*.parquet"))
    return dict(sorted((int(match[1]), path) for match, path in named if match))


def write_groups(
    path: Path,
    groups: Sequence[RolloutGroup],
    metas: Sequence[GroupMeta],
    *,
    step: int | None = None,
    filtered: int = 0,
    advantages: Sequence[Sequence[float]] | None = None,
) -> None:
    """Write the groups, each of at least one response; `advantages` [groups][G] are for people and not read back."""
    values = [[None] * len(group.rollouts) for group in groups] if advantages is None else advantages
    rows = [row for group, meta, value in zip(groups, metas, values, strict=True) for row in _rows(step, group, meta, value)]
    facts = {"format": FORMAT, "step": step, "filtered": filtered, "metas": [asdict(meta) for meta in metas]}
    table = _table(rows).replace_schema_metadata({KEY: _packed(facts)})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            pq.write_table(table, file, compression="zstd", use_dictionary=list(TEXTS), write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        partial.unlink(missing_ok=True)  # the disk may be full
        raise
    partial.replace(path)


def read_groups(path: Path) -> Recorded:
    """The groups and metas as they were written. DataError if the file is not whole, or not one of these."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            facts = _facts(path, file.schema_arrow.metadata)
            groups = tuple(_groups(file.read()))
        metas = tuple(map(_meta, facts["metas"]))
        if [group.prompt.ordinal for group in groups] != [meta.ordinal for meta in metas]:
            raise DataError(f"{path}: its rows and its metadata tell of different groups")
        return Recorded(facts["step"], facts["filtered"], groups, metas)
    except NOT_OURS as error:
        raise _unreadable(path, error) from None


def read_ordinals(path: Path) -> tuple[int, ...]:
    """The prompts of a file, in order, without the rest of it. DataError as of `read_groups`."""
    try:
        with pq.ParquetFile(path) as file:
            return tuple(dict.fromkeys(file.read(["ordinal"])["ordinal"].to_pylist()))
    except NOT_OURS as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    return DataError(f"{path}: not a whole file of groups: {why}")


def _facts(path: Path, metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    facts: dict[str, Any] = _unpacked((metadata or {})[KEY])
    if facts["format"] != FORMAT:
        raise DataError(f"{path}: its format is {facts['format']}, and this program reads {FORMAT}")
    return facts


# --- from groups to columns ----------------------------------------------------------------------------------------------------------


def _rows(step: int | None, group: RolloutGroup, meta: GroupMeta, advantages: Sequence[float | None]) -> Iterator[dict[str, Any]]:
    if not group.rollouts or meta.ordinal != group.prompt.ordinal:
        raise ValueError(f"prompt {group.prompt.ordinal} has no response to record, or the metadata of prompt {meta.ordinal}")
    prompt, nothing = group.prompt, (None,) * len(group.rollouts)
    parts = group.rollouts, group.verdicts or nothing, group.ref_logprobs or nothing, meta.kl or nothing, advantages
    for sample, (rollout, verdict, reference, kl, advantage) in enumerate(zip(*parts, strict=True)):
        versions = [span.version for span in rollout.spans]
        row = {
            "step": step,
            "ordinal": prompt.ordinal,
            "sample": sample,
            "task": prompt.task,
            "row": prompt.row,
            "prompt": prompt.text,
            "response": rollout.text,
            "answer": _json(prompt.answer),
            "columns": _json(dict(prompt.columns)),
            "score": verdict.score if verdict else None,
            "outcome": verdict.outcome.value if verdict else None,
            "extracted": verdict.extracted if verdict else None,
            "parts": _json(dict(verdict.parts)) if verdict else None,
            "kl": kl,
            "advantage": advantage,
            "version_oldest": min(versions, default=None),
            "version_newest": max(versions, default=None),
            "finish_reason": rollout.finish_reason,
            "prompt_token_ids": prompt.token_ids,
            "token_ids": rollout.token_ids,
            "mask": rollout.mask,
            "logprobs": rollout.logprobs,
            "ref_logprobs": reference,
            "spans": [list(span) for span in rollout.spans],
        }
        yield row | _valid_texts(row)


def _valid_texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """Stand-ins for the row's texts that are not valid Unicode, and what they stand for."""
    exact = {name: row[name] for name in TEXTS if row[name] is not None and not _is_unicode(row[name])}
    readable = {name: text.encode("utf-8", "replace").decode() for name, text in exact.items()}
    return readable | {"exact": _packed(exact) if exact else None}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns = []
    for column in SCHEMA:
        values = [row[column.name] for row in rows]
        dtype = ARRAYS.get(column.name)
        columns.append(pa.array(values, column.type) if dtype is None else _lists(values, dtype))
    return pa.table(columns, schema=SCHEMA)


def _lists(arrays: Sequence[NDArray[Any] | None], dtype: type[np.generic]) -> pa.ListArray:
    """A column of arrays, bit for bit: by way of Python's floats a NaN would lose its payload."""
    ends = np.cumsum([0, *(0 if array is None else len(array) for array in arrays)], dtype=np.int32)
    values = np.concatenate([np.empty(0, dtype), *(array for array in arrays if array is not None)], dtype=dtype)
    return pa.ListArray.from_arrays(ends, pa.array(values), mask=pa.array([array is None for array in arrays], pa.bool_()))


# --- and back ------------------------------------------------------------------------------------------------------------------------


def _groups(table: pa.Table) -> Iterator[RolloutGroup]:
    columns = {name: _arrays(table[name]) if name in ARRAYS else table[name].to_pylist() for name in SCHEMA.names}
    for index, exact in enumerate(columns["exact"]):
        for name, text in (_unpacked(exact) if exact is not None else {}).items():
            columns[name][index] = text
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    starts = [index for index, row in enumerate(rows) if row["sample"] == 0]
    for start, end in pairwise([*starts, len(rows)]):
        yield _group(rows[start:end])


def _arrays(column: pa.ChunkedArray) -> list[NDArray[Any] | None]:
    """Views of one buffer, as Ray hands out arrays too: not to be written to."""
    lists = column.combine_chunks()
    values, ends = lists.values.to_numpy(zero_copy_only=False), lists.offsets.to_numpy()
    present = lists.is_valid().to_pylist()
    return [values[start:end] if there else None for there, start, end in zip(present, ends[:-1], ends[1:], strict=True)]


def _group(rows: Sequence[Mapping[str, Any]]) -> RolloutGroup:
    first = rows[0]
    prompt = Prompt(
        ordinal=first["ordinal"],
        task=first["task"],
        token_ids=first["prompt_token_ids"],
        answer=json.loads(first["answer"]),
        text=first["prompt"],
        row=first["row"],
        columns=json.loads(first["columns"]),
    )
    verdicts = None if first["outcome"] is None else tuple(map(_verdict, rows))
    references = None if first["ref_logprobs"] is None else tuple(row["ref_logprobs"] for row in rows)
    return RolloutGroup(prompt, tuple(map(_rollout, rows)), verdicts, references)


def _rollout(row: Mapping[str, Any]) -> Rollout:
    spans = tuple(Span(*span) for span in row["spans"])
    return Rollout(row["token_ids"], row["logprobs"], row["mask"], spans, row["finish_reason"], row["response"])


def _verdict(row: Mapping[str, Any]) -> Verdict:
    return Verdict(row["score"], Outcome(row["outcome"]), row["extracted"], json.loads(row["parts"]))


def _meta(fields: Mapping[str, Any]) -> GroupMeta:
    tuples = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    outcomes = tuple(map(Outcome, fields["outcomes"]))
    return GroupMeta(**{**fields, **tuples, "outcomes": outcomes})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # an escaped half of a pair would join the half beside it when read


def _packed(value: Any) -> bytes:
    return _json(value).encode("utf-8", "surrogatepass")


def _unpacked(content: bytes) -> Any:
    return json.loads(content.decode("utf-8", "surrogatepass"))
