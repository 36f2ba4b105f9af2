"""What a run shows and to whom: console, Prometheus and experiment trackers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from actors.section import Section


class PrometheusConfig(Section):
    """One /metrics page for the whole run, on the driver."""

    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """TCP port to listen on; 0 picks a free one, null (the default) listens nowhere."""
    host: str = "127.0.0.1"
    """Address to listen on. The page has no password: leave loopback only where a network policy guards the port."""


class TensorBoardConfig(Section):
    """Event files under `<run>/tensorboard`."""

    type: Literal["tensorboard"] = "tensorboard"
    """Tag of this variant."""


class WandbConfig(Section):
    """A Weights & Biases run; the key comes from WANDB_API_KEY, never from the recipe."""

    type: Literal["wandb"]
    """Tag of this variant."""
    project: str = "gmpo"
    """Project the run appears in."""
    mode: Literal["online", "offline", "disabled"] = "online"
    """`offline` writes `<run>/wandb` for a later `wandb sync`; `disabled` sends and writes nothing."""
    entity: str | None = None
    """User or team that owns the project; null takes the account's default."""


class MlflowConfig(Section):
    """An MLflow run; user and password come from MLFLOW_TRACKING_USERNAME and _PASSWORD, never from the recipe."""

    type: Literal["mlflow"]
    """Tag of this variant."""
    tracking_uri: str | None = None
    """Server or database; null takes MLFLOW_TRACKING_URI and, without it, a database in the run directory."""
    experiment: str = "gmpo"
    """Experiment the run appears in; made if it does not exist."""


TrackerConfig = Annotated[TensorBoardConfig | WandbConfig | MlflowConfig, Field(discriminator="type")]


class TelemetryConfig(Section):
    """Where the figures of a run go. `metrics.jsonl` is always written."""

    console: Literal["auto", "live", "plain", "off"] = "auto"
    """`live` redraws one view in place, `plain` prints a line per step, `auto` takes `live` on a terminal and `plain` elsewhere."""
    prometheus: PrometheusConfig = PrometheusConfig()
    """The run's /metrics page."""
    trackers: tuple[TrackerConfig, ...] = ()
    """Experiment trackers, at most one of each type; they need the `trackers` extra."""

    @field_validator("trackers")
    @classmethod
    def _one_of_each(cls, trackers: tuple[TrackerConfig, ...]) -> tuple[TrackerConfig, ...]:
        types = [tracker.type for tracker in trackers]
        if len(set(types)) != len(types):
            raise ValueError("at most one tracker of each type, since a run keeps one id per tracker")
        return trackers
