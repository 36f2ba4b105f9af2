from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from actors.errors import DataError
from actors.prompts import digits
from actors.prompts.config import PromptsConfig
from actors.prompts.problems import Reason
from actors.prompts.stream import PromptStream, RowOrder, open_stream
from actors.reward.verifiers import verify
from actors.types import Prompt

ROWS = [{"problem": f"What is {n}+{n}?", "answer": str(2 * n)} for n in range(40)]


def write(path: Path, rows: list[Any]) -> dict[str, str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"type": "file", "path": str(path)}


def opened(tokenizer: PreTrainedTokenizerFast, *, seed: int = 0, **values: Any) -> PromptStream:
    return open_stream(PromptsConfig.model_validate({"template": "plain", **values}), tokenizer, seed=seed)


def texts(prompts: list[Prompt]) -> list[str]:
    return [prompt.text for prompt in prompts]


def order(size: int, *, seed: int, shuffle: bool = True) -> RowOrder:
    prompts = [Prompt(0, "math", np.array([row], np.int32), "1", str(row), f"rows#{row}") for row in range(size)]
    return RowOrder(prompts, seed=seed, shuffle=shuffle)


@settings(deadline=None)
@given(size=st.integers(1, 50), seed=st.integers(0, 2**64), epoch=st.integers(0, 10**6))
def test_each_epoch_holds_every_row_once(size: int, seed: int, epoch: int) -> None:
    rows = order(size, seed=seed)
    prompts = [rows.nth(epoch * size + place) for place in range(size)]
    assert sorted(int(prompt.text) for prompt in prompts) == list(range(size))
    assert [prompt.ordinal for prompt in prompts] == list(range(epoch * size, (epoch + 1) * size))


@settings(deadline=None)
@given(size=st.integers(1, 50), seed=st.integers(0, 2**64), ordinals=st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_any_order_of_asking_gives_the_same_prompts(size: int, seed: int, ordinals: list[int]) -> None:
    rows, resumed = order(size, seed=seed), order(size, seed=seed)
    asked = {ordinal: rows.nth(ordinal).row for ordinal in ordinals}
    assert asked == {ordinal: resumed.nth(ordinal).row for ordinal in sorted(ordinals, reverse=True)}


def test_the_order_is_the_one_that_earlier_runs_had() -> None:
    rows = order(10, seed=7)
    assert "".join(rows.nth(ordinal).text for ordinal in range(20)) == "8071362459" + "9086713425"


def test_seeds_and_epochs_have_different_orders() -> None:
    first, second = order(40, seed=1), order(40, seed=2)
    epochs = [[rows.nth(start + place).row for place in range(40)] for rows in (first, second) for start in (0, 40)]
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_without_shuffling_rows_keep_their_order() -> None:
    rows = order(3, seed=1, shuffle=False)
    assert [rows.nth(ordinal).text for ordinal in range(7)] == ["0", "1", "2", "0", "1", "2", "0"]


def test_ordinals_count_from_zero() -> None:
    with pytest.raises(IndexError):
        order(3, seed=1).nth(-1)


def test_a_prompt_carries_all_of_its_row(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"prompt": "2+2?", "answer": ["4", "four"], "level": 3}])
    prompt = opened(tokenizer, source=source, template="chat").nth(5)
    assert (prompt.ordinal, prompt.task, prompt.answer, prompt.row) == (5, "math", ["4", "four"], "rows.jsonl#1")
    assert prompt.columns == {"answer": ["4", "four"], "level": 3}
    assert tokenizer.decode(prompt.token_ids) == prompt.text == "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"


def test_rows_that_do_not_fit_are_named_and_ordinals_stay_dense(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "Sure?"}]
    source = write(
        tmp_path / "rows.jsonl", [*ROWS[:2], {"problem": "9" * 13, "answer": "1"}, {"problem": ""}, {"prompt": talk, "answer": "yes"}]
    )
    stream = opened(tokenizer, source=source, max_tokens=12)
    assert stream.epoch_size == 2
    assert sorted(texts([stream.nth(0), stream.nth(1)])) == ["What is 0+0?", "What is 1+1?"]
    assert stream.rejected.rows == {
        Reason.NO_QUESTION: ("rows.jsonl#4",),
        Reason.UNRENDERABLE: ("rows.jsonl#5",),
        Reason.TOO_LONG: ("rows.jsonl#3",),
    }


