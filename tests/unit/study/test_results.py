"""The results page: every cell with its numbers, whatever part of the runs is there, and the same page from the same runs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from actors.errors import ConfigError
from actors.weights.version import version_path, write_version
from services.compare.measures import MEASURES
from services.study.cautions import cautions
from services.study.config import Cell, Study
from services.study.figures import draw_sweeps, sweep_figure
from services.study.records import read_records
from services.study.results import write_results
from tests.tiny_model import build_model, save_tokenizer
from tests.unit.study.fabricate import OBJECTIVES, RATES, Makeup, records_of, write_run, write_study

GMPO, GRPO = Makeup(accuracy=0.9, width=1.5, entropy=0.35), Makeup(accuracy=0.8, width=3.0)


@dataclass(frozen=True)
class Written:
    """A page and the studies it is of."""

    page: Path
    small: Study
    rates: Study

    @property
    def text(self) -> str:
        return self.page.read_text(encoding="utf-8")

    def rows(self, heading: str, *, after: str = "") -> dict[str, list[str]]:
        """{first cell: other cells} of the first table below a heading."""
        below = self.text[self.text.index(after) :].partition(f"### {heading}\n")[2]
        lines = below.strip().partition("\n\n")[0].splitlines()
        table = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        return {first: rest for first, *rest in table}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A study of one factor in which GSPO diverges once and lacks two runs, and a sweep that has come through one seed of three."""
    directory = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GMPO_RUN_ROOT", str(directory / "runs"))
        small = write_study(directory)
        for cell in small.cells:
            for seed in small.seeds:
                if (cell.name, seed) not in {("gspo", 3), ("gspo", 4)}:
                    write_run(small, cell, seed, made(cell, seed))
        rates = write_study(directory, name="rates", factors={"objective": two_objectives(), "lr": RATES}, seeds=3)
        for cell in rates.cells:
            write_run(rates, cell, 0, made(cell, 0))
        page = directory / "docs" / "results.md"
        write_results([small, rates], page)
        write_results([small, rates], directory / "again" / "results.md")
    return Written(page, small, rates)


