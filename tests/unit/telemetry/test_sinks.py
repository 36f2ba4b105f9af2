"""Each sink for real: what was logged is read back the way its users read it."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from actors.errors import ConfigError, MetricError
from services.telemetry import trackers
from services.telemetry.config import MlflowConfig, PrometheusConfig, TelemetryConfig
from services.telemetry.metrics import METRICS
from services.telemetry.prometheus import PrometheusSink
from services.telemetry.sinks import open_sinks
from services.telemetry.trackers import Aside

CONFIG = {"objective": {"type": "gmpo", "clip_low": 0.4}, "seed": 1}


def steps_of(run_dir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_step_is_on_disk_when_log_returns(tmp_path: Path) -> None:
    with open_sinks(TelemetryConfig(), tmp_path, "run", CONFIG) as sinks:
        sinks.log(1, {"reward/mean": 0.5, "learner/loss": float("nan")})
        row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row.pop("time") > 1.7e9
    assert row == {"step": 1, "reward/mean": 0.5, "learner/loss": None}


def test_resuming_leaves_one_history(tmp_path: Path) -> None:
    with open_sinks(TelemetryConfig(), tmp_path, "run", CONFIG) as sinks:
        for step in (1, 2, 3, 4):
            sinks.log(step, {"reward/mean": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')  # a crash tore the last line
    with open_sinks(TelemetryConfig(), tmp_path, "run", CONFIG, step=2) as sinks:
        sinks.log(3, {"reward/mean": 30.0})
    assert steps_of(tmp_path) == [1, 2, 3]
    assert '"reward/mean": 30.0' in (tmp_path / "metrics.jsonl").read_text()
    with open_sinks(TelemetryConfig(), tmp_path, "run", CONFIG):
        assert steps_of(tmp_path) == []


def test_an_undeclared_metric_reaches_no_sink(tmp_path: Path) -> None:
    with open_sinks(TelemetryConfig(), tmp_path, "run", CONFIG) as sinks, pytest.raises(MetricError, match="reward/meen"):
        sinks.log(1, {"reward/mean": 1.0, "reward/meen": 1.0})
    assert steps_of(tmp_path) == []


def scrape(port: int) -> dict[str, float]:
    """Every sample of the page, with the value of its one label behind the name."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        page = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    head, _, body = page.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.0 200")
    samples = [sample for family in text_string_to_metric_families(body) for sample in family.samples]
    return {sample.name + "".join(f":{value}" for value in sample.labels.values()): sample.value for sample in samples}


def test_prometheus_shows_every_metric_from_the_start_and_frees_its_port() -> None:
    sink = PrometheusSink(host="127.0.0.1", port=0, run_name="run")
    try:
        before = scrape(sink.port)
        for metric in METRICS:
            if not metric.family:
                name = metric.prometheus_name + ("_count" if metric.kind == "histogram" else "")
                assert before[name] == 0, name
        figures = {"reward/mean": 0.5, "generation/tokens": 100.0, "step/seconds": 4.0, "reward/part/format": 0.25}
        sink.log(1, figures)
        sink.log(2, {**figures, "reward/mean": 0.75})
        after = scrape(sink.port)
    finally:
        sink.close()
    assert after["gmpo_reward_mean"] == 0.75
    assert after["gmpo_generation_tokens_total"] == 200
    assert (after["gmpo_step_seconds_sum"], after["gmpo_step_seconds_count"]) == (8, 2)
    assert after["gmpo_reward_part:format"] == 0.25
    assert after["gmpo_run_info:run"] == 1
    PrometheusSink(host="127.0.0.1", port=sink.port, run_name="run").close()


def test_between_steps_gauges_reach_the_page_alone_and_nothing_is_counted(tmp_path: Path) -> None:
    config = TelemetryConfig(prometheus=PrometheusConfig(port=0))
    with open_sinks(config, tmp_path, "run", CONFIG) as sinks:
        sinks.log(1, {"weights/failures": 0.0})
        sinks.observe({"weights/failures": 2.0})
        port = int(sinks.where[0].split(":")[2].partition("/")[0])
        assert scrape(port)["gmpo_weights_failures_publications"] == 2
        with pytest.raises(MetricError, match="generation/tokens"):
            sinks.observe({"generation/tokens": 1.0})
    assert steps_of(tmp_path) == [1]
    assert '"weights/failures": 0.0' in (tmp_path / "metrics.jsonl").read_text()


