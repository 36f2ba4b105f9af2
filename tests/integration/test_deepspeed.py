"""DeepSpeed against plain torch: the same numbers on any ranks, refused updates without a trace, checkpoints that go anywhere.

Starting a group of processes costs more than what they then do, so each group does all that can be asked of its size.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint import save as dcp_save

from actors.learner import backends
from actors.learner.backends import Backend
from actors.learner.config import LearnerConfig
from actors.modeling.config import TinyPolicy
from actors.modeling.packing import pack
from actors.modeling.scoring import Scorer
from actors.modeling.tiny import make_model
from tests.learning import process_group

pytestmark = pytest.mark.integration

Arrays = dict[str, np.ndarray[Any, Any]]
CPU = torch.device("cpu")
MODEL = TinyPolicy(layers=2)
LR = 1e-3
PIECES = (1, 3, 2)
"""Micro-batches of each rank in one update after another."""
SETTINGS = {
    "zero2": ({"stage": 2}, "float32"),
    "zero3": ({"stage": 3}, "float32"),
    "zero2-offload": ({"stage": 2, "offload_optimizer": True}, "float32"),
    "zero3-offload": ({"stage": 3, "offload_optimizer": True}, "float32"),
    "zero2-bfloat16": ({"stage": 2, "offload_optimizer": True}, "bfloat16"),
    "zero3-bfloat16": ({"stage": 3}, "bfloat16"),
}
FLOAT32 = [name for name, (_, dtype) in SETTINGS.items() if dtype == "float32"]
BFLOAT16 = [name for name, (_, dtype) in SETTINGS.items() if dtype == "bfloat16"]


def make(name: str, **config: Any) -> Backend:
    """One of SETTINGS around the tiny model, a function of its seed; gradients are clipped in every update."""
    stage, dtype = SETTINGS[name]
    settings = LearnerConfig.model_validate(
        {"backend": {"type": "deepspeed", **stage}, "optimizer": {"lr": LR}, "max_grad_norm": 1, **config}
    )
    return backends.build(make_model(MODEL), settings, dtype=dtype, device=CPU)


def rows(rank: int, ranks: int) -> list[tuple[np.ndarray[Any, Any], float]]:
    """(token ids, weight) of this rank's sequences: uneven shares of the same twelve."""
    random = np.random.default_rng(0)
    every = [(random.integers(0, 256, int(random.integers(6, 40))).astype(np.int32), float(random.normal(0, 0.05))) for _ in range(12)]
    return [row for index, row in enumerate(every) if (ranks - 1 if index % 4 == 0 else index % max(1, ranks - 1)) == rank]


def loss_of(score: Callable[..., Any], part: list[tuple[np.ndarray[Any, Any], float]]) -> torch.Tensor:
    """This part's share of a weighted sum of log-probs."""
    scores = score(pack([tokens for tokens, _ in part], [3] * len(part), CPU), 1.0)
    loss: torch.Tensor = (scores.logprobs * torch.tensor([weight for _, weight in part])[:, None]).sum()
    return loss


def gather(backend: Backend, rank: int, ranks: int, *, pieces: int, last: bool = True, factor: float = 1.0) -> None:
    """The backward passes of one update; the factor spoils it if it is not finite."""
    mine = rows(rank, ranks)
    for piece in range(pieces):
        backend.backward(loss_of(backend.score, mine[piece::pieces]) * factor, last=last and piece == pieces - 1)


def update(backend: Backend, rank: int, ranks: int, *, pieces: int = 2, factor: float = 1.0) -> float:
    """One whole update."""
    gather(backend, rank, ranks, pieces=pieces, factor=factor)
    return backend.step(LR)


def policy(backend: Backend) -> Arrays:
    """What engines and files would get."""
    return {spec.name: tensor.float().numpy().copy() for spec, tensor in zip(backend.specs(), backend.tensors(), strict=True)}


def state(backend: Backend) -> Arrays:
    """This rank's part of a checkpoint, flat."""
    snapshot = backend.snapshot()
    parts = {f"{name} master": tensor for name, tensor in snapshot["model"].items()}
    parts |= {f"{name} {key}": tensor for name, held in snapshot["optimizer"]["state"].items() for key, tensor in held.items()}
    assert all(tensor.dtype == torch.float32 for tensor in parts.values())
    return {name: tensor.numpy().copy() for name, tensor in parts.items()}


def same(ours: Arrays, theirs: Arrays) -> bool:
    """Equal bit for bit."""
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def learn(rank: int, ranks: int, directory: Path) -> dict[str, Any]:
    """Three updates by each kind: (norms, policy, this rank's part of the state)."""
    found: dict[str, Any] = {}
    for name in FLOAT32:
        backend = make(name)
        norms = [update(backend, rank, ranks, pieces=pieces) for pieces in PIECES]
        found[name] = norms, policy(backend), state(backend)
    return found


