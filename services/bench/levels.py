"""What `gmpo bench endpoint` makes of the answers: the figures of one level of load, and of one way over the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from actors.errors import GmpoError
from services.bench.load import Answer
from services.bench.results import Row, Spread

WAYS = ("gmpo", "bare")


class Place(NamedTuple):
    """Which level of load."""

    kind: str  # "plain" or "streamed"
    clients: int

    def __str__(self) -> str:
        return f"{self.kind}, {self.clients} client{'s' if self.clients > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Level:
    """The answers of one way at one place, in one round."""

    whole: Sequence[Answer]  # those that are as long as was asked for
    failures: Sequence[str]  # what is wrong with the others
    seconds: float  # from the first request until the last answer
    client_cpu_s: float  # of the process that asked
    server_cpu_s: float  # of the processes that answered

    @property
    def requests_per_s(self) -> float:
        """Of whole answers."""
        return len(self.whole) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """Of whole answers."""
        return sum(answer.tokens or 0 for answer in self.whole) / self.seconds

    @property
    def latencies_ms(self) -> list[float]:
        """From each request until the last byte of its answer."""
        return [answer.seconds * 1000 for answer in self.whole]

    @property
    def first_tokens_ms(self) -> list[float]:
        """From each request until the first byte of its answer's body: of a stream, its first token."""
        return [(answer.first - answer.began) * 1000 for answer in self.whole if answer.first is not None]


Found = Mapping[str, Mapping[Place, Sequence[Level]]]
"""By way and place, a level a round; the ways have the same places."""


def level(bodies: Sequence[Mapping[str, Any]], answers: Sequence[Answer], *, client_cpu_s: float, server_cpu_s: float) -> Level:
    """Tell whole answers from the others; GmpoError where none is whole."""
    whole: list[Answer] = []
    failures: list[str] = []
    for body, answer in zip(bodies, answers, strict=True):
        if answer.error is not None:
            failures.append(answer.error)
        elif answer.tokens != body["max_tokens"]:
            failures.append(f"{answer.tokens} tokens instead of {body['max_tokens']}")
        else:
            whole.append(answer)
    if not whole:
        raise GmpoError(f"bench endpoint: all {len(answers)} requests failed, the first with: {failures[0]}")
    seconds = max(answer.ended for answer in answers) - min(answer.began for answer in answers)
    return Level(whole, failures, seconds, client_cpu_s, server_cpu_s)


def row(place: Place, way: str, levels: Sequence[Level]) -> Row:
    """One line of the table: all rounds together."""
    rates = Spread.of([one.requests_per_s for one in levels])
    latencies = [ms for one in levels for ms in one.latencies_ms]
    firsts = [ms for one in levels for ms in one.first_tokens_ms]
    return {
        "kind": place.kind,
        "clients": place.clients,
        "way": way,
        "requests_per_s_median": rates.median,
        "requests_per_s_low": rates.low,
        "requests_per_s_high": rates.high,
        "tokens_per_s_median": median(one.tokens_per_s for one in levels),
        "latency_p50_ms": float(np.percentile(latencies, 50)),
        "latency_p99_ms": float(np.percentile(latencies, 99)),
        "first_token_p50_ms": median(firsts) if place.kind == "streamed" else None,
        "failed": sum(len(one.failures) for one in levels),
        "server_cpu_ms_per_request": median(1000 * one.server_cpu_s / len(one.whole) for one in levels),
        "client_cpu": median(one.client_cpu_s / one.seconds for one in levels),
    }


def throughput(found: Found) -> dict[str, Spread]:
    """Requests per second over the bare way's: at each place, and of each kind the median of its places."""
    over = {place: [ours / bare for ours, bare in _pairs(found, place, _rate)] for place in found["gmpo"]}
    compared = {f"gmpo_over_bare, {place}": Spread.of(rounds) for place, rounds in over.items()}
    for kind in dict.fromkeys(place.kind for place in over):
        of_kind = [rounds for place, rounds in over.items() if place.kind == kind]
        compared[f"gmpo_over_bare, {kind}, median of levels"] = Spread.of([median(one) for one in zip(*of_kind, strict=True)])
    return compared


def added(found: Found) -> dict[str, Spread]:
    """Milliseconds by which one client's median answer takes longer than the bare way's, and the first token of its streams."""
    longer: dict[str, Spread] = {}
    for place in _of_one_client(found):
        longer[f"added_latency_p50_ms, {place}"] = Spread.of([ours - bare for ours, bare in _pairs(found, place, _latency)])
        if place.kind == "streamed":
            longer[f"added_first_token_p50_ms, {place}"] = Spread.of([ours - bare for ours, bare in _pairs(found, place, _first_token)])
    return longer


def same_answers(found: Found) -> dict[str, Spread]:
    """Share of one client's answers that both ways give word for word: the same model, sampled with the same seeds."""
    shares: dict[str, Spread] = {}
    for place in _of_one_client(found):
        rounds = zip(found["gmpo"][place], found["bare"][place], strict=True)
        pairs = [[(a.text, b.text) for a, b in zip(ours.whole, bare.whole, strict=False)] for ours, bare in rounds]
        shares[f"same_answers, {place}"] = Spread.of([sum(a == b for a, b in of_round) / len(of_round) for of_round in pairs])
    return shares


def _of_one_client(found: Found) -> list[Place]:
    return [place for place in found["gmpo"] if place.clients == 1]


def _pairs(found: Found, place: Place, figure: Callable[[Level], float]) -> list[tuple[float, float]]:
    """(this project's, the bare way's) figure of each round."""
    return [(figure(ours), figure(bare)) for ours, bare in zip(found["gmpo"][place], found["bare"][place], strict=True)]


def _rate(one: Level) -> float:
    return one.requests_per_s


def _latency(one: Level) -> float:
    return median(one.latencies_ms)


def _first_token(one: Level) -> float:
    return median(one.first_tokens_ms)