@pytest.fixture
def study_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two objectives under one seed, both done."""
    monkeypatch.setenv("GMPO_RUN_ROOT", str(tmp_path / "runs"))
    study = write_study(tmp_path, factors={"objective": two_objectives()}, seeds=1)
    for cell in study.cells:
        write_run(study, cell, 0, GMPO)
    return study


def two_objectives() -> dict[str, list[str]]:
    return {name: OBJECTIVES[name] for name in ("gmpo", "grpo")}


def made(cell: Cell, seed: int) -> Makeup:
    makeup = {"gmpo": GMPO, "grpo": GRPO}.get(cell.levels[0], Makeup(accuracy=0.7))
    return replace(makeup, outcome="diverged", made=10) if (cell.levels[0], seed) == ("gspo", 1) else makeup


def test_every_cell_stands_there_with_its_medians(written: Written) -> None:
    # Seed s ends 0.01 s above what is made up; the interval of five is their range.
    rows = written.rows("How well it does")
    assert rows["gmpo"][0] == "0.920 (0.900 to 0.940)"
    assert rows["grpo"][0] == "0.820 (0.800 to 0.840)"
    assert rows["gspo"][0] == "0.700 (0.000 to 0.720), n = 3"
    assert written.rows("What becomes of the policy")["gmpo"][0] == "0.350 (0.350 to 0.350)"


def test_differences_are_paired_by_seed(written: Written) -> None:
    below = written.text.partition("Difference to grpo, paired by seed:")[2]
    assert "| gmpo | +0.100 (+0.100 to +0.100), 5/5 |" in below
    assert "| gspo | \N{MINUS SIGN}0.100 (\N{MINUS SIGN}0.810 to \N{MINUS SIGN}0.100), 0/3 |" in below


def test_the_page_opens_with_the_claims_and_what_each_study_says_to_them(written: Written) -> None:
    row = next(line for line in written.text.splitlines() if line.startswith("| GMPO ends more accurate than GRPO |"))
    assert row.endswith("| **holds in all 5 seeds**: +0.100 (+0.100 to +0.100), 5 of 5 seeds | **cannot be said** at 3 of 3 places |")
    assert "- The rates study, 6 of 18 runs: holds 0, does not hold 0, cannot be said 29." in written.text


def test_claims_that_no_study_of_the_page_asks_are_named(written: Written) -> None:
    asked, _, others = written.text.partition("Not asked here")
    assert "Dr. GRPO" not in asked and "- GMPO ends at least as accurate as Dr. GRPO (Table 1)" in others
    assert "Far off-policy" not in asked and "- Far off-policy" in others
    assert "| At the greatest learning rate GMPO" in asked


def test_the_page_says_what_it_is_evidence_of(written: Written) -> None:
    head = written.text.partition("## The paper's claims")[0]
    assert head.startswith("# Results: The small study; The rates study\n")
    assert "**The small study**: a policy of 0.8 M parameters" in head
    assert "on digits (task reverse, digits 6). Medians of 13 runs: held-out accuracy 0.30 before the first step and 0.83 after" in head
    assert "[Study](../small.yaml)" in head
    assert "says nothing about larger models" in head


def test_remarks_tell_the_noise_of_the_questions_and_the_tuning(written: Written) -> None:
    # Of 256 questions, sqrt(0.835 * 0.165 / 256) = 0.023, half of it where the four answers to one are as different as those to two.
    assert "256 questions, 4 sampled answers to each, has a standard error between 0.012" in written.text
    assert "One learning rate, 0.0003 (linear to 1e-05), for all objectives: it is tuned for none by itself." in written.text
    assert "`gspo` has its paper's clip (0.0003 and 0.0004)" in written.text


def test_a_study_of_something_else_has_no_claims_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMPO_RUN_ROOT", str(tmp_path / "runs"))
    study = write_study(tmp_path, factors={"rate": {"grpo": [], "twice": ["learner.optimizer={lr: 6.0e-4, schedule: constant}"]}}, seeds=1)
    for cell in study.cells:
        write_run(study, cell, 0, GMPO)
    write_results([study], tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "paper" not in text and "GMPO" not in text
    assert "| twice | 0.900 | 0.920 |" in text


def test_what_has_not_run_is_said_and_what_diverged_is_named(written: Written) -> None:
    assert "13 of 15 runs have ended." in written.text
    assert "| gspo | 3 of 5, 1 diverged, 1 collapsed |" in written.text
    assert "- gspo (seed 1) ended at step 10 of 20: told by the run; last evaluated at step 10: 0.505" in written.text
    assert "6 of 18 runs have ended." in written.text


def test_a_sweep_has_its_levels_across_and_single_runs_have_no_interval(written: Written) -> None:
    rows = written.rows("Held-out accuracy", after="## The rates study")
    assert rows["objective"] == ["lr 1e-4", "lr 3e-4", "lr 1e-3"]
    assert rows["gmpo"] == ["0.900, n = 1"] * 3
    assert rows["gmpo \N{MINUS SIGN} grpo"] == ["+0.100, 1/1"] * 3


def test_every_figure_that_the_page_shows_is_there(written: Written) -> None:
    shown = re.findall(r"!\[.*?\]\((\S+?)\)$", written.text, flags=re.MULTILINE)
    files = {path.relative_to(written.page.parent).as_posix() for path in written.page.parent.rglob("*.*") if path != written.page}
    assert set(shown) == files
    assert {"results/small/log_ratio.png", "results/rates/accuracy.png"} <= files


def test_the_same_runs_give_the_same_bytes(written: Written) -> None:
    again = written.page.parents[1] / "again"
    for path in [path for path in written.page.parent.rglob("*") if path.is_file()]:
        assert path.read_bytes() == (again / path.relative_to(written.page.parent)).read_bytes(), path.name


def test_a_study_of_which_nothing_ran_has_no_figures_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMPO_RUN_ROOT", str(tmp_path / "runs"))
    study = write_study(tmp_path, factors={"objective": two_objectives()}, seeds=3)
    write_results([study], tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "0 of 6 runs have ended." in text
    assert "| GMPO keeps a higher entropy than GRPO | Fig. 4 | **cannot be said**: not run |" in text
    assert "Remarks" not in text


def test_a_cell_that_has_not_run_and_figures_of_fewer_tokens_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMPO_RUN_ROOT", str(tmp_path / "runs"))
    denominators = {"recomputed": [], "behaviour": ["learner.denominator=behaviour"]}
    study = write_study(tmp_path, factors={"objective": two_objectives(), "denominator": denominators}, seeds=1)
    for cell in study.cells:
        if cell.levels[1] == "recomputed":
            write_run(study, cell, 0, GMPO)
    write_results([study], tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| GMPO keeps a higher entropy than GRPO | Fig. 4 | **cannot be said** at 1, not run at 1 of 2 places |" in text
    assert "entropy and KL are of the tokens of a step's first update" in text


def test_runs_that_did_not_begin_alike_or_were_made_by_other_code_are_told_apart(study_of_two: Study) -> None:
    outcomes = study_of_two.directory / "outcomes.jsonl"
    rows = [json.loads(line) for line in outcomes.read_text().splitlines()]
    rows = [row | {"packages": {"torch": f"2.{13 + number}.0"}} for number, row in enumerate(rows)]
    outcomes.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed, cell in enumerate(study_of_two.cells):
        model = build_model(seed=seed)
        write_version(
            version_path(study_of_two.run_dir(cell, 0) / "policies", 0),
            state_dict=model.state_dict(),
            model_config=model.config,
            tokenizer_dir=save_tokenizer(study_of_two.directory / "tokenizer"),
            step=0,
            parent=None,
            run="run",
        )
    (unlike, code, *_) = cautions(read_records(study_of_two))
    assert re.fullmatch(r"These runs did not all begin with the same weights: \w{12} in 1, \w{12} in 1\. .*", unlike)
    assert code == "These runs were not all made with the same torch: 2.13.0 in 1, 2.14.0 in 1."


def test_a_study_without_held_out_questions_tells_no_accuracy(study_of_two: Study, tmp_path: Path) -> None:
    for cell in study_of_two.cells:
        (study_of_two.run_dir(cell, 0) / "evaluation.jsonl").unlink()
    write_results([study_of_two], tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "nan" not in text
    assert "Medians of 2 runs: responses of 7 tokens; a run took" in text


def test_a_run_under_way_and_a_torn_outcome_are_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMPO_RUN_ROOT", str(tmp_path / "runs"))
    study = write_study(tmp_path, factors={"objective": two_objectives(), "lr": RATES}, seeds=1)
    for cell in study.cells[:2]:
        write_run(study, cell, 0, GMPO)
    outcomes = study.directory / "outcomes.jsonl"
    first, second = outcomes.read_text(encoding="utf-8").splitlines()
    outcomes.write_text(first + "\n" + second[:-20], encoding="utf-8")
    assert json.loads(first)["run"] == "gmpo-1e-4-s0"
    write_results([study], tmp_path / "results.md")
    assert "1 of 6 runs have ended." in (tmp_path / "results.md").read_text(encoding="utf-8")


def test_runs_made_with_other_settings_than_the_studys_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GMPO_RUN_ROOT", str(tmp_path / "runs"))
    study = write_study(tmp_path, factors={"objective": two_objectives()}, seeds=1)
    write_run(study, study.cells[0], 0, GMPO)
    longer = write_study(tmp_path, factors={"objective": two_objectives()}, seeds=1, steps=30)
    with pytest.raises(ConfigError, match=r"run\.steps"):
        write_results([longer], tmp_path / "results.md")


def test_of_more_cells_than_can_be_told_apart_the_baseline_is_drawn_and_the_rest_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GMPO_RUN_ROOT", str(tmp_path / "runs"))
    rates = {f"rate-{at}": [f"learner.optimizer={{lr: {at}.0e-4, schedule: constant}}"] for at in range(1, 11)}
    study = write_study(tmp_path, factors={"rate": rates | {"grpo": OBJECTIVES["grpo"]}}, seeds=1)
    for cell in study.cells:
        write_run(study, cell, 0, GMPO)
    write_results([study], tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "which hold 9 lines that can be told apart: rate-9, rate-10." in text


def test_a_run_that_diverged_is_a_cross_over_the_sweep(tmp_path: Path) -> None:
    study = write_study(tmp_path, factors={"objective": two_objectives(), "lr": RATES}, seeds=3)

    def one_diverged(cell: Cell, seed: int) -> Makeup:
        return Makeup(outcome="diverged", made=10) if (cell.name, seed) == ("grpo-1e-3", 2) else GMPO

    figure = sweep_figure(records_of(study, one_diverged), MEASURES["accuracy"])
    crosses = [line.get_xydata() for axes in figure.axes for line in axes.get_lines() if line.get_marker() == "x"]
    assert len(crosses) == 1
    ((place, value),) = crosses[0]
    assert (round(place), value) == (2, 0.0)  # at the third level, as broken
    assert "cross: a run that diverged, counts as 0" in figure.get_supxlabel()
    assert "cross" not in sweep_figure(records_of(study, lambda cell, seed: GMPO), MEASURES["accuracy"]).get_supxlabel()


def test_a_factor_without_numbers_has_no_axis_to_be_drawn_over(tmp_path: Path) -> None:
    study = write_study(tmp_path, factors={"objective": two_objectives(), "task": {"short": [], "long": []}}, seeds=1)
    assert draw_sweeps(records_of(study, lambda cell, seed: GMPO), tmp_path) == []
