"""`gmpo bench logprobs`: token log-probs out of hidden states, forward and backward, without and with all logits in memory.

gmpo    actors.modeling.logprobs.score_tokens: chunks, and the entropies as well
naive   all logits, log_softmax, gather
torch   torch.nn.functional.linear_cross_entropy with chunking on, where this torch has it (no entropies)

Each gets the same inputs and the same random upstream gradient. Times are taken in one process, in alternating order. Memory is taken in a
child process for each way, as `python -m services.bench.logprobs JSON`, because a process that once was large says little of the next.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from actors.errors import GmpoError
from actors.modeling.logprobs import score_tokens
from services.bench.results import Aim, Report, Row, Spread, device_name, ratios

MEMORY_AIM, TIME_AIM = 0.15, 1.4
CHECKED_TOKENS, CHECKED_VOCABULARY, CHECKED_HIDDEN = 509, 50_021, 64
"""The size at which values are compared: small enough for float64, large enough for several chunks, no number round."""

Scores = Callable[["Inputs"], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how often."""

    tokens: int = 4_096
    vocabulary: int = 151_936
    hidden: int = 896
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 2
    repeats: int = 3
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """M positions, width H, V tokens in the vocabulary."""

    hidden: torch.Tensor  # [M, H]
    weight: torch.Tensor  # [V, H]
    targets: torch.Tensor  # [M]
    upstream: torch.Tensor  # [M] gradient with respect to the log-probs
    temperature: float

    @classmethod
    def make(cls, settings: Settings) -> Inputs:
        """Random inputs, a function of the seed: logits of about unit variance."""
        generator = torch.Generator().manual_seed(settings.seed)
        kind: dict[str, Any] = {"device": settings.device, "dtype": getattr(torch, settings.dtype)}
        hidden = torch.randn(settings.tokens, settings.hidden, generator=generator).to(**kind)
        weight = torch.randn(settings.vocabulary, settings.hidden, generator=generator).mul_(settings.hidden**-0.5).to(**kind)
        targets = torch.randint(settings.vocabulary, (settings.tokens,), generator=generator).to(settings.device)
        upstream = torch.randn(settings.tokens, generator=generator).to(settings.device)
        return cls(hidden.requires_grad_(), weight.requires_grad_(), targets, upstream, settings.temperature)

    def double(self) -> Inputs:
        """The same numbers in float64."""
        hidden, weight = (tensor.detach().double().requires_grad_() for tensor in (self.hidden, self.weight))
        return replace(self, hidden=hidden, weight=weight, upstream=self.upstream.double())


def _gmpo(inputs: Inputs) -> torch.Tensor:
    return score_tokens(inputs.hidden, inputs.weight, inputs.targets, temperature=inputs.temperature).logprobs


def _naive(inputs: Inputs) -> torch.Tensor:
    logits = inputs.hidden @ inputs.weight.T
    if inputs.temperature != 1.0:
        logits = logits / inputs.temperature
    return (
        torch.log_softmax(logits.float() if logits.dtype.itemsize < 4 else logits, dim=-1).gather(-1, inputs.targets[:, None]).squeeze(-1)
    )


def _torch(inputs: Inputs) -> torch.Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    hidden = inputs.hidden / inputs.temperature if inputs.temperature != 1.0 else inputs.hidden
    return -functional.linear_cross_entropy(hidden, inputs.weight, inputs.targets, reduction="none", options=options)


def ways() -> dict[str, Scores]:
    """The ways that this torch offers, ours and the naive one first."""
    found: dict[str, Scores] = {"gmpo": _gmpo, "naive": _naive}
    return found | {"torch": _torch} if hasattr(torch.nn, "LinearCrossEntropyOptions") else found


def run(settings: Settings) -> Report:
    """Measure all ways. Takes some twenty forward and backward passes; the naive way needs about 8 GB at the default size."""
    torch.set_num_threads(settings.threads)
    peaks = {way: _in_child(way, settings) for way in ways()}
    seconds = _times(settings)
    errors = _errors(replace(settings, tokens=CHECKED_TOKENS, vocabulary=CHECKED_VOCABULARY, hidden=CHECKED_HIDDEN))
    rows: list[Row] = [{"way": way, **_time_row(seconds[way]), **peaks[way], **errors[way]} for way in ways()]
    found = {
        "memory_extra_gmpo_over_naive": Spread.of([peaks["gmpo"]["memory_extra_gib"] / peaks["naive"]["memory_extra_gib"]]),
        "memory_total_gmpo_over_naive": Spread.of([peaks["gmpo"]["memory_total_gib"] / peaks["naive"]["memory_total_gib"]]),
        "time_gmpo_over_naive": ratios(seconds["gmpo"], seconds["naive"]),
    }
    if "torch" in seconds:
        found["time_gmpo_over_torch"] = ratios(seconds["gmpo"], seconds["torch"])
    return Report(
        bench="logprobs",
        device=device_name(settings.device),
        settings=asdict(settings),
        rows=rows,
        ratios=found,
        aims=[
            Aim.at_most("memory_extra_gmpo_over_naive", MEMORY_AIM, found["memory_extra_gmpo_over_naive"]),
            Aim.at_most("time_gmpo_over_naive", TIME_AIM, found["time_gmpo_over_naive"]),
        ],
        notes=[
            "forward and backward of the same inputs and upstream gradient; gmpo's time includes the entropies",
            "memory_extra: peak over what the inputs take, both gradients included; memory_total: with the inputs",
            f"errors: greatest difference from float64 at {CHECKED_TOKENS} x {CHECKED_VOCABULARY} x {CHECKED_HIDDEN}; "
            "gradients relative to the greatest",
        ],
    )


