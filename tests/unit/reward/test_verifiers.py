r"""What counts as right, and what must not."""

from __future__ import annotations

import threading

import pytest

from actors.errors import ConfigError
from actors.prompts import digits
from actors.reward.verifiers import known, verify
from actors.types import Answer, Outcome, Verdict

RIGHT, WRONG, UNPARSEABLE = Outcome.RIGHT, Outcome.WRONG, Outcome.UNPARSEABLE


def boxed(answer: str) -> str:
    return rf"Let us see. The answer is \boxed{{{answer}}}."


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        (142.0, "142"),
        (142.0, "142.0"),
        (70, "70"),
        (r"\frac{1}{2}", "0.5"),
        ("1/2", r"\dfrac12"),
        ("x=5", "5"),
        ("5", "x = 5"),
        ("3, 5, 7", "7,5,3"),
        (r"90^\circ", "90"),
        ("2k+2", "2(k+1)"),
        (r"\text{(C)}", "C"),
        (r"\text{Evelyn}", r"\text{Evelyn}"),
        (r"52_8", "52_{8}"),
        (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
        (r"5.4 \text{ cents}", "5.4"),
        (r"1\frac{4}{5}", r"\frac{9}{5}"),
        (r"\begin{pmatrix} -2 \\ 7 \end{pmatrix}", r"\begin{pmatrix}-2\\7\end{pmatrix}"),
        (["4\n", r"\frac{3}{2}"], "1.5"),
        (r"The volume is \boxed{12\pi}.", r"12 \pi"),
        (r"\frac{1}{3}", "0.333333"),
        (["4.5e33\n"], r"4.5 \times 10^{33}"),
        ("3e8", "300000000"),
        (r"1.6 \cdot 10^3", "1.6E3"),
        ("6.67e-11", r"6.67 \cdot 10^{-11} \text{ N}"),
        (1e-05, "0.00001"),
        (["2", "-1"], "-1"),
        ("$2$, $-1$", "-1,2"),
        (r"3\sqrt{2} \mathrm{~cm}", r"3\sqrt{2}"),
    ],
)
def test_math_takes_equal_answers(gold: Answer, given: str) -> None:
    assert verify("math", boxed(given), gold).outcome is RIGHT


@pytest.mark.parametrize(
    ("gold", "given"),
    [
        (142.0, "143"),
        (142.0, "142.5"),
        ("(3,5)", "(5,3)"),
        ("52_8", "52_9"),
        (r"\text{even}", r"\text{odd}"),
        ("1,2", "12"),
        ("p - q", "q - p"),
        (["4", "5"], "6"),
        (r"\sqrt{2}", "1.41"),
        ("1.6e-19", "1.7e-19"),
        ("1.6e-19", r"1.7 \times 10^{-19} \text{ C}"),
        ("0.0000012", "0.0000019"),
        ("4.5e33", "4.5e34"),
        ("0.25", "0.26"),
    ],
)
def test_math_refuses_other_answers(gold: Answer, given: str) -> None:
    verdict = verify("math", boxed(given), gold)
    assert (verdict.score, verdict.outcome, verdict.extracted) == (0.0, WRONG, given)


@pytest.mark.parametrize(
    "response", ["", "5", r"\boxed{}", r"\boxed{5", boxed("{" * 3000 + "}" * 3000), boxed(r"\frac{1}{" * 400 + "2" + "}" * 400)]
)
def test_math_without_a_readable_box_is_unparseable(response: str) -> None:
    assert verify("math", response, "5").outcome is UNPARSEABLE


def test_math_runs_outside_the_main_thread() -> None:
    """Where SIGALRM-based timeouts fail and every answer silently becomes wrong."""
    seen: list[Verdict] = []
    thread = threading.Thread(target=lambda: seen.append(verify("math", boxed("2(k+1)"), "2k+2")))
    thread.start()
    thread.join()
    assert seen[0].outcome is RIGHT


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        ("48/2 = 24, 48 + 24 = 72\n#### 72", "Natalia sold <<48/2=24>>24.\n#### 72"),
        ("#### 71\nno wait\n#### $1,072.00", "#### 1072"),
        (r"so \boxed{\$72}", "#### 72"),
        ("that makes 72 dollars.", "72"),
        ("#### 72", 72),
        ("#### 72", 72.0),
        ("#### -3", "#### -3"),
        ("the answer is 1,072.", "1072"),
    ],
)
def test_gsm8k_finds_the_number(response: str, gold: Answer) -> None:
    assert verify("gsm8k", response, gold).outcome is RIGHT


