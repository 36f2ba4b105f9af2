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


def whole(
    trl: Annotated[Path, typer.Option(help="Python of an environment of its own that has TRL 1.16.")],
    case: Annotated[list[str] | None, typer.Option(help="25m or tiny; repeatable, by default both.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 2,
    warmup_steps: Annotated[int, typer.Option(min=1, help="First steps left out; of this project max_staleness more.")] = 1,
    timed_steps: Annotated[int | None, typer.Option(min=1, help="Steps that count; by default 2 (25m) and 6 (tiny).")] = None,
    cores: Annotated[int, typer.Option(min=1, help="Cores that either side may use.")] = 2,
    engine_threads: Annotated[int, typer.Option(min=1, help="Of this project's engine.")] = 1,
    learner_threads: Annotated[int, typer.Option(min=1, help="Of this project's learner.")] = 1,
    max_staleness: Annotated[int, typer.Option(min=0, help="0: this project generates and learns by turns, too.")] = 1,
    json: Json = None,
) -> None:
    """A whole run, in samples per second, against TRL's experimental GMPO trainer."""
    from services.bench.whole import Settings, run
    from services.bench.work import CASES

    settings = Settings(
        trl=trl,
        cases=tuple(case or CASES),
        rounds=rounds,
        warmup_steps=warmup_steps,
        timed_steps=timed_steps,
        cores=cores,
        engine_threads=engine_threads,
        learner_threads=learner_threads,
        max_staleness=max_staleness,
    )
    out = screen()
    _tell(run(settings, lambda text: out.print(text, markup=False, highlight=False)), json)


def queue(
    groups: Annotated[int, typer.Option(min=1, help="Groups that are moved, in whole batches.")] = 10_000,
    kib: Annotated[list[int] | None, typer.Option(min=1, help="Size of a group, in KiB; repeatable, by default 256 and 50.")] = None,
    producers: Annotated[int, typer.Option(min=1, help="Producers, in at most 4 processes.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Groups of a step.")] = 50,
    ahead: Annotated[int, typer.Option(min=0, help="Steps of groups that may be in flight beside the one being trained.")] = 4,
    repeats: Annotated[int, typer.Option(min=1, help="Timed repeats of each way.")] = 3,
    json: Json = None,
) -> None:
    """Groups per second through the replay queue, against the same payloads handed over without it; and what the driver takes in."""
    from services.bench.queue import Settings, run

    sizes: dict[str, Any] = {"kib": tuple(kib)} if kib else {}
    _tell(run(Settings(groups=groups, producers=producers, batch=batch, ahead=ahead, repeats=repeats, **sizes)), json)


def weights(
    mib: Annotated[int, typer.Option(min=1, help="Weights of the policy, in MiB.")] = 500,
    engines: Annotated[int, typer.Option(min=1, help="Engines that receive them.")] = 2,
    bucket_mib: Annotated[int, typer.Option(min=1, help="Bytes sent at a time, in MiB.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each process.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Timed publications.")] = 5,
    json: Json = None,
) -> None:
    """A publication to engines over gloo, phase by phase, against a bare broadcast of the same bytes."""
    from services.bench.weights import Settings, run

    _tell(run(Settings(mib=mib, engines=engines, bucket_mib=bucket_mib, threads=threads, repeats=repeats)), json)


def generation(
    model: Annotated[Literal["tiny", "30m"], typer.Option(help="Random weights of this shape.")] = "30m",
    responses: Annotated[int, typer.Option(min=1, help="Responses, to a prompt each.")] = 64,
    shortest: Annotated[int, typer.Option(min=1, help="Shortest response, in tokens.")] = 16,
    longest: Annotated[int, typer.Option(min=1, help="Longest response, in tokens.")] = 256,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the model.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Timed repeats of each way, each in a fresh process.")] = 3,
    json: Json = None,
) -> None:
    """Tokens per second of the engine actor, against vLLM's own LLM.generate in one process."""
    from services.bench.generation import Settings, run

    settings = Settings(model=model, responses=responses, shortest=shortest, longest=longest, threads=threads, repeats=repeats)
    _tell(run(settings), json)


def endpoint(
    model: Annotated[Literal["tiny", "30m"], typer.Option(help="Random weights of this shape.")] = "30m",
    clients: Annotated[list[int] | None, typer.Option(min=1, help="Clients at once; repeatable, by default 1 to 64.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="plain or streamed; repeatable, by default both.")] = None,
    requests: Annotated[
        int | None,
        typer.Option(min=1, help="Requests of a level of up to 16 clients, in proportion more with more; by default 48 or 192 (tiny)."),
    ] = None,
    shortest: Annotated[int, typer.Option(min=1, help="Shortest answer, in tokens.")] = 16,
    longest: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 48,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the model.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; in each, both servers are started afresh.")] = 3,
    json: Json = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of throughput and latency over clients.")] = None,
) -> None:
    """Requests per second and latency of the HTTP endpoint, against bare `vllm serve` of the same model."""
    from services.bench.endpoint import Settings, run

    given = {"clients": tuple(sorted(set(clients or ()))), "kinds": tuple(dict.fromkeys(kind or ()))}
    sizes: dict[str, Any] = {name: values for name, values in given.items() if values}
    settings = Settings(model=model, requests=requests, shortest=shortest, longest=longest, threads=threads, repeats=repeats, **sizes)
    out = screen()
    report = run(settings, lambda text: out.print(text, markup=False, highlight=False))
    _tell(report, json)
    if plot is not None:
        from services.bench.endpoint_plot import draw_endpoint

        draw_endpoint(report, plot, title=f"{model}, random weights; {report.device}")


def pipeline(
    engines: Annotated[int, typer.Option(min=1, help="Simulated engines, where overlap is measured.")] = 4,
    growth: Annotated[list[int] | None, typer.Option(min=1, help="Simulated engines; repeatable, by default 1 to 256.")] = None,
    learning: Annotated[
        list[float] | None, typer.Option(min=0.01, help="Learning, times the longest response; repeatable, by default 0.5, 1 and 2.")
    ] = None,
    longest_s: Annotated[float, typer.Option(min=0.01, help="Seconds of the longest response.")] = 10.0,
    steps: Annotated[int, typer.Option(min=2, help="Steps of each run; the first is not counted.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each case of the overlap.")] = 1,
    json: Json = None,
    plot: Annotated[Path | None, typer.Option(help="PNG of overlap and growth.")] = None,
) -> None:
    """Seconds a step of the real pipeline over simulated engines and learner, against their makespan and learning; and growth."""
    from services.bench.pipeline import Settings, run

    given = {"growth": tuple(sorted(set(growth or ()))), "learning": tuple(sorted(set(learning or ())))}
    sizes: dict[str, Any] = {name: values for name, values in given.items() if values}
    settings = Settings(engines=engines, longest_s=longest_s, steps=steps, repeats=repeats, **sizes)
    report, overlap, grown = run(settings)
    _tell(report, json)
    if plot is not None:
        from services.bench.pipeline_plot import draw_pipeline

        draw_pipeline(overlap, grown, plot, title=f"{settings.engines} simulated engines; growth with staleness 1; {report.device}")


def _tell(report: Report, json: Path | None) -> None:
    from services.bench.table import show

    show(report, screen())
    if json is not None:
        report.write(json)