def test_a_taken_port_is_a_config_error_that_leaves_nothing_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = TelemetryConfig(prometheus=PrometheusConfig(port=server.getsockname()[1]))
        with pytest.raises(ConfigError, match=r"telemetry\.prometheus: cannot listen on 127\.0\.0\.1:"):
            open_sinks(config, tmp_path, "run", CONFIG)


def test_tensorboard_shows_a_resumed_run_as_one_curve(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    config = TelemetryConfig.model_validate({"trackers": [{"type": "tensorboard"}]})
    with open_sinks(config, tmp_path, "run", CONFIG) as sinks:
        for step in (1, 2, 3):
            sinks.log(step, {"reward/mean": float(step)})
    with open_sinks(config, tmp_path, "run", CONFIG, step=1) as sinks:
        sinks.log(2, {"reward/mean": 20.0})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 1.0), (2, 20.0)]
    assert b"clip_low" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_wandb_offline_keeps_its_id_over_a_resume(tmp_path: Path) -> None:
    import wandb

    config = TelemetryConfig.model_validate({"trackers": [{"type": "wandb", "mode": "offline"}]})
    for resumed in (0, 1):
        with open_sinks(config, tmp_path, "run", CONFIG, step=resumed) as sinks:
            sinks.log(resumed + 1, {"reward/mean": 0.5})
    wandb.teardown()  # its service writes the last records after a run's finish has returned
    run_id = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    files = sorted((tmp_path / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len(files) == 2
    assert all(b"reward/mean" in file.read_bytes() and b"clip_low" in file.read_bytes() for file in files)


# MLflow's own models use an SQLAlchemy loader that the newest SQLAlchemy deprecates.
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_mlflow_keeps_its_run_over_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("alembic", reason="MLflow needs it for a database of its own")
    from mlflow.tracking import MlflowClient

    config = TelemetryConfig(trackers=(MlflowConfig(type="mlflow", tracking_uri=f"sqlite:///{tmp_path}/ml.db", experiment="digits"),))
    for resumed in (0, 1):
        with open_sinks(config, tmp_path, "run", CONFIG, step=resumed) as sinks:
            sinks.log(resumed + 1, {"reward/mean": 0.5 + resumed})
    run_id = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/ml.db")
    run = client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"objective.type": "gmpo", "objective.clip_low": "0.4", "seed": "1"}
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "reward/mean")] == [(1, 0.5), (2, 1.5)]


def test_a_tracker_without_its_package_is_named_before_anything_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.PACKAGES, "wandb", "a_package_nobody_has")
    config = TelemetryConfig.model_validate({"trackers": [{"type": "tensorboard"}, {"type": "wandb"}]})
    with pytest.raises(ConfigError, match=r"telemetry\.trackers\.1\.type: wandb is not installed.*gmpo\[trackers\]"):
        open_sinks(config, tmp_path, "run", CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_two_trackers_of_one_type_are_refused() -> None:
    with pytest.raises(ValidationError, match="at most one tracker of each type"):
        TelemetryConfig.model_validate({"trackers": [{"type": "tensorboard"}, {"type": "tensorboard"}]})


class Stuck:
    """A tracker that answers only when it is let go, and then fails."""

    where = "a tracker that is down"

    def __init__(self) -> None:
        self.released = threading.Event()
        self.closed = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.released.wait()
        raise ConnectionError("no route to host")

    def close(self) -> None:
        self.closed = True


def test_a_tracker_that_is_down_neither_delays_nor_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck()
    aside = Aside(stuck)
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3):
            aside.log(step, {"reward/mean": 0.5})  # would not return if it waited
        stuck.released.set()
        aside.close()
    assert stuck.closed
    assert aside.failures == 3
    assert [record.getMessage().count("no route to host") for record in caplog.records] == [1]