def linger(rank: int, ranks: int, directory: Path) -> dict[str, Any]:
    """What DeepSpeed leaves in a process."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return {
        "children": [process.name() for process in psutil.Process().children()],
        "handlers": [handler not in (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler) for handler in handlers],
    }


def refuse(rank: int, ranks: int, directory: Path) -> dict[str, Any]:
    """Of each kind: is an update that only the last rank spoils, or one that is discarded, as if it had not been?"""
    found = {}
    for name in SETTINGS:
        struck, spared = make(name), make(name)
        update(struck, rank, ranks)
        update(spared, rank, ranks)
        before = policy(struck), state(struck)
        norm = update(struck, rank, ranks, factor=math.nan if rank == ranks - 1 else 1.0)
        unmoved = same(policy(struck), before[0]) and same(state(struck), before[1])
        gather(struck, rank, ranks, pieces=2, last=False)
        struck.discard()
        gather(struck, rank, ranks, pieces=1)
        struck.discard()
        norms = update(struck, rank, ranks), update(spared, rank, ranks)
        found[name] = norm, unmoved, norms, same(policy(struck), policy(spared)) and same(state(struck), state(spared))
    return found


def fall(rank: int, ranks: int, directory: Path) -> dict[str, Any]:
    """In bfloat16: (start, losses before each of five updates) of each stage."""
    found = {}
    for name in BFLOAT16:
        backend, losses = make(name), []
        start = state(backend)
        for _ in range(5):
            with torch.no_grad():
                losses.append(float(loss_of(backend.score, rows(rank, ranks))))
            update(backend, rank, ranks)
        found[name] = start, losses
    return found


def adapt(rank: int, ranks: int, directory: Path) -> dict[str, Any]:
    """With low-rank adapters: (policy before, policy after two updates, names that a checkpoint holds) of each stage."""
    found = {}
    for name in ("zero2", "zero3"):
        torch.manual_seed(0)
        backend = make(name, lora={"rank": 4, "alpha": 8})
        before = policy(backend)
        update(backend, rank, ranks)
        update(backend, rank, ranks)
        found[name] = before, policy(backend), sorted(backend.snapshot()["model"])
    return found


def save(rank: int, ranks: int, directory: Path) -> dict[str, Any]:
    """Save before the first update and after it, go on, and load both into fresh backends."""
    found = {}
    for name in ("zero2", "zero3"):
        first, second = make(name), make(name)
        dcp_save(dict(first.snapshot()), storage_writer=FileSystemWriter(directory / f"{name}-fresh"))
        update(first, rank, ranks)
        dcp_save(dict(first.snapshot()), storage_writer=FileSystemWriter(directory / name))
        held = state(first)
        norm = update(first, rank, ranks)
        second.load(directory / f"{name}-fresh")
        update(second, rank, ranks)
        from_fresh = same(state(second), held)
        third = make(name)
        third.load(directory / name)
        from_first = same(state(third), held)
        assert update(third, rank, ranks) == norm
        found[name] = from_fresh, from_first, same(state(third), state(first)) and same(policy(third), policy(first)), policy(first)
    return found


def resume(rank: int, ranks: int, directory: Path) -> dict[str, Any]:
    """Load what two ranks saved, each stage by the other, and take their next update."""
    found = {}
    for name, other in (("zero2", "zero3-offload"), ("zero3", "zero2")):
        backend = make(other)
        backend.load(directory / name)
        update(backend, rank, ranks)
        found[name] = policy(backend)
    return found


def run(rank: int, ranks: int, tasks: tuple[Callable[..., Any], ...], directory: Path, store: str, out: Any) -> None:
    """One rank's process."""
    with process_group(rank, ranks, "cpu", store):
        out.put((rank, {task.__name__: task(rank, ranks, directory) for task in tasks}))