@pytest.mark.parametrize("rows", [[], [{"problem": "no answer"}], [{"problem": "far too long", "answer": 1}]])
def test_nothing_to_train_on_is_an_error_that_says_why(tokenizer: PreTrainedTokenizerFast, tmp_path: Path, rows: list[Any]) -> None:
    with pytest.raises(DataError, match=r"no usable problem in .*rows\.jsonl.* left out"):
        opened(tokenizer, source=write(tmp_path / "rows.jsonl", rows), max_tokens=11)


def test_held_out_problems_are_never_trained_on(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [*ROWS, *ROWS])
    stream = opened(tokenizer, source=source, held_out=10)
    held_out = stream.held_out()
    assert [prompt.ordinal for prompt in held_out] == list(range(10))
    assert stream.epoch_size == 60
    trained = Counter(stream.nth(ordinal).text for ordinal in range(60))
    assert set(trained) == {row["problem"] for row in ROWS} - set(texts(held_out))
    assert len(stream.rejected.rows[Reason.HELD_OUT]) == 10


def test_the_held_out_problems_depend_on_neither_seed_nor_order_nor_template(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    forth, back = write(tmp_path / "forth.jsonl", ROWS), write(tmp_path / "back.jsonl", ROWS[::-1])
    chosen = opened(tokenizer, source=forth, held_out=10, seed=1).held_out()
    assert texts(chosen) == texts(opened(tokenizer, source=back, held_out=10, seed=2).held_out())
    chat = opened(tokenizer, source=forth, held_out=10, template="chat").held_out()
    assert [prompt.row for prompt in chosen] == [prompt.row for prompt in chat]


def test_a_source_of_its_own_for_evaluation(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    asked = {"prompt": [{"role": "user", "content": ROWS[3]["problem"]}], "answer": "6"}
    training, evaluation = write(tmp_path / "train.jsonl", ROWS), write(tmp_path / "eval.jsonl", [{"prompt": "?"}, asked, *ROWS[:2]])
    stream = opened(tokenizer, source=training, held_out=2, held_out_source=evaluation)
    assert texts(stream.held_out()) == [ROWS[3]["problem"], ROWS[0]["problem"]]
    assert stream.epoch_size == 38
    assert stream.rejected.rows == {Reason.HELD_OUT: ("train.jsonl#1", "train.jsonl#4"), Reason.NO_ANSWER: ("eval.jsonl#1",)}


def test_more_held_out_problems_than_there_are(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(DataError, match="held_out is 40, but the source has only 40"):
        opened(tokenizer, source=source, held_out=40)
    with pytest.raises(DataError, match="held_out is 41, but held_out_source has only 40"):
        opened(tokenizer, source={"type": "digits"}, held_out=41, held_out_source=source)
    with pytest.raises(DataError, match="none is left to train on"):
        opened(tokenizer, source=source, held_out=40, held_out_source=source)


def test_digits_go_on_for_ever_and_keep_clear_of_the_held_out(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = opened(tokenizer, source={"type": "digits", "task": "sort"}, held_out=200, template="chat", seed=5)
    assert stream.epoch_size is None and stream.rejected.count == 0
    far = stream.nth(10**12)
    assert far.ordinal == 10**12 and far.task == "digits/sort" and far.text.startswith("<|im_start|>user\n")
    trained = {stream.nth(ordinal).row: stream.nth(ordinal).answer for ordinal in range(300)}
    again = opened(tokenizer, source={"type": "digits", "task": "sort"}, template="chat", seed=5)
    assert trained == {again.nth(ordinal).row: again.nth(ordinal).answer for ordinal in reversed(range(300))}
    held_out = stream.held_out()
    assert len(held_out) == 200 and [prompt.ordinal for prompt in held_out] == list(range(200))
    questions = [prompt.text.split("\n")[1].removesuffix("<|im_end|>") for prompt in held_out]
    assert all(digits.is_held_out(question) for question in questions)


def test_digits_longer_than_the_limit_are_refused_before_the_run(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="max_tokens is 6"):
        opened(tokenizer, source={"type": "digits", "digits": 6}, max_tokens=6)
    assert opened(tokenizer, source={"type": "digits", "digits": 6}, max_tokens=7).nth(0).token_ids.shape == (7,)


def test_reasoning_gym_prompts_carry_what_their_verifier_needs(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = opened(tokenizer, source={"type": "reasoning_gym", "task": "chain_sum", "size": 20}, held_out=5)
    assert stream.epoch_size == 15 and len(stream.held_out()) == 5
    prompt = stream.nth(3)
    assert prompt.task == "reasoning_gym/chain_sum" and prompt.columns["entry"]["answer"] == prompt.answer
    assert verify(prompt.task, f"<answer>{prompt.answer}</answer>", prompt.answer, columns=prompt.columns).score == 1.0
