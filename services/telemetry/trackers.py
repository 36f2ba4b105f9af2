"""TensorBoard, Weights & Biases and MLflow, each behind the same three members; each is imported only when it is asked for.

A resumed run goes on under the id it had: `<run>/trackers.json` maps a tracker's type to its run id.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from actors.errors import ConfigError
from services.telemetry.atomic import write_atomically
from services.telemetry.config import MlflowConfig, TensorBoardConfig, TrackerConfig, WandbConfig

log = logging.getLogger(__name__)

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""The import each tracker type needs."""

EXTRA = "install the extra: pip install 'gmpo[trackers]'"

PATIENCE_S = 30.0
"""How long closing waits for a tracker that does not answer."""


class Sink(Protocol):
    """Takes the figures of each step somewhere."""

    where: str
    """Where a person finds them: a path or an address."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the figures of `step`."""

    def close(self) -> None:
        """Flush and let go."""


def require_packages(trackers: tuple[TrackerConfig, ...]) -> None:
    """ConfigError where a tracker's package is absent; imports none of them."""
    for index, tracker in enumerate(trackers):
        if importlib.util.find_spec(PACKAGES[tracker.type]) is None:
            raise ConfigError(f"telemetry.trackers.{index}.type: {tracker.type} is not installed; {EXTRA}")


def open_tracker(config: TrackerConfig, *, run_dir: Path, run_name: str, step: int, resolved_config: Mapping[str, Any]) -> Sink:
    """The tracker that `config` describes, going on after `step`; it may be slow or down without holding up the run."""
    match config:
        case TensorBoardConfig():
            return Aside(TensorBoardSink(run_dir, step=step, resolved_config=resolved_config))
        case WandbConfig():
            return Aside(WandbSink(config, run_dir=run_dir, run_name=run_name, resolved_config=resolved_config))
        case MlflowConfig():
            return Aside(MlflowSink(config, run_dir=run_dir, run_name=run_name, resolved_config=resolved_config))


class Aside:
    """Runs a tracker in a thread of its own: a run of days must not end, or wait, because a tracker is down."""

    def __init__(self, sink: Sink) -> None:
        self.where = sink.where
        self.failures = 0
        self._sink = sink
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=type(sink).__name__)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand the figures over; returns at once."""
        self._thread.submit(self._sink.log, step, dict(metrics)).add_done_callback(self._count)

    def close(self) -> None:
        """Wait for what was handed over, PATIENCE_S at most."""
        last = self._thread.submit(self._sink.close)
        last.add_done_callback(self._count)
        self._thread.shutdown(wait=False)
        try:
            last.exception(timeout=PATIENCE_S)
        except TimeoutError:
            log.warning("%s has not taken the last figures after %.0f s", self.where, PATIENCE_S)

    def _count(self, done: Future[None]) -> None:
        error = done.exception()
        if error is None:
            return
        self.failures += 1
        if self.failures == 1:
            log.warning("%s failed and may lack steps (metrics.jsonl has them all): %s", self.where, error)


class TensorBoardSink:
    """Event files under `<run>/tensorboard`; steps after the one resumed from are purged from view."""

    def __init__(self, run_dir: Path, *, step: int, resolved_config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run_dir / "tensorboard"
        fresh = not folder.exists()
        self.where = str(folder)
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)
        if fresh:
            text = json.dumps(resolved_config, indent=2, default=str).replace("\n", "\n    ")
            self._writer.add_text("config", f"    {text}", 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One scalar per figure."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandbSink:
    """One W&B run. `step` is the x axis as a figure of its own: W&B's counter refuses the steps a resumed run repeats."""

    def __init__(self, config: WandbConfig, *, run_dir: Path, run_name: str, resolved_config: Mapping[str, Any]) -> None:
        import wandb

        run_id = recall_id(run_dir, "wandb") or keep_id(run_dir, "wandb", secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                mode=config.mode,
                name=run_name,
                id=run_id,
                resume="allow",
                dir=run_dir,
                config=dict(resolved_config),
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.Error as error:
            raise ConfigError(f"telemetry.trackers: W&B cannot start in mode {config.mode!r}: {error}") from error
        self._run.define_metric("*", step_metric="step")
        online = config.mode == "online"  # asking an offline run for its address prints a warning
        self.where = (self._run.url if online else None) or str(Path(self._run.dir).parent)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row of history."""
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        """Mark the run finished and wait for the upload."""
        self._run.finish()


class MlflowSink:
    """One MLflow run; its parameters are the leaves of the resolved config under dotted names."""

    def __init__(self, config: MlflowConfig, *, run_dir: Path, run_name: str, resolved_config: Mapping[str, Any]) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        uri = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(run_dir / 'mlflow.db').resolve()}"
        self._run_id = recall_id(run_dir, "mlflow") or ""
        try:
            self._client = MlflowClient(tracking_uri=uri)
            if self._run_id:
                self._client.update_run(self._run_id, status="RUNNING")
            else:
                self._run_id = keep_id(run_dir, "mlflow", self._start(config.experiment, run_name, resolved_config))
        except ModuleNotFoundError as error:
            raise ConfigError(f"telemetry.trackers: MLflow cannot open {uri}: {error}; {EXTRA}") from error
        except MlflowException as error:
            raise ConfigError(f"telemetry.trackers: MLflow cannot open {uri}: {error}") from error
        self.where = f"mlflow run {self._run_id}"

    def _start(self, experiment: str, run_name: str, resolved_config: Mapping[str, Any]) -> str:
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
        run_id = str(self._client.create_run(experiment_id, run_name=run_name).info.run_id)
        for name, value in leaves(resolved_config):
            self._client.log_param(run_id, name, value)
        return run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One batch per step."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(self._run_id, metrics=[Metric(name, value, now_ms, step) for name, value in metrics.items()])

    def close(self) -> None:
        """Mark the run finished."""
        self._client.set_terminated(self._run_id)


def recall_id(run_dir: Path, tracker: str) -> str | None:
    """The id this run has at `tracker`, if it ever started there."""
    path = run_dir / "trackers.json"
    ids: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    return ids.get(tracker)


def keep_id(run_dir: Path, tracker: str, run_id: str) -> str:
    """Remember `run_id` for the next start; returns it."""
    path = run_dir / "trackers.json"
    ids = json.loads(path.read_text()) if path.exists() else {}
    write_atomically(path, json.dumps({**ids, tracker: run_id}, indent=2) + "\n")
    return run_id


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every leaf of a config tree."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
