from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.errors import ConfigError, GmpoError
from services.bench.endpoint import PROMPT_TOKENS, Settings, report
from services.bench.endpoint_plot import draw_endpoint
from services.bench.levels import Level, Place, level
from services.bench.load import Answer
from services.bench.results import Report
from services.bench.served import STEP, command_line, write_run
from services.cli import app


def answer(began: float, ended: float, *, first: float | None = None, tokens: int = 2, text: str = "x", error: str | None = None) -> Answer:
    return Answer(200, {}, "policy", None, text, (), tokens, began, first or ended, ended, error)


def taking(seconds: float, count: int = 4) -> Level:
    """One request after the other, each as long."""
    answers = [answer(index * seconds, (index + 1) * seconds, first=(index + 0.5) * seconds) for index in range(count)]
    return level([{"max_tokens": 2}] * count, answers, client_cpu_s=0.1, server_cpu_s=0.2)


def reported(settings: Settings, ours: Sequence[Level], bare: Sequence[Level]) -> Report:
    return report(settings, {"gmpo": dict.fromkeys(settings.places, ours), "bare": dict.fromkeys(settings.places, bare)})


def test_both_kinds_ask_for_the_same_answers_and_so_does_every_run() -> None:
    settings = Settings()
    plain, streamed = (settings.bodies(Place(kind, 8)) for kind in ("plain", "streamed"))
    assert streamed == [body | {"stream": True, "stream_options": {"include_usage": True}} for body in plain]
    assert plain == Settings().bodies(Place("plain", 8))
    lengths = [body["max_tokens"] for body in plain]
    assert (min(lengths), max(lengths), len(lengths)) == (16, 48, 48) and lengths != sorted(lengths)
    assert {len(body["prompt"]) for body in plain} == {PROMPT_TOKENS}
    assert len({body["seed"] for body in plain}) == len({tuple(body["prompt"]) for body in plain}) == 48


@pytest.mark.parametrize(("model", "clients", "requests"), [("30m", 1, 48), ("30m", 64, 192), ("tiny", 16, 192), ("tiny", 64, 768)])
def test_more_clients_than_16_ask_in_proportion_more(model: str, clients: int, requests: int) -> None:
    assert len(Settings(model=model).bodies(Place("plain", clients))) == requests


def test_the_engine_has_room_for_all_clients_at_once() -> None:
    serve = Settings(clients=(3, 200)).serve
    assert serve.max_running == 200 < serve.limits.running_per_key
    assert serve.max_model_len == PROMPT_TOKENS + Settings().longest


def test_an_answer_that_failed_or_is_too_short_counts_in_no_figure_but_its_own() -> None:
    answers = [answer(10, 12, tokens=8), answer(10, 15, error="503: no"), answer(11, 14, tokens=7)]
    found = level([{"max_tokens": 8}] * 3, answers, client_cpu_s=1.0, server_cpu_s=2.0)
    assert (found.requests_per_s, found.tokens_per_s, found.latencies_ms) == (1 / 5, 8 / 5, [2000])
    assert found.failures == ["503: no", "7 tokens instead of 8"]


def test_a_level_without_a_whole_answer_ends_the_benchmark() -> None:
    with pytest.raises(GmpoError, match="all 2 requests failed, the first with: 401: no key"):
        level([{"max_tokens": 8}] * 2, [answer(0, 1, error="401: no key"), answer(0, 1)], client_cpu_s=1.0, server_cpu_s=2.0)


def test_throughput_is_compared_round_by_round_and_latency_of_one_client() -> None:
    settings = Settings(clients=(1, 2), kinds=("streamed",))
    found = reported(settings, [taking(1.0), taking(4.0), taking(2.0)], [taking(0.5), taking(4.0), taking(1.5)]).ratios
    one = found["gmpo_over_bare, streamed, 1 client"]
    assert (one.low, one.median, one.high) == pytest.approx((0.5, 0.75, 1.0))
    assert found["gmpo_over_bare, streamed, median of levels"] == one
    assert found["added_latency_p50_ms, streamed, 1 client"].median == pytest.approx(500)
    assert found["added_first_token_p50_ms, streamed, 1 client"].median == pytest.approx(250)
    assert not [name for name in found if name.startswith("added") and "2 clients" in name]