def group(directory: Path, ranks: int, *tasks: Callable[..., Any]) -> list[dict[str, Any]]:
    """What the tasks found, rank by rank."""
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    store = str(directory / f"store-{ranks}")
    processes = [context.Process(target=run, args=(rank, ranks, tasks, directory, store, out)) for rank in range(ranks)]
    for process in processes:
        process.start()
    found = dict(out.get(timeout=150) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [found[rank] for rank in range(ranks)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the groups meet, and where torch would put what it compiles."""
    directory = tmp_path_factory.mktemp("deepspeed")
    (directory / "extensions").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(directory / "extensions"))
        yield directory


@pytest.fixture(scope="module")
def two(directory: Path) -> list[dict[str, Any]]:
    """A group of two."""
    return group(directory, 2, learn, linger, refuse, fall, adapt, save)


@pytest.fixture(scope="module")
def one(directory: Path, two: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One rank, which goes on from what two have saved."""
    return group(directory, 1, learn, linger, resume)


@pytest.fixture(scope="module")
def three(directory: Path) -> list[dict[str, Any]]:
    """A group of three."""
    return group(directory, 3, learn, linger)


@pytest.fixture(params=["two", "one", "three"])
def found(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What a group of each size found, rank by rank."""
    results: list[dict[str, Any]] = request.getfixturevalue(request.param)
    return results


def plain() -> tuple[list[float], Arrays, Arrays]:
    """The three updates by torch alone: (norms, policy, state)."""
    model = make_model(MODEL)
    scorer = Scorer(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.0)
    norms = []
    for _ in PIECES:
        loss_of(scorer, rows(0, 1)).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        optimizer.zero_grad()
    named = dict(model.named_parameters())
    moments = {f"model.{name} exp_avg": optimizer.state[parameter]["exp_avg"].numpy() for name, parameter in named.items()}
    return norms, {name: parameter.detach().numpy() for name, parameter in named.items()}, moments


def distance(ours: Arrays, theirs: Arrays) -> float:
    """Euclidean, over the names of `theirs`."""
    return math.sqrt(sum(float(np.square(ours[name] - theirs[name]).sum()) for name in theirs))


def length(arrays: Arrays) -> float:
    """Euclidean."""
    return math.sqrt(sum(float(np.square(array).sum()) for array in arrays.values()))


def test_any_ranks_and_micro_batches_give_the_updates_of_plain_torch(found: list[dict[str, Any]]) -> None:
    expected_norms, expected_policy, expected_moments = plain()
    assert min(expected_norms) > 1  # every update was clipped
    start = {name: parameter.detach().numpy() for name, parameter in make_model(MODEL).named_parameters()}
    moved = distance(expected_policy, start)
    for name in FLOAT32:
        moments = {key: array for rank in found for key, array in rank["learn"][name][2].items()}
        assert distance(moments, expected_moments) <= 1e-5 * length(expected_moments), name
        for rank in found:
            norms, parameters, _ = rank["learn"][name]
            assert norms == pytest.approx(expected_norms, rel=1e-5), name
            # Dividing by the root of the second moment makes much of what little differs where gradients are small.
            assert distance(parameters, expected_policy) <= 1e-4 * moved, name


def test_the_parts_of_a_checkpoint_are_disjoint_whole_and_even(found: list[dict[str, Any]]) -> None:
    for name in FLOAT32:
        parts = [rank["learn"][name][2] for rank in found]
        sizes = [sum(array.size for array in part.values()) for part in parts]
        assert len(set().union(*parts)) == sum(map(len, parts)) == 4 * len(list(make_model(MODEL).parameters()))
        assert max(sizes) < 1.2 * min(sizes)


def test_nothing_is_compiled_and_no_process_or_signal_handler_is_left(directory: Path, found: list[dict[str, Any]]) -> None:
    assert not list((directory / "extensions").iterdir())
    for rank in found:
        assert not rank["linger"]["children"] and not any(rank["linger"]["handlers"])


def test_what_is_published_is_what_was_trained(two: list[dict[str, Any]]) -> None:
    for name in ("zero2", "zero3"):
        masters = {key.removesuffix(" master"): array for rank in two for key, array in rank["learn"][name][2].items() if "master" in key}
        for rank in two:
            parameters = dict(rank["learn"][name][1])
            np.testing.assert_array_equal(parameters.pop("lm_head.weight"), parameters["model.embed_tokens.weight"])
            assert same({f"model.{key}": array for key, array in parameters.items()}, masters)


def test_an_update_that_one_rank_spoils_is_as_if_it_had_not_been(two: list[dict[str, Any]]) -> None:
    for rank in two:
        for name, (norm, unmoved, (struck, spared), equal) in rank["refuse"].items():
            assert not math.isfinite(norm) and unmoved, name
            assert struck == spared and equal, name


def test_bfloat16_starts_from_the_exact_weights_and_learns(two: list[dict[str, Any]]) -> None:
    weights = {f"model.{name} master": parameter.detach().numpy() for name, parameter in make_model(MODEL).named_parameters()}
    for name in BFLOAT16:
        masters = {key: array for rank in two for key, array in rank["fall"][name][0].items() if "master" in key}
        assert same(masters, weights)
        losses = sum(np.asarray(rank["fall"][name][1]) for rank in two)
        assert (np.diff(losses) < 0).all(), losses


def test_adapters_are_trained_and_published_merged(two: list[dict[str, Any]]) -> None:
    for rank in two:
        (before, after, names), (_, other, _) = rank["adapt"]["zero2"], rank["adapt"]["zero3"]
        assert names and all("lora_" in name for name in names)
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed == {name for name in before if name.endswith("_proj.weight")}
        assert distance(after, other) <= 1e-4 * distance(after, before)


def test_a_loaded_run_goes_on_bit_for_bit(two: list[dict[str, Any]]) -> None:
    for rank in two:
        for name, (from_fresh, from_first, equal, _) in rank["save"].items():
            assert from_fresh and from_first and equal, name


def test_another_stage_on_another_number_of_ranks_goes_on_from_a_checkpoint(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    for name, parameters in one[0]["resume"].items():
        unbroken = two[0]["save"][name][3]
        assert max(float(np.abs(parameters[key] - unbroken[key]).max()) for key in unbroken) <= 1e-6, name
