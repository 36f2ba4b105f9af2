"""`gmpo bench whole`: samples per second of a whole run beside TRL's experimental GMPO trainer, on the same work, in turns.

    gmpo    `gmpo train RECIPE`: engine, verifier, queue and learner in processes of their own, generation beside learning
    trl     `PYTHON peers/trl_gmpo.py WORK`: trl.experimental.gmpo.GMPOTrainer, which samples with transformers, then learns

Every run is a fresh process that starts from the same weights; both sides are held to the same cores. The first step is left out,
and of ours max_staleness more at either end of a run: there the queue fills, and learning goes on after the last prompt was sampled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.errors import ConfigError, GmpoError
from actors.replay.history import read
from services.bench import work
from services.bench.peers import trl_gmpo
from services.bench.results import Aim, Report, Row, Spread, device_name, ratios
from services.bench.timeline import Steady, of_run, of_trl, steady
from services.bench.work import CASES, Case, Choices
from services.config import dump

WAYS = ("gmpo", "trl")
PEER_PACKAGES = ("trl", "transformers", "torch", "accelerate")
OURS_ALONE = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that neither side's processes get: they would mix the environments, or hold one side to fewer threads."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured."""

    trl: Path  # interpreter of an environment that has TRL
    cases: tuple[str, ...] = tuple(CASES)
    rounds: int = 2
    warmup_steps: int = 1  # left out; of ours max_staleness more: the queue is full then
    timed_steps: int | None = None  # None: what each case says
    cores: int = 2
    engine_threads: int = 1  # beside a learner with as many: more threads than cores wait for each other
    learner_threads: int = 1
    max_staleness: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := set(self.cases) - set(CASES):
            raise ConfigError(f"bench whole: no case named {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
        if self.cores > len(os.sched_getaffinity(0)):
            raise ConfigError(f"bench whole: --cores {self.cores}, and this process may use {len(os.sched_getaffinity(0))}")

    @property
    def choices(self) -> Choices:
        """Our side's."""
        return Choices(self.cores, self.engine_threads, self.learner_threads, self.max_staleness)

    def timed(self, case: Case) -> int:
        """Steps whose time counts."""
        return self.timed_steps or case.timed_steps


def run(settings: Settings, tell: Callable[[str], None]) -> Report:
    """Measure, and hold the figures against the aims; `tell` hears how far it is."""
    peer = peer_versions(settings.trl)
    rows: list[Row] = []
    found: dict[str, Spread] = {}
    with tempfile.TemporaryDirectory(prefix="gmpo-bench-") as place, _held_to(settings.cores):
        for name in settings.cases:
            runs = _contest(CASES[name], settings, Path(place), tell)
            rows += [_row(name, way, runs[way]) for way in WAYS]
            found |= _ratios(name, runs)
    aims = [Aim.at_least(name, CASES[case].aim, found[name]) for case in settings.cases if (name := f"gmpo_over_trl, {case}")]
    chosen = {name: value for name, value in asdict(settings).items() if name != "trl"} | {
        "peer": peer,
        "work": [asdict(CASES[name]) for name in settings.cases],
    }
    return Report("whole", device_name("cpu"), chosen, rows, found, aims, _notes(settings, peer))


def peer_versions(python: Path) -> Mapping[str, str]:
    """Versions in the other environment; ConfigError if it has no TRL."""
    script = f"import importlib.metadata as m, json, sys; sys.stdout.write(json.dumps({{n: m.version(n) for n in {PEER_PACKAGES!r}}}))"
    try:
        done = subprocess.run([str(python), "-c", script], env=_environment(), capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"bench whole: --trl {python}: {error.strerror}") from None
    if done.returncode:
        raise ConfigError(f"bench whole: --trl {python}: {_last_line(done.stderr)}")
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def _contest(case: Case, settings: Settings, place: Path, tell: Callable[[str], None]) -> dict[str, list[Steady]]:
    """Both ways by turns."""
    model = work.policy(case, place / f"{case.name}-policy", seed=settings.seed, tell=tell)
    runs: dict[str, list[Steady]] = {way: [] for way in WAYS}
    for number in range(settings.rounds):
        for way, measure in zip(WAYS, (_ours, _theirs), strict=True):
            home = place / f"{case.name}-{way}-{number}"
            home.mkdir()
            runs[way].append(measure(case, settings, model, home))
            tell(f"{case.name}, round {number + 1}, {way}: {runs[way][-1].samples_per_s:.3g} samples/s")
    return runs


def _ours(case: Case, settings: Settings, model: Path, home: Path) -> Steady:
    timed = settings.timed(case)
    warmup = settings.warmup_steps + settings.max_staleness
    steps = warmup + timed + settings.max_staleness
    rows, recipe = home / "rows.jsonl", home / "recipe.yaml"
    work.write_rows(rows, steps * case.prompts, seed=settings.seed)
    written = work.recipe(case, settings.choices, model=model, rows=rows, root=home, steps=steps, seed=settings.seed)
    recipe.write_text(dump(written), encoding="utf-8")
    launched = _launch([sys.executable, "-m", "services.cli", "train", str(recipe)], home / "log", _environment(PYTHONPATH=_root()))
    ends = of_run(_lines(written.run_dir / "metrics.jsonl"), read(written.run_dir / "ledger.jsonl"))
    return steady(ends, launched=launched, warmup=warmup, timed=timed, responses=case.responses)


def _theirs(case: Case, settings: Settings, model: Path, home: Path) -> Steady:
    timed = settings.timed(case)
    steps = settings.warmup_steps + timed
    rows, arguments = home / "rows.jsonl", home / "work.json"
    work.write_rows(rows, steps * case.prompts, seed=settings.seed)
    told = work.write_trl_work(arguments, case, model=model, rows=rows, steps=steps, threads=settings.cores, seed=settings.seed)
    offline = _environment(OMP_NUM_THREADS=str(settings.cores), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    launched = _launch([str(settings.trl), trl_gmpo.__file__, str(arguments)], home / "log", offline)
    ends = of_trl(_lines(told), responses=case.responses)
    return steady(ends, launched=launched, warmup=settings.warmup_steps, timed=timed, responses=case.responses)


def _launch(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> float:
    """Run it to its end; answers when it was launched, unix seconds. GmpoError with what it last said if it fails."""
    launched = time.time()
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=dict(environment), check=False)
    if done.returncode:
        raise GmpoError(
            f"bench whole: {Path(command[0]).name} {' '.join(command[1:3])} failed: {_last_line(log.read_text(errors='replace'))}"
        )
    return launched


def _row(case: str, way: str, runs: Sequence[Steady]) -> Row:
    rates = Spread.of([one.samples_per_s for one in runs])
    stages = dict.fromkeys(name for one in runs for name in one.stages)
    return {
        "case": case,
        "way": way,
        "samples_per_s_median": rates.median,
        "samples_per_s_low": rates.low,
        "samples_per_s_high": rates.high,
        "tokens_per_s_median": Spread.of([one.tokens_per_s for one in runs]).median,
        "response_tokens": Spread.of([one.response_tokens for one in runs]).median,
        "startup_s": Spread.of([one.startup_s for one in runs]).median,
        "step_s": Spread.of([one.step_s for one in runs]).median,
        **{name: Spread.of([one.stages[name] for one in runs]).median for name in stages},
    }


def _ratios(case: str, runs: Mapping[str, Sequence[Steady]]) -> dict[str, Spread]:
    ours, theirs = (runs[way] for way in WAYS)
    return {
        f"gmpo_over_trl, {case}": ratios([one.samples_per_s for one in ours], [one.samples_per_s for one in theirs]),
        f"gmpo_over_trl by tokens, {case}": ratios([one.tokens_per_s for one in ours], [one.tokens_per_s for one in theirs]),
    }


def _notes(settings: Settings, peer: Mapping[str, str]) -> list[str]:
    return [
        f"trl {peer['trl']} with transformers {peer['transformers']} and torch {peer['torch']}: trl.experimental.gmpo.GMPOTrainer",
        f"both sides on {settings.cores} cores; gmpo: one engine of {settings.engine_threads} threads, one learner rank of "
        f"{settings.learner_threads}, max_staleness {settings.max_staleness}; trl: {settings.cores} threads",
        "startup_s: from the command to the end of the first step; all other columns are of the timed steps",
        "of gmpo's step learner, publish, wait and rest follow each other and generation goes on beside them; of trl's, generation and "
        "learner follow each other",
        "by tokens: of sampled tokens a second, since the two sides draw other responses",
    ]


@contextmanager
def _held_to(cores: int) -> Iterator[None]:
    """This process, and what it launches, on so many cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OURS_ALONE} | more


def _root() -> str:
    """Where this project's packages are imported from."""
    return str(Path(__file__).parents[2])


def _lines(path: Path) -> Iterator[dict[str, float]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
