from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import DataError
from actors.records import read_groups, read_ordinals, record_path, records, write_groups
from actors.types import GroupMeta, Outcome, Prompt, Rollout, RolloutGroup, Span, Verdict


def plain(value: Any) -> Any:
    """The same value out of what == compares to the last bit: types, shapes, order of keys, NaN."""
    match value:
        case np.ndarray():
            return value.dtype.str, value.shape, value.tobytes()
        case float():
            return "float", repr(value)
        case Mapping():
            return "mapping", [(key, plain(item)) for key, item in value.items()]
        case tuple() | list():
            return type(value).__name__, [plain(item) for item in value]
    if is_dataclass(value):
        return type(value).__name__, [plain(getattr(value, field.name)) for field in fields(value)]
    return type(value).__name__, value


TEXT = st.text(st.characters(), max_size=6)  # surrogates too, alone and in pairs
ID = st.integers(-(2**31), 2**31 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def arrays(draw: st.DrawFn, size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Any 32 bits, so that NaN comes with every payload."""
    return np.asarray(draw(st.lists(st.integers(0, 2**32 - 1), min_size=size, max_size=size)), np.uint32).view(np.float32)


@st.composite
def rollouts(draw: st.DrawFn) -> Rollout:
    size = draw(st.integers(0, 4))
    ids = np.asarray(draw(st.lists(ID, min_size=size, max_size=size)), np.int32)
    mask = np.asarray(draw(st.lists(st.booleans(), min_size=size, max_size=size)), np.bool_)
    spans = tuple(Span(*draw(st.tuples(st.integers(0, 9), st.just(0), st.just(size)))) for _ in range(draw(st.integers(0, 2))))
    return Rollout(ids, draw(arrays(size)), mask, spans, draw(TEXT), draw(TEXT))


@st.composite
def recordings(draw: st.DrawFn) -> tuple[RolloutGroup, GroupMeta]:
    made = tuple(draw(st.lists(rollouts(), min_size=1, max_size=3)))
    ordinal = draw(st.integers(0, 2**40))
    answer = draw(TEXT | st.integers() | st.floats() | st.lists(JSON, max_size=2))
    columns = draw(st.dictionaries(TEXT, JSON, max_size=2))
    prompt = Prompt(ordinal, draw(TEXT), np.asarray(draw(st.lists(ID, max_size=3)), np.int32), answer, draw(TEXT), draw(TEXT), columns)
    outcomes = st.sampled_from(Outcome)
    parts = st.dictionaries(TEXT, st.floats(), max_size=2)
    verdict = st.builds(Verdict, st.floats(), outcomes, st.none() | TEXT, parts)
    verdicts = draw(st.none() | st.tuples(*[verdict] * len(made)))
    references = tuple(draw(arrays(len(rollout.token_ids))) for rollout in made) if draw(st.booleans()) else None
    each = [st.floats()] * len(made)
    meta = GroupMeta(
        ordinal,
        (draw(st.integers(0, 9)), draw(st.integers(0, 9))),
        tuple(len(rollout.token_ids) for rollout in made),
        scores=draw(st.just(()) | st.tuples(*each)),
        outcomes=draw(st.just(()) | st.tuples(*[outcomes] * len(made))),
        parts=draw(parts),
        kl=draw(st.just(()) | st.tuples(*each)),
        seconds=draw(st.floats()),
    )
    return RolloutGroup(prompt, made, verdicts, references), meta


@settings(max_examples=60)
@given(st.lists(recordings(), max_size=3), st.none() | st.integers(0, 2**40), st.integers(0, 9))
def test_what_is_read_is_what_was_written(recorded: list[tuple[RolloutGroup, GroupMeta]], step: int | None, filtered: int) -> None:
    groups, metas = tuple(group for group, _ in recorded), tuple(meta for _, meta in recorded)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "new" / "ready.parquet"
        write_groups(path, groups, metas, step=step, filtered=filtered)
        back = read_groups(path)
        assert [there.name for there in path.parent.iterdir()] == ["ready.parquet"]
        assert read_ordinals(path) == tuple(dict.fromkeys(meta.ordinal for meta in metas))
    assert (back.step, back.filtered) == (step, filtered)
    assert plain(back.groups) == plain(groups)
    assert plain(back.metas) == plain(metas)


def group(ordinal: int, lengths: list[int], *, text: str = "answer", reference: bool = True) -> RolloutGroup:
    made = tuple(
        Rollout(
            np.arange(length, dtype=np.int32),
            -np.arange(length, dtype=np.float32),
            np.ones(length, dtype=np.bool_),
            (Span(3, 0, 1), Span(4, 1, length)) if length else (),
            "stop",
            text,
        )
        for length in lengths
    )
    verdicts = tuple(Verdict(0.5, Outcome.WRONG, "7") for _ in lengths)
    references = tuple(rollout.logprobs - 1 for rollout in made) if reference else None
    prompt = Prompt(ordinal, "math", np.asarray([1, 2], dtype=np.int32), ["7", 7], "2+5=", "rows#1")
    return RolloutGroup(prompt, made, verdicts, references)


def meta(ordinal: int, *lengths: int, kl: tuple[float, ...] = ()) -> GroupMeta:
    return GroupMeta(ordinal, (3, 4), lengths, kl=kl)


def test_one_row_per_response_tells_what_was_trained_on(tmp_path: Path) -> None:
    path = record_path(tmp_path / "rollouts", 12)
    metas = meta(5, 3, 0, kl=(3.0, 0.0)), meta(9, 1, 2)
    write_groups(path, [group(5, [3, 0]), group(9, [1, 2])], metas, step=12, advantages=((1.0, -1.0), (0.5, -0.5)))
    assert records(tmp_path / "rollouts") == {12: tmp_path / "rollouts" / "step-000012.parquet"}
    rows = pq.read_table(path).to_pylist()
    assert [(row["ordinal"], row["sample"], row["advantage"]) for row in rows] == [(5, 0, 1.0), (5, 1, -1.0), (9, 0, 0.5), (9, 1, -0.5)]
    first, empty = rows[:2]
    assert first["token_ids"] == [0, 1, 2] and first["logprobs"] == [0, -1, -2] and first["ref_logprobs"] == [-1, -2, -3]
    assert (first["step"], first["version_oldest"], first["version_newest"], first["spans"]) == (12, 3, 4, [[3, 0, 1], [4, 1, 3]])
    assert (first["outcome"], first["score"], first["extracted"], first["prompt_token_ids"]) == ("wrong", 0.5, "7", [1, 2])
    assert empty["token_ids"] == [] and empty["version_oldest"] is None
    assert [row["kl"] for row in rows] == [3, 0, None, None]


def test_without_a_reference_its_column_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "ready.parquet"
    write_groups(path, [group(0, [2], reference=False)], [meta(0, 2)])
    table = pq.read_table(path)
    assert all(table.column(name).to_pylist() == [None] for name in ("ref_logprobs", "kl", "advantage", "step"))


def test_half_a_surrogate_pair_is_shown_as_a_question_mark(tmp_path: Path) -> None:
    path = tmp_path / "ready.parquet"
    write_groups(path, [group(0, [2], text="é\ud800!"), group(1, [2], text="é")], [meta(0, 2), meta(1, 2)])
    assert pq.read_table(path).column("response").to_pylist() == ["é?!", "é"]


def test_a_group_and_the_metadata_of_another_are_refused(tmp_path: Path) -> None:
    for whole, told in ((group(0, [1]), meta(1, 1)), (group(0, []), meta(0))):
        with pytest.raises(ValueError, match="prompt 0 has no response"):
            write_groups(tmp_path / "ready.parquet", [whole], [told])
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path, cut = tmp_path / "whole.parquet", tmp_path / "cut.parquet"
    write_groups(path, [group(0, [3, 2])], [meta(0, 3, 2)])
    whole = path.read_bytes()
    for size in range(0, len(whole), 97):
        cut.write_bytes(whole[:size])
        for read in (read_groups, read_ordinals):
            with pytest.raises(DataError, match=r"cut\.parquet: not a whole file"):
                read(cut)


def test_a_damaged_page_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ready.parquet"
    write_groups(path, [group(0, [3, 2])], [meta(0, 3, 2)])
    chunk = next(
        column for index in range(40) if (column := pq.read_metadata(path).row_group(0).column(index)).path_in_schema[:8] == "logprobs"
    )
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="ready"):
        read_groups(path)


def test_files_of_others_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "theirs.parquet"
    with pytest.raises(DataError, match=r"theirs\.parquet: not a whole file of groups: .*No such file"):
        read_groups(path)
    for metadata in (None, {"gmpo": "{}"}, {"gmpo": "no JSON"}, {"gmpo": '{"format": 1, "step": 1, "filtered": 0, "metas": []}'}):
        pq.write_table(pa.table({"prompt": ["p"]}).replace_schema_metadata(metadata), path)
        with pytest.raises(DataError, match=r"theirs\.parquet: not a whole file of groups"):
            read_groups(path)
    pq.write_table(pa.table({"prompt": ["p"]}).replace_schema_metadata({"gmpo": '{"format": 2}'}), path)
    with pytest.raises(DataError, match="format is 2"):
        read_groups(path)


def test_a_disk_that_fills_up_leaves_the_older_file_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ready.parquet"
    write_groups(path, [group(0, [3])], [meta(0, 3)])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_groups(path, [group(1, [3])], [meta(1, 3)])
    assert [there.name for there in tmp_path.iterdir()] == ["ready.parquet"] and read_ordinals(path) == (0,)