def test_gsm8k_prefers_the_marked_answer() -> None:
    assert verify("gsm8k", "#### 72\nThat was question 5.", "#### 72").outcome is RIGHT
    assert verify("gsm8k", "#### 5\nI had 72 first.", "#### 72").outcome is WRONG
    assert verify("gsm8k", "I do not know", "#### 72").outcome is UNPARSEABLE


def test_arithmetic_compares_numbers() -> None:
    assert verify("arithmetic", "12 + 30 = 42.0", "42").outcome is RIGHT
    assert verify("arithmetic", r"\boxed{1,000}", 1000).outcome is RIGHT
    assert verify("arithmetic", "43", "42").outcome is WRONG
    assert verify("arithmetic", "", "42").outcome is UNPARSEABLE


@pytest.mark.parametrize("task", ["exact", "digits/reverse"])
def test_exact_means_the_whole_response(task: str) -> None:
    assert verify(task, " 0384\n", "0384").outcome is RIGHT
    assert verify(task, "384", "0384").outcome is WRONG
    assert verify(task, "0384 1", "0384").outcome is WRONG
    assert verify(task, "b", ["a", "b"]).outcome is RIGHT


@pytest.mark.parametrize(
    ("response", "outcome"),
    [
        ("3410;4003;0032#0300", RIGHT),
        ("what I like#0300\n", RIGHT),
        ("3410;4003;0032#0301", WRONG),
        ("3410;4003;0032#0300;", WRONG),
        ("3410;4003;0032;0300", UNPARSEABLE),
        ("#0300#0301", WRONG),
        ("#0301#0300", RIGHT),
        ("0300#", WRONG),
        ("", UNPARSEABLE),
    ],
)
def test_of_a_response_with_working_only_what_follows_the_last_mark_counts(response: str, outcome: Outcome) -> None:
    assert verify("digits/repeated_sum", response, "0300").outcome is outcome


def test_the_response_that_is_taught_is_right() -> None:
    problem = digits.problem("repeated_sum", 8, seed=0, number=0)
    assert verify(problem.task, problem.columns[digits.WORKED], problem.answer).outcome is RIGHT


@pytest.mark.parametrize(
    ("task", "response", "score"),
    [
        ("format/boxed", r"\boxed{5}", 1.0),
        ("format/boxed", r"\boxed{5} \boxed{6}", 0.0),
        ("format/boxed", r"\boxed{}", 0.0),
        ("format/think", "<think>hm</think> 5", 1.0),
        ("format/think", "<think>hm</think>", 0.0),
        ("format/think", "hm</think> 5", 0.0),
        ("format/think", "<think>a</think><think>b</think> 5", 0.0),
        ("format/think_boxed", r"<think>hm</think> \boxed{5}", 1.0),
        ("format/think_boxed", r"<think>hm</think> 5", 0.0),
    ],
)
def test_format_says_whether_the_form_is_kept(task: str, response: str, score: float) -> None:
    assert verify(task, response, "5").score == score


def test_unknown_tasks_are_named_before_a_run() -> None:
    assert known("math") and known("digits/anything") and known("reasoning_gym/chain_sum")
    assert not known("maths") and not known("reasoning_gym/none_such")
    with pytest.raises(ConfigError, match="maths"):
        verify("maths", "", "")


def test_a_sum_that_is_not_evaluated_is_right_whatever_order_sympy_asks_itself_in() -> None:
    wrong = [n for n in range(100) if verify("math", rf"\boxed{{5^{{1}}+0 \cdot {n}}}", "5").outcome is not Outcome.RIGHT]
    assert wrong == []
