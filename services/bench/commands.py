"""The verbs of `gmpo bench`. Heavy imports wait until a benchmark is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from actors.errors import ConfigError
from services.telemetry.console import screen

if TYPE_CHECKING:
    from services.bench.results import Report

Json = Annotated[Path | None, typer.Option("--json", help="File for the report as JSON.")]
Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]


def logprobs(
    tokens: Annotated[int, typer.Option(min=1, help="Positions scored.")] = 4_096,
    vocabulary: Annotated[int, typer.Option(min=2, help="Tokens of the vocabulary.")] = 151_936,
    hidden: Annotated[int, typer.Option(min=1, help="Width of the hidden states.")] = 896,
    dtype: Annotated[Dtype, typer.Option(help="Of hidden states and weight.")] = "float32",
    device: Annotated[Device, typer.Option(help="Where it runs.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Timed repeats of each way.")] = 3,
    json: Json = None,
) -> None:
    """Token log-probs, forward and backward, against all logits in memory: peak memory, time, errors."""
    from services.bench.logprobs import Settings, run

    settings = Settings(tokens=tokens, vocabulary=vocabulary, hidden=hidden, dtype=dtype, device=device, threads=threads, repeats=repeats)
    _tell(run(settings), json)


def learner(
    model: Annotated[str, typer.Option(help="tiny, 30m or qwen3-0.6b: random weights; qwen3-0.6b brings its own defaults.")] = "30m",
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of an update on each rank.")] = None,
    length_divisor: Annotated[int | None, typer.Option(min=1, help="Make rollouts so many times shorter; their spread stays.")] = None,
    row_tokens: Annotated[
        list[int] | None, typer.Option(min=2, help="Two rows of this length to an update, instead of rollouts; repeatable.")
    ] = None,
    micro_batch_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens of one forward pass; by default all of an update.")] = None,
    way: Annotated[list[str] | None, typer.Option(help="gmpo, bare, padded or sorted; repeatable, by default all.")] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="Processes.")] = None,
    device: Annotated[Device | None, typer.Option(help="Where it runs.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Of computation; master weights are float32.")] = None,
    backend: Annotated[Literal["fsdp2", "deepspeed"] | None, typer.Option(help="Of this project's learner.")] = None,
    checkpointing: Annotated[bool | None, typer.Option(help="Recompute activations.")] = None,
    compile: Annotated[bool | None, typer.Option(help="Compile the decoder layers of all ways.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a rank; by default the CPUs are shared out.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Timed repeats of each way.")] = None,
    scaling: Annotated[bool, typer.Option("--scaling", help="Instead: time against number and length of sequences.")] = False,
    json: Json = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of --scaling.")] = None,
) -> None:
    """One optimizer update, in tokens per second, against a bare torch loop and against padding."""
    from services.bench.learner import MODEL_DEFAULTS, Settings, run

    given = {
        "tokens": tokens,
        "length_divisor": length_divisor,
        "row_tokens": tuple(row_tokens or ()) or None,
        "micro_batch_tokens": micro_batch_tokens,
        "ways": tuple(way or ()) or None,
        "ranks": ranks,
        "device": device,
        "dtype": dtype,
        "backend": backend,
        "activation_checkpointing": checkpointing,
        "compile": compile,
        "threads": threads,
        "repeats": repeats,
    }
    chosen: dict[str, Any] = {
        "model": model,
        **MODEL_DEFAULTS.get(model, {}),
        **{key: value for key, value in given.items() if value is not None},
    }
    settings = Settings(**chosen)
    if plot is not None and not scaling:
        raise ConfigError("bench learner: --plot draws what --scaling measures; give both")
    if not scaling:
        _tell(run(settings), json)
        return
    from services.bench import scaling as grid
    from services.bench.plot import draw_scaling

    report, sweeps = grid.run(settings)
    _tell(report, json)
    if plot is not None:
        draw_scaling(sweeps, plot, title=f"{settings.model}, {settings.ranks} x {settings.contest.threads} threads, {report.device}")


def _tell(report: Report, json: Path | None) -> None:
    from services.bench.table import show

    show(report, screen())
    if json is not None:
        report.write(json)