def _time_row(seconds: list[float]) -> dict[str, float]:
    spread = Spread.of(seconds)
    return {"seconds_median": spread.median, "seconds_low": spread.low, "seconds_high": spread.high}


def _times(settings: Settings) -> dict[str, list[float]]:
    """Seconds of each way and repeat; every other round runs them backwards."""
    inputs = Inputs.make(settings)
    seconds: dict[str, list[float]] = {way: [] for way in ways()}
    for repeat in range(settings.repeats + 1):
        order = list(ways().items())
        for way, scores in order if repeat % 2 else reversed(order):
            began = _now(settings.device)
            _forward_backward(scores, inputs)
            if repeat:  # the first round warms up
                seconds[way].append(_now(settings.device) - began)
            inputs.hidden.grad = inputs.weight.grad = None
    return seconds


def _forward_backward(scores: Scores, inputs: Inputs) -> torch.Tensor:
    logprobs = scores(inputs)
    logprobs.backward(inputs.upstream.to(logprobs.dtype))
    return logprobs.detach()


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _errors(settings: Settings) -> dict[str, dict[str, float]]:
    """How far each way is from the naive one in float64."""
    inputs = Inputs.make(settings)
    exact = inputs.double()
    truth = _forward_backward(_naive, exact)
    assert exact.hidden.grad is not None and exact.weight.grad is not None
    found = {}
    for way, scores in ways().items():
        logprobs = _forward_backward(scores, inputs)
        assert inputs.hidden.grad is not None and inputs.weight.grad is not None
        found[way] = {
            "logprob_error_nats": float((logprobs - truth).abs().max()),
            "hidden_grad_error": _relative(inputs.hidden.grad, exact.hidden.grad),
            "weight_grad_error": _relative(inputs.weight.grad, exact.weight.grad),
        }
        inputs.hidden.grad = inputs.weight.grad = None
    return found


def _relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).abs().max() / truth.abs().max())


def _in_child(way: str, settings: Settings) -> dict[str, float]:
    command = [sys.executable, "-m", "services.bench.logprobs", json.dumps({"way": way, **asdict(settings)})]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if done.returncode:
        raise GmpoError(f"bench logprobs: the way {way} ended with {done.returncode}: {done.stderr[-2000:]}")
    peak: dict[str, float] = json.loads(done.stdout)
    return peak


def _peak(way: str, settings: Settings) -> dict[str, float]:
    """Peak memory of one way in this process, which is to be a fresh one."""
    torch.set_num_threads(settings.threads)
    scores = ways()[way]
    _forward_backward(
        scores, Inputs.make(replace(settings, tokens=8, vocabulary=64))
    )  # threads and kernels, whose memory is not the work's
    inputs = Inputs.make(settings)
    before = _memory_bytes(settings.device, reset=True)
    _forward_backward(scores, inputs)
    peak = _memory_bytes(settings.device)
    held = sum(tensor.numel() * tensor.element_size() for tensor in (inputs.hidden, inputs.weight, inputs.targets, inputs.upstream))
    return {"memory_extra_gib": (peak - before) / 2**30, "memory_total_gib": (peak - before + held) / 2**30}


def _memory_bytes(device: str, *, reset: bool = False) -> int:
    """Greatest memory of this process so far; with `reset`, the memory held now, from which the next peak is measured."""
    if device == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() if reset else torch.cuda.max_memory_allocated()
    if reset:
        with contextlib.suppress(OSError):  # sandboxes may refuse; the inputs are then the peak so far
            Path("/proc/self/clear_refs").write_text("5")
    field = "VmRSS:" if reset else "VmHWM:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    """Entry point of the child: settings as JSON in, peak as JSON out."""
    arguments = json.loads(sys.argv[1])
    way = arguments.pop("way")
    sys.stdout.write(json.dumps(_peak(way, Settings(**arguments))))


if __name__ == "__main__":
    main()