def test_the_median_of_levels_is_taken_within_a_round() -> None:
    settings = Settings(clients=(1, 2, 4), kinds=("plain",))
    bare = {place: [taking(1.0), taking(1.0)] for place in settings.places}
    ours = {place: [taking(a), taking(b)] for place, a, b in zip(settings.places, (1.0, 2.0, 4.0), (10.0, 10.0, 1.0), strict=True)}
    found = report(settings, {"gmpo": ours, "bare": bare}).ratios["gmpo_over_bare, plain, median of levels"]
    assert (found.low, found.high) == pytest.approx((0.1, 0.5))


@pytest.mark.parametrize(
    ("model", "seconds", "met"),
    [("30m", 0.1049, True), ("30m", 0.1051, False), ("tiny", 0.1149, True), ("tiny", 0.1151, False)],
)
def test_the_added_latency_has_a_bound_by_model(model: str, seconds: float, met: bool) -> None:
    aims = reported(Settings(model=model, repeats=1), [taking(seconds)], [taking(0.1)]).aims
    assert [aim.met for aim in aims if aim.ratio.startswith("added")] == [met, met]


@pytest.mark.parametrize(
    ("model", "seconds", "met"), [("30m", 1.1, True), ("30m", 1.12, False), ("tiny", 1.4, True), ("tiny", 1.45, False)]
)
def test_throughput_has_a_bound_by_model_at_every_level(model: str, seconds: float, met: bool) -> None:
    aims = reported(Settings(model=model, repeats=1), [taking(seconds)], [taking(1.0)]).aims
    assert [aim.met for aim in aims if aim.ratio.startswith("gmpo_over_bare")] == [met] * 16  # 7 levels and their median, of 2 kinds


def test_one_failed_request_misses_an_aim_and_is_told() -> None:
    failing = replace(taking(1.0), failures=["429: too many"])
    found = reported(Settings(repeats=1), [failing], [taking(1.0)])
    assert {aim.ratio: aim.met for aim in found.aims if "failed" in aim.ratio} == {
        "failed_requests, gmpo": False,
        "failed_requests, bare": True,
    }
    assert found.notes[-1] == "gmpo: the first of 14 failures: 429: too many"


def test_another_size_is_measured_and_not_judged() -> None:
    assert reported(Settings(clients=(1, 2)), [taking(1.0)], [taking(1.0)]).aims == []


def test_answers_that_differ_between_the_ways_show() -> None:
    other = level(
        [{"max_tokens": 2}] * 4,
        [answer(index, index + 1, text="x" if index else "y") for index in range(4)],
        client_cpu_s=0.1,
        server_cpu_s=0.2,
    )
    found = reported(Settings(repeats=1), [other], [taking(1.0)]).ratios
    assert found["same_answers, plain, 1 client"].median == 0.75


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    draw_endpoint(reported(Settings(repeats=1), [taking(1.0)], [taking(1.0)]), tmp_path / "plots" / "endpoint.png", title="a machine")
    assert (tmp_path / "plots" / "endpoint.png").stat().st_size > 10_000


def test_settings_of_the_engine_become_its_command_line() -> None:
    options = {"max_num_seqs": 8, "max_model_len": None, "enforce_eager": True, "enable_chunked_prefill": False, "override": {"a": 1}}
    assert command_line(options) == ["--max-num-seqs", "8", "--enforce-eager", "--no-enable-chunked-prefill", "--override", '{"a": 1}']


def test_the_version_that_is_served_is_the_model_with_its_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from services.bench import generation

    saved, run_dir = tmp_path / "model", tmp_path / "run"
    saved.mkdir()
    generation.save_model(generation.Settings(model="tiny"), saved)
    write_run(run_dir, saved)
    (version,) = (run_dir / "policies").iterdir()
    assert version.name == f"step-{STEP}"
    here, there = (AutoModelForCausalLM.from_pretrained(place).state_dict() for place in (saved, version))
    assert here.keys() == there.keys() and all(there[name].equal(tensor) for name, tensor in here.items())
    assert AutoTokenizer.from_pretrained(version).eos_token_id == 512  # beyond the tokens that the model has


def test_what_cannot_be_measured_is_refused_by_name() -> None:
    for arguments, complaint in ((["--kind", "loud"], "loud"), (["--shortest", "60"], "--shortest 60 is more than --longest 48")):
        result = CliRunner().invoke(app, ["bench", "endpoint", *arguments])
        assert result.exit_code == 2 and complaint in result.stderr
    with pytest.raises(ConfigError, match="7b"):
        Settings(model="7b")
