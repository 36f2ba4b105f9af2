"""Each figure holds the series it names, and the page holds each figure."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.colors import to_hex
from typer.testing import CliRunner

from actors.errors import ConfigError
from services.cli import app
from services.compare.figures import PLOTS, draw
from services.compare.page import write_page
from services.compare.series import Series, grouped, read_run
from services.compare.style import LOOKS, looks
from tests.unit.compare.runs import GRPO, level, write_run

PLOT = {plot.name: plot for plot in PLOTS}
RATIOS = ("learner/log_ratio_min", "learner/log_ratio_p01", "learner/log_ratio_p99", "learner/log_ratio_max")


def two_objectives(root: Path) -> list[Series]:
    """GMPO at 0.1, 0.2 and 0.6, GRPO at 0.3 and 0.5, four steps each."""
    greedy = {0: 0.25, 4: 0.75}
    gmpo = [write_run(root, f"gmpo-{seed}", level(value), seed=seed, greedy=greedy) for seed, value in enumerate((0.1, 0.2, 0.6))]
    grpo = [write_run(root, f"grpo-{seed}", level(value), GRPO, seed=seed, greedy=greedy) for seed, value in enumerate((0.3, 0.5))]
    return grouped(read_run(path) for path in (*gmpo, *grpo))


def of_levels(root: Path, values: list[float], metric: str = "reward/mean") -> list[Series]:
    """A series of one run per value, by name."""
    runs = [read_run(write_run(root, f"run-{at}", {metric: [value, value]})) for at, value in enumerate(values)]
    return [Series(run.name, (run,)) for run in runs]


@pytest.mark.parametrize("name", ["reward", "kl", "accuracy_greedy"])
def test_a_figure_holds_the_medians_of_the_series_it_names(tmp_path: Path, name: str) -> None:
    drawings, missing = draw(two_objectives(tmp_path / "runs"), tmp_path, plots=[PLOT[name]])
    axes = drawings[0].figure.axes[0]
    lines = {str(line.get_label()): np.asarray(line.get_data(), float).tolist() for line in axes.get_lines()}
    steps = [1, 2, 3, 4]
    evaluated = [[0, 4], [0.25, 0.75]]
    medians = {"gmpo": [steps, [0.21, 0.22, 0.23, 0.24]], "grpo": [steps, [0.41, 0.42, 0.43, 0.44]]}
    expected = {"gmpo": evaluated, "grpo": evaluated} if name == "accuracy_greedy" else medians
    assert list(lines) == list(expected)
    for label in expected:
        np.testing.assert_allclose(lines[label], expected[label])
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["gmpo", "grpo"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", PLOT[name].unit)
    assert not missing
    assert "Median of 2 to 3 seeds; the band is from the least to the greatest" in drawings[0].caption


def test_the_band_is_the_range_of_the_seeds(tmp_path: Path) -> None:
    drawings, _ = draw(two_objectives(tmp_path / "runs"), tmp_path, plots=[PLOT["reward"]])
    bands = [band for band in drawings[0].figure.axes[0].collections if isinstance(band, FillBetweenPolyCollection)]
    heights = [band.get_paths()[0].vertices[:, 1] for band in bands]
    np.testing.assert_allclose([(values.min(), values.max()) for values in heights], [(0.11, 0.64), (0.31, 0.54)])


def test_log_ratios_have_a_panel_a_series_on_the_same_axes(tmp_path: Path) -> None:
    series = two_objectives(tmp_path / "runs")
    figure = draw(series, tmp_path, plots=[PLOT["log_ratio"]])[0][0].figure
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["gmpo", "grpo"]
    for axes, one, median in zip(figure.axes, series, (0.2, 0.4), strict=True):
        least, greatest = (np.asarray(line.get_ydata(), float) for line in axes.get_lines()[:2])
        np.testing.assert_allclose([least, greatest], [[median + step / 100 for step in range(1, 5)]] * 2)
        assert all(metric in one.runs[0].metrics for metric in RATIOS)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.get_supylabel() == "log-ratio [nats]"


def test_log_ratios_far_beyond_the_others_do_not_flatten_them(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / "runs", f"run-{at}", level(value))) for at, value in enumerate((0.1, 0.1, 50.0))]
    figure = draw([Series(run.name, (run,)) for run in runs], tmp_path, plots=[PLOT["log_ratio"]])[0][0].figure
    assert {axes.get_yscale() for axes in figure.axes} == {"symlog"}
    assert figure.get_supylabel() == "log-ratio [nats], log scale beyond ±1"


def test_many_series_are_told_apart_without_colour_and_have_a_panel_each(tmp_path: Path) -> None:
    series = of_levels(tmp_path / "runs", [0.1 * at for at in range(1, 10)])
    drawings, _ = draw(series, tmp_path, plots=[PLOT["reward"]])
    together, legend, *panels = drawings[0].figure.axes
    lines = together.get_lines()
    assert [line.get_label() for line in lines] == [f"run-{at}" for at in range(9)]
    assert len({line.get_marker() for line in lines}) == len({line.get_color() for line in lines}) == 9
    assert len({line.get_linestyle() for line in lines}) > 1
    named = legend.get_legend()
    assert named is not None and [text.get_text() for text in named.get_texts()] == [one.label for one in series]
    assert [axes.get_title(loc="left") for axes in panels] == [one.label for one in series]
    for at, axes in enumerate(panels):
        own = [line for line in axes.get_lines() if to_hex(line.get_color()) == LOOKS[at].colour]
        np.testing.assert_allclose([line.get_ydata() for line in own], [[0.1 * (at + 1)] * 2])
        assert len(axes.get_lines()) == 9


def test_settings_that_look_like_formulas_and_patterns_are_told_as_they_are(tmp_path: Path) -> None:
    prompts = (r"Give \\pi in \\boxed{} or $\\foo$.", "Give an answer.")
    runs = [write_run(tmp_path, f"run-{at}", level(0.1), f'prompts.system="{text}"') for at, text in enumerate(prompts)]
    series = grouped(read_run(path) for path in runs)
    assert any(r"\boxed{} or $\foo$" in one.label for one in series)
    write_page(series, *draw(series, tmp_path), tmp_path / "page.html")
    assert r"\boxed{} or $\foo$" in (tmp_path / "page.html").read_text()


def test_an_objective_looks_the_same_on_every_page() -> None:
    gmpo, grpo, wide, gspo = LOOKS[0], LOOKS[1], LOOKS[2], LOOKS[8]
    assert looks(["gspo", "grpo", "gmpo"]) == [gspo, grpo, gmpo]
    assert looks(["grpo, clip e^±0.4", "grpo, clip 0.8 to 1.2"]) == looks(["grpo-wide", "grpo"]) == [wide, grpo]
    assert looks(["other", "gmpo, lr=0.1", "gmpo, lr=0.2"]) == [LOOKS[1], gmpo, LOOKS[2]]
    assert len(set(looks([f"run-{at}" for at in range(9)]))) == 9


def test_more_series_than_can_be_told_apart_are_refused(tmp_path: Path) -> None:
    series = of_levels(tmp_path / "runs", [0.1])
    for count in (0, 10):
        with pytest.raises(ConfigError, match=f"{count} series"):
            draw(series * count, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("values", "scale"), [([1.0, 2.0, 3.0], "linear"), ([1.0, 2.0, 300.0], "log")])
def test_an_axis_is_logarithmic_where_values_span_decades_and_says_so(tmp_path: Path, values: list[float], scale: str) -> None:
    drawings, _ = draw(of_levels(tmp_path / "runs", values, "learner/grad_norm"), tmp_path, plots=[PLOT["grad_norm"]])
    axes = drawings[0].figure.axes[0]
    assert axes.get_yscale() == scale
    assert axes.get_ylabel() == "gradient norm" + (", log scale" if scale == "log" else "")


def test_the_end_of_a_run_before_the_others_is_marked(tmp_path: Path) -> None:
    runs = tuple(read_run(write_run(tmp_path / "runs", f"run-{at}", level(0.1, steps=steps))) for at, steps in enumerate((2, 4)))
    drawing = draw([Series("gmpo", runs)], tmp_path, plots=[PLOT["entropy"]])[0][0]
    crosses = [line for line in drawing.figure.axes[0].get_lines() if line.get_marker() == "x"]
    np.testing.assert_allclose([line.get_data() for line in crosses], [[[2], [0.12]]])
    assert "x: where a run ended before the others" in drawing.caption


def test_what_nobody_has_is_left_out_with_its_reason(tmp_path: Path) -> None:
    figures = {name: values for name, values in level(0.0).items() if name not in {"learner/kl_ref"}} | {"staleness/mean": [0.0] * 4}
    series = [Series("all", (read_run(write_run(tmp_path / "runs", "run", figures)),))]
    plots = [PLOT[name] for name in ("kl", "staleness", "accuracy_greedy", "entropy")]
    drawings, missing = draw(series, tmp_path / "out", plots=plots)
    assert [drawing.plot.name for drawing in drawings] == ["entropy"]
    assert [(one.plot.name, one.why) for one in missing] == [
        ("kl", "no run has a value of it; it needs the reference pool (reference.enabled)"),
        ("staleness", "0 at every step of every run"),
        ("accuracy_greedy", "no run has a value of it; it needs held-out questions, asked at least once"),
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["entropy.png", "entropy.svg"]
    text = Page(write_page(series, drawings, missing, tmp_path / "out" / "compare.html")).text
    assert "KL divergence to the reference : no run has a value of it" in text


class Page(HTMLParser):
    """Tags, addresses and text of a page, and the accessible names of its drawings."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.drawings: list[str] = []
        self._words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "action", "data"}]
        if tag == "svg":
            self.drawings.append(dict(attrs)["aria-label"] or "")

    def handle_data(self, data: str) -> None:
        self._words.append(data.strip())

    @property
    def text(self) -> str:
        return " ".join(word for word in self._words if word)


