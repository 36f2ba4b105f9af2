"""The files of the paper and of GSM8K as they are: every row is a prompt, or is named with its reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from actors.prompts.config import FileSource, PromptsConfig
from actors.prompts.problems import Reason
from actors.prompts.sources import load
from actors.prompts.stream import open_stream


def test_the_papers_training_set_loads_whole(data: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    source = FileSource(path=str(data / "train" / "math_lvl3to5_8523.json"))
    stream = open_stream(PromptsConfig(source=source, template="qwen_math", max_tokens=5000), tokenizer, seed=1)
    assert stream.epoch_size is not None and stream.epoch_size + stream.rejected.count == 8523
    # Two multiple-choice questions of the file have an empty answer: nothing could be right about them.
    assert stream.rejected.rows == {Reason.NO_ANSWER: ("math_lvl3to5_8523.json#5055", "math_lvl3to5_8523.json#5159")}
    rows = {stream.nth(ordinal).row for ordinal in range(8521)}
    assert len(rows) == 8521
    assert stream.nth(0).task == "math" and stream.nth(0).columns["source"] == "math"


def test_gsm8k_loads_whole_and_is_known_as_such(data: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    source = FileSource(path=str(data / "train" / "gsm8k_train.jsonl"))
    stream = open_stream(PromptsConfig(source=source, held_out=100), tokenizer, seed=1)
    assert stream.epoch_size == 7373 and len(stream.held_out()) == 100 and stream.rejected.count == 0
    prompts = [stream.nth(ordinal) for ordinal in range(7373)]
    assert {prompt.task for prompt in prompts} == {"gsm8k"}
    assert all(re.search(r"\n#### \S+$", str(prompt.answer)) for prompt in prompts)


@pytest.mark.parametrize(
    ("name", "rows", "task", "kind"),
    [("aime24", 30, "math", str), ("amc", 83, "math", float), ("math500", 500, "math", str), ("gsm8k_test", 1319, "gsm8k", str)],
)
def test_evaluation_suites_load_whole(data: Path, name: str, rows: int, task: str, kind: type) -> None:
    problems, rejections = load(FileSource(path=str(data / "eval" / f"{name}.jsonl")))
    assert len(problems) == rows and rejections == []
    assert {problem.task for problem in problems} == {task}
    assert {type(problem.answer) for problem in problems} == {kind}
