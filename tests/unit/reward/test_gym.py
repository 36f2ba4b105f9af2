"""reasoning-gym's scorers, with what they would otherwise execute."""

from __future__ import annotations

from typing import Any

import pytest
import reasoning_gym  # type: ignore[import-untyped]

from actors.errors import VerifierError
from actors.reward.verifiers import verify
from actors.types import Outcome, Verdict


def entry(name: str) -> dict[str, Any]:
    made: dict[str, Any] = reasoning_gym.create_dataset(name, seed=7, size=1)[0]
    return made


def graded(name: str, response: str, made: dict[str, Any]) -> Verdict:
    return verify(f"reasoning_gym/{name}", response, made["answer"], columns={"entry": made})


@pytest.mark.parametrize("name", ["chain_sum", "countdown", "spiral_matrix", "simple_integration", "polynomial_multiplication", "rearc"])
@pytest.mark.parametrize("form", ["{}", "I think <answer>{}</answer>"])
def test_its_own_answer_is_right(name: str, form: str) -> None:
    made = entry(name)
    assert graded(name, form.format(made["answer"]), made).outcome is Outcome.RIGHT


def test_partial_scores_are_kept() -> None:
    made = entry("chain_sum")
    verdict = graded("chain_sum", f"it is {made['answer']} or so", made)
    assert 0.0 < verdict.score < 1.0 and verdict.outcome is Outcome.WRONG


def test_another_expression_of_the_same_value_is_right() -> None:
    made = entry("countdown")
    assert graded("countdown", f"({made['answer']}) * 1", made).score < 1.0  # 1 is not among the numbers
    assert graded("countdown", f"({made['answer']})", made).score == 1.0


@pytest.mark.parametrize(
    "name", ["spiral_matrix", "binary_matrix", "string_insertion", "n_queens", "countdown", "puzzle24", "simple_integration"]
)
@pytest.mark.parametrize(
    "attack",
    [
        "__import__('os').mkdir(r'{}')",
        "[__import__('os').mkdir(r'{}')]",
        "(lambda: __import__('os'))().mkdir(r'{}')",
        "eval(chr(95))",
        "exec(bytes([1]))",
    ],
)
def test_responses_are_not_executed(name: str, attack: str, tmp_path: Any) -> None:
    target = tmp_path / "made"
    verdict = graded(name, attack.format(target), entry(name))
    assert verdict.score < 0.1 and not target.exists()


def test_without_its_entry_a_task_is_a_fault_and_not_a_zero() -> None:
    with pytest.raises(VerifierError, match="entry"):
        verify("reasoning_gym/countdown", "1 + 1", "2")
