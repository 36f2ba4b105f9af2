"""`gmpo bench endpoint`: this project's HTTP endpoint beside bare `vllm serve`, under the same load of 1 to 64 clients.

Both serve the same policy version with the same engine settings (see `served`), asked by the same client (see `load`) for completions of
token ids, of given lengths, sampled with seeds. The servers take turns; one is shut down while the other is measured.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from actors.errors import ConfigError
from services.bench import generation, levels
from services.bench.levels import WAYS, Found, Level, Place
from services.bench.load import closed_loop
from services.bench.results import Aim, Report, Spread, device_name
from services.bench.served import MODEL, Server, serving, write_run
from services.bench.shapes import SHAPES
from services.policy.config import LimitsConfig, ServeConfig

KINDS = ("plain", "streamed")
PROMPT_TOKENS = 48
MANY_CLIENTS = 16
WARMING_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Bound:
    """What is asked of the endpoint that serves one model."""

    throughput: float  # over bare, at least
    added_ms: float  # to one client's median answer, at most


BOUNDS = {"30m": Bound(0.9, 5.0), "tiny": Bound(0.7, 15.0)}
REQUESTS = {"30m": 48, "tiny": 192}
"""By model, so many that a level takes seconds."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how often."""

    model: str = "30m"
    clients: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    kinds: tuple[str, ...] = KINDS
    requests: int | None = None  # of a level of up to 16 clients, and with more clients in proportion; None: by the model
    shortest: int = 16  # tokens of an answer
    longest: int = 48
    threads: int = 1  # CPU threads of the model
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in BOUNDS:
            raise ConfigError(f"bench endpoint: no model named {self.model}; there are {', '.join(BOUNDS)}")
        if unknown := set(self.kinds) - set(KINDS):
            raise ConfigError(f"bench endpoint: no kind of answer named {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
        if self.shortest > self.longest:
            raise ConfigError(f"bench endpoint: --shortest {self.shortest} is more than --longest {self.longest}")

    @property
    def places(self) -> list[Place]:
        """The levels of load, in order."""
        return [Place(kind, clients) for kind, clients in product(self.kinds, self.clients)]

    @property
    def serve(self) -> ServeConfig:
        """The endpoint, and the engine of both ways: it has room for all clients at once."""
        most = max(self.clients)
        limits = LimitsConfig(running_per_key=2 * most)  # an answer may count for a moment longer than its client waits for it
        longest = PROMPT_TOKENS + self.longest
        return ServeConfig(port=0, max_model_len=longest, max_running=most, threads=self.threads, resident=1, limits=limits)

    def bodies(self, place: Place) -> list[dict[str, Any]]:
        """The requests of a level: lengths evenly spread from the shortest to the longest, shuffled; a function of the seed."""
        requests = self.requests or REQUESTS[self.model]
        count = max(requests, requests * place.clients // MANY_CLIENTS)
        draw = np.random.default_rng((self.seed, place.clients))
        lengths = draw.permutation(np.linspace(self.shortest, self.longest, count).round().astype(int))
        prompts = draw.integers(0, SHAPES[self.model].vocabulary, (count, PROMPT_TOKENS))
        asked: dict[str, Any] = {"model": MODEL, "temperature": 1.0, "ignore_eos": True}
        if place.kind == "streamed":
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        return [
            asked | {"prompt": prompt.tolist(), "max_tokens": int(length), "seed": index}
            for index, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
        ]


def run(settings: Settings, tell: Callable[[str], None]) -> Report:
    """Measure both ways in turns, and hold one against the other; `tell` hears how far it is."""
    found: dict[str, dict[Place, list[Level]]] = {way: {place: [] for place in settings.places} for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="gmpo-bench-") as directory:
        saved, run_dir = Path(directory) / "model", Path(directory) / "run"
        saved.mkdir()
        generation.save_model(generation.Settings(model=settings.model, seed=settings.seed), saved)
        write_run(run_dir, saved)
        for repeat in range(settings.repeats):
            for way in WAYS if repeat % 2 == 0 else reversed(WAYS):
                with serving(way, run_dir, settings.serve) as server:
                    for place, rounds in found[way].items():
                        rounds.append(asyncio.run(_level(server, settings.bodies(place), place.clients)))
                        tell(f"round {repeat + 1}, {way}, {place}: {rounds[-1].requests_per_s:.3g} requests/s")
    return report(settings, found)


async def _level(server: Server, bodies: Sequence[dict[str, Any]], clients: int) -> Level:
    warming = [body | {"max_tokens": WARMING_TOKENS} for body in bodies[:clients]]
    await closed_loop(server.url, warming, clients=clients, key=server.key)
    client_cpu, server_cpu = time.process_time(), server.cpu_s()
    answers = await closed_loop(server.url, bodies, clients=clients, key=server.key)
    return levels.level(bodies, answers, client_cpu_s=time.process_time() - client_cpu, server_cpu_s=server.cpu_s() - server_cpu)


def report(settings: Settings, found: Found) -> Report:
    """Rows, ratios and aims of what was found."""
    failures = {way: [failure for rounds in found[way].values() for one in rounds for failure in one.failures] for way in WAYS}
    failed = {f"failed_requests, {way}": Spread.of([float(len(failures[way]))]) for way in WAYS}
    over, added = levels.throughput(found), levels.added(found)
    bound = BOUNDS[settings.model]
    aims = [
        *(Aim.at_least(name, bound.throughput, spread) for name, spread in over.items()),
        *(Aim.at_most(name, bound.added_ms, spread) for name, spread in added.items() if name.startswith("added_latency")),
        *(Aim.at_most(name, 0.0, spread) for name, spread in failed.items()),
    ]
    judged = settings == Settings(model=settings.model, threads=settings.threads, repeats=settings.repeats)
    return Report(
        bench="endpoint",
        device=device_name("cpu"),
        settings=asdict(settings) | {"prompt_tokens": PROMPT_TOKENS},
        rows=[levels.row(place, way, found[way][place]) for place in found["gmpo"] for way in WAYS],
        ratios=over | added | levels.same_answers(found) | failed,
        aims=aims if judged else [],
        notes=[
            "figures are of whole answers, percentiles of all rounds together; latency: from a request until the last byte of its answer",
            "gmpo over bare: requests per second of the same round; added: median less the bare way's of the same round",
            "failed: errors, and answers of another length than was asked for",
            "server cpu: of all processes of a server, which a busy machine changes less; client cpu: cores that the asking process took",
            *(f"{way}: the first of {len(all_of)} failures: {all_of[0]}" for way, all_of in failures.items() if all_of),
        ],
    )