def test_the_page_holds_each_figure_and_needs_no_network(tmp_path: Path) -> None:
    series = two_objectives(tmp_path / "<runs>")
    series[1] = Series("<b>grpo</b>", series[1].runs)
    plots = [PLOT["reward"], PLOT["log_ratio"]]
    drawings, missing = draw(series, tmp_path, plots=plots)
    path = write_page(series, drawings, missing, tmp_path / "compare.html")
    page = Page(path)
    for plot in plots:
        assert sum(label.startswith(plot.title) for label in page.drawings) == 1
    assert not {"script", "link", "img", "iframe", "object", "base", "b"} & page.tags
    assert all(link.startswith("#") for link in page.links)
    for shown in (
        "2 series, 5 runs",
        "<b>grpo</b>",
        "0 to 2",
        "clip_low",
        "0.24 0.14 to 0.64",
        f"{tmp_path}/<runs>/gmpo-1",
    ):
        assert shown in page.text, shown
    assert LOOKS[0].colour not in path.read_text().split("</style>")[1]  # a variable in its place, which the dark page changes


def test_the_command_draws_runs_and_names_what_is_none(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "run", {"reward/mean": [0.5]})
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["compare", str(run), "--to", str(out)])
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {"reward.png", "reward.svg", "compare.html"}
    assert "left out: Entropy" in done.output
    beside = tmp_path / "runs" / "outcomes.jsonl"
    beside.write_text("")
    globbed = CliRunner().invoke(app, ["compare", str(run), str(beside), "--to", str(out)])
    assert (globbed.exit_code, f"skipped: {beside}" in globbed.output) == (0, True)
    refused = CliRunner().invoke(app, ["compare", str(run), str(tmp_path)])
    assert (refused.exit_code, f"{tmp_path} holds no run" in refused.output) == (2, True)
