"""The queue as a plain class in one event loop: every wait below ends because something happened, never because time passed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from actors.errors import GmpoError, LedgerError, LostGroup, QueueClosed, QueueLost, StaleAttempt, TrainingDiverged, WeightSyncError
from actors.learner.advantages import build
from actors.learner.config import KlConfig, ZScoreAdvantage
from actors.replay.audit import audit
from actors.replay.history import History, read
from actors.replay.ledger import State
from actors.replay.messages import Arrival, Belongings, QueueSpec, Recall
from actors.replay.queue import ReplayQueue
from actors.replay.standing import Claim
from actors.types import Assignment, GroupMeta, Outcome, Resync, StepResult, Stop, Work

T = TypeVar("T")

Make = Callable[..., Awaitable[ReplayQueue]]
STAGES = (State.GENERATED, State.VERIFIED)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "run" / "ledger.jsonl"


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """make(...) builds queues that are closed when the test ends; keywords change the spec."""
    made: list[ReplayQueue] = []

    async def make(*start: Any, own: Belongings | None = None, **changes: Any) -> ReplayQueue:
        spec = QueueSpec(
            session="first",
            prompts_per_step=2,
            updates_per_step=2,
            max_staleness=1,
            capacity=100,
            stale_after_s=60,
            steps=9,
            seed=0,
            skip_zero_advantage=False,
            dynamic_sampling=False,
            advantages=build(ZScoreAdvantage(), KlConfig()),
            history=tmp_path / "run" / "ledger.jsonl",
        )
        for dead in made:  # else it would still hold the history
            dead._history.close()
            dead._closed = True
        made.append(ReplayQueue(replace(spec, **changes), *start))
        await made[-1].begin_with(own or Belongings())
        return made[-1]

    yield make
    for queue in made:
        await queue.close()


@pytest.fixture
async def queue(make: Make) -> ReplayQueue:
    return await make()


def meta(ordinal: int, version: int = 0) -> GroupMeta:
    return GroupMeta(ordinal, (version, version), (3, 4), (1.0, 0.0), (Outcome.RIGHT, Outcome.WRONG))


async def fill(queue: ReplayQueue, *ordinals: int, version: int = 0) -> None:
    """These prompts are admitted and come back ready."""
    await queue.admit(ordinals)
    for ordinal in ordinals:
        await put(queue, ordinal, version)


async def put(queue: ReplayQueue, ordinal: int, version: int = 0, **changes: Any) -> bool:
    """A group arrives; keywords change its meta."""
    held = replace(meta(ordinal, version), **changes), [f"ref {ordinal}"]
    return (await queue.put([Arrival(held, STAGES, {"generated": 0.1})]))[0]


async def train(queue: ReplayQueue, step: int, attempt: int, turn: int) -> Work:
    """A learner of one rank takes a step all the way to its ack."""
    work = await queue.claim(turn, step, 0, 1, attempt)
    assert isinstance(work, Work)
    await queue.ack(StepResult(step, {"learner/loss": float(step)}), "digest", attempt)
    return work


async def waiting(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that has run until it waits."""
    task = asyncio.ensure_future(coroutine)
    await asyncio.sleep(0)
    assert not task.done()
    return task


def events(history: Path) -> list[tuple[str, Any]]:
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    return [(line["event"], line.get("ordinals", line.get("step"))) for line in lines]


# --- claims --------------------------------------------------------------------------------------------------------------------


async def test_a_claim_waits_until_the_step_is_full(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    claim = await waiting(queue.claim(0, 1, 0, 1, attempt))
    await queue.admit([0, 1])
    await put(queue, 1)
    assert not claim.done()
    await put(queue, 0)
    work = await claim
    assert isinstance(work, Work)
    assert (work.step, work.ordinals, work.refs) == (1, (0, 1), ("ref 0", "ref 1"))
    assert [totals.sequences for totals in work.totals] == [2, 2]


async def test_all_ranks_get_their_shares_of_one_frozen_step(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    claims = [await waiting(queue.claim(0, 1, rank, 2, attempt)) for rank in range(2)]
    await fill(queue, 0, 1, 2, 3)
    first, second = await asyncio.gather(*claims)
    assert isinstance(first, Work) and isinstance(second, Work)
    assert first.totals == second.totals and first.metrics == second.metrics

    def places(work: Work) -> set[tuple[int, int]]:
        return {(work.ordinals[row.group], row.sample) for row in work.rows}

    assert places(first) | places(second) == {(ordinal, sample) for ordinal in (0, 1) for sample in (0, 1)}
    assert not places(first) & places(second)
    for work in (first, second):
        assert work.refs == tuple(f"ref {ordinal}" for ordinal in work.ordinals)


async def test_asking_again_gives_the_same_answer(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1, 2, 3)
    first = await queue.claim(0, 1, 0, 1, attempt)
    assert await queue.claim(0, 1, 0, 1, attempt) == first
    assert queue.account()["claimed"] == 2


async def test_who_asks_for_a_turn_long_over_freezes_nothing(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1, 2, 3, 4, 5)
    for step in (1, 2):
        await train(queue, step, attempt, turn=step - 1)
    await queue.commit(2, attempt)
    await queue.stop("enough")
    assert await queue.claim(2, 3, 0, 1, attempt) == Stop("enough")
    with pytest.raises(StaleAttempt, match="turn 0"):
        await queue.claim(0, 1, 0, 1, attempt)
    assert queue.account()["ready"] == 2


async def test_the_run_ends_with_its_last_step(make: Make) -> None:
    queue = await make(steps=1)
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1)
    await train(queue, 1, attempt, turn=0)
    claim = await waiting(queue.claim(1, 2, 0, 1, attempt))  # the version may still have to be put to the held-out questions
    await queue.set_engines(["engine"], 1)
    assert await claim == Resync(1, ("engine",))
    assert await queue.claim(2, 2, 0, 1, attempt) == Stop("all steps done")


async def test_stop_reaches_a_learner_that_waits(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    claim = await waiting(queue.claim(0, 1, 0, 1, attempt))
    await queue.stop("asked to")
    assert await claim == Stop("asked to")


async def test_a_young_group_does_not_pass_one_at_the_bound(make: Make) -> None:
    queue = await make(max_staleness=0)
    attempt, _ = await queue.begin()
    await queue.admit([0, 1])
    claim = await waiting(queue.claim(0, 1, 0, 1, attempt))
    await put(queue, 1)
    assert not claim.done()
    await put(queue, 0)
    assert isinstance(await claim, Work)


# --- engines -------------------------------------------------------------------------------------------------------------------


async def test_new_engines_come_before_work(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1)
    await queue.set_engines(["engine"], 1)
    synced = await waiting(queue.synced())
    assert [await queue.claim(0, 1, rank, 2, attempt) for rank in range(2)] == [Resync(1, ("engine",))] * 2
    assert not synced.done()
    await queue.confirm(1, 0, "digest", attempt)
    assert await synced == 0
    assert isinstance(await queue.claim(1, 1, 0, 2, attempt), Work)


async def test_a_rank_that_is_quicker_than_the_confirmation_is_not_sent_back(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1)
    await queue.set_engines(["engine"], 1)
    assert [await queue.claim(0, 1, rank, 2, attempt) for rank in range(2)] == [Resync(1, ("engine",))] * 2
    assert isinstance(await queue.claim(1, 1, 1, 2, attempt), Work)
    await queue.confirm(1, 0, "digest", attempt)
    assert isinstance(await queue.claim(1, 1, 0, 2, attempt), Work)


async def test_a_turn_keeps_its_verdict_when_the_engines_change_between_two_ranks(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1)
    assert isinstance(await queue.claim(0, 1, 0, 2, attempt), Work)
    await queue.set_engines(["engine"], 1)
    assert isinstance(await queue.claim(0, 1, 1, 2, attempt), Work)
    await queue.ack(StepResult(1, {}), "digest", attempt)
    assert await queue.claim(1, 2, 0, 2, attempt) == Resync(1, ("engine",))


async def test_engines_that_change_while_they_are_synced_are_synced_again(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await queue.set_engines(["old"], 1)
    await queue.claim(0, 1, 0, 1, attempt)
    await queue.set_engines(["new"], 2)
    synced = await waiting(queue.synced())
    await queue.confirm(1, 0, "digest", attempt)
    assert await queue.claim(1, 1, 0, 1, attempt) == Resync(2, ("new",))
    assert not synced.done()
    await queue.confirm(2, 0, "digest", attempt)
    assert await synced == 0


async def test_a_new_learner_group_connects_to_the_engines_first(queue: ReplayQueue) -> None:
    await queue.set_engines(["engine"], 1)
    await fill(queue, 0, 1)
    for _ in range(2):
        attempt, _ = await queue.begin()
        assert await queue.claim(0, 1, 0, 1, attempt) == Resync(1, ("engine",))
        await queue.confirm(1, 0, "digest", attempt)


# --- publications --------------------------------------------------------------------------------------------------------------


async def test_an_ack_publishes_the_step_with_all_its_figures(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    published = await waiting(queue.next_published(0))
    await fill(queue, 0, 1)
    await train(queue, 1, attempt, turn=0)
    found = await published
    assert found is not None and found.step == 1 and found.frozen.ordinals == (0, 1)
    metrics = found.result.metrics
    assert metrics["learner/loss"] == 1 and metrics["reward/mean"] == 0.5
    assert metrics["queue/claimed"] == 0 and metrics["ledger/trained"] == 2


async def test_publications_come_in_order_and_each_once(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1, 2, 3)
    for step in (1, 2):
        await train(queue, step, attempt, turn=step - 1)
    for after in (0, 0, 1):  # asked twice, because an answer was lost on its way
        found = await queue.next_published(after)
        assert found is not None and found.step == after + 1
    third = await waiting(queue.next_published(2))
    await queue.ack(StepResult(2, {}), "digest", attempt)
    await asyncio.sleep(0)
    assert not third.done()
    third.cancel()


# --- learner groups that follow each other -------------------------------------------------------------------------------------


async def test_a_later_group_gets_the_same_steps_again_until_a_checkpoint_covers_them(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1, 2, 3)
    before = [await train(queue, step, attempt, turn=step - 1) for step in (1, 2)]
    assert await queue.next_published(0) and await queue.next_published(1)
    await fill(queue, 4, 5, version=2)

    attempt, _ = await queue.begin()
    assert [await train(queue, step, attempt, turn=step - 1) for step in (1, 2)] == before
    await queue.commit(1, attempt)
    again = await waiting(queue.next_published(2))  # the conductor has seen the others and must not see them twice

    attempt, _ = await queue.begin()
    assert await train(queue, 2, attempt, turn=0) == before[1]
    assert (await train(queue, 3, attempt, turn=1)).ordinals == (4, 5)
    assert not again.done()
    again.cancel()
    assert queue.account()["trained"] == 6


async def test_a_later_group_of_another_size_shares_the_same_rows(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1)
    alone = await queue.claim(0, 1, 0, 1, attempt)
    attempt, _ = await queue.begin()
    together = [await queue.claim(0, 1, rank, 3, attempt) for rank in range(3)]

    def rows(*shares: Assignment) -> list[tuple[int, int, int, float]]:
        works = [share for share in shares if isinstance(share, Work)]
        return sorted((work.ordinals[row.group], *row[1:]) for work in works for row in work.rows)

    assert rows(alone) == rows(*together) and len(rows(alone)) == 4


async def test_an_earlier_group_is_fenced_even_where_it_already_waits(queue: ReplayQueue) -> None:
    old, _ = await queue.begin()
    claim = await waiting(queue.claim(0, 1, 0, 1, old))
    new, _ = await queue.begin()
    await fill(queue, 0, 1)
    for late in (claim, queue.claim(0, 1, 0, 1, old), queue.ack(StepResult(1, {}), "digest", old), queue.confirm(0, 0, "digest", old)):
        with pytest.raises(StaleAttempt):
            await late
    assert queue.account()["ready"] == 2
    assert isinstance(await queue.claim(0, 1, 0, 1, new), Work)


async def test_a_restarted_driver_goes_on_from_the_checkpoint(make: Make, tmp_path: Path) -> None:
    queue, later = await make(), tmp_path / "later.jsonl"
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1, 2, 3)
    await train(queue, 1, attempt, turn=0)
    snapshot = json.loads(json.dumps((await queue.snapshot(attempt)).ledger))
    await train(queue, 2, attempt, turn=1)
    await queue.admit([4, 5])

    resumed = await make(snapshot, 1, session="second", history=later)
    assert await resumed.resume_point() == ([2, 3], 4)
    attempt, _ = await resumed.begin()
    await fill(resumed, 2, 3, version=1)
    assert (await train(resumed, 2, attempt, turn=0)).ordinals == (2, 3)
    assert events(later)[0] == ("resumed", 1)


# --- prompts -------------------------------------------------------------------------------------------------------------------


async def test_a_group_that_comes_twice_is_taken_once_and_one_that_nobody_asked_for_is_refused(queue: ReplayQueue) -> None:
    await fill(queue, 0)
    assert await put(queue, 0)
    with pytest.raises(LedgerError):
        await put(queue, 7)
    assert queue.metrics()["queue/depth"] == 1


async def test_a_dropped_prompt_is_gone_with_its_reason(queue: ReplayQueue, history: Path) -> None:
    await queue.admit([0, 1])
    await put(queue, 0)
    await queue.drop(0, "poison")
    await queue.drop(1, "stale")
    assert queue.metrics() == {
        "queue/depth": 0,
        "queue/claimed": 0,
        "generation/running": 0,
        "ledger/trained": 0,
        "ledger/dropped": 2,
        "weights/failures": 0,
        "generation/engines_lost": 0,
        "learner/attempts": 0,
    }
    assert json.loads(history.read_text().splitlines()[-1])["reason"] == "stale"


async def test_lost_work_is_admitted_again_and_comes_back_once(queue: ReplayQueue) -> None:
    await fill(queue, 0)
    await queue.admit([0])
    assert (queue.metrics()["queue/depth"], queue.metrics()["generation/running"]) == (0, 1)
    await put(queue, 0)
    assert (queue.metrics()["queue/depth"], queue.metrics()["generation/running"]) == (1, 0)


async def test_a_full_queue_makes_whoever_fills_it_wait(make: Make) -> None:
    queue = await make(capacity=2)
    attempt, _ = await queue.begin()
    await queue.admit([0, 1, 2])
    await put(queue, 0)
    await put(queue, 1)
    late = await waiting(put(queue, 2))
    assert isinstance(await queue.claim(0, 1, 0, 1, attempt), Work)
    await late
    assert queue.metrics()["queue/depth"] == 1


async def test_the_history_tells_every_life_in_order(queue: ReplayQueue, history: Path) -> None:
    attempt, _ = await queue.begin()
    await queue.admit([0, 1, 2])
    for ordinal in (1, 0):
        await put(queue, ordinal)
    await queue.drop(2, "stale")
    await train(queue, 1, attempt, turn=0)
    await queue.commit(1, attempt)
    await queue.close()
    assert events(history) == [
        ("started", 0),
        ("learner", 0),
        ("admitted", [0, 1, 2]),
        ("ready", [1]),
        ("ready", [0]),
        ("dropped", [2]),
        ("claimed", [0, 1]),
        ("trained", [0, 1]),
        ("published", None),
        ("committed", 1),
        ("closed", None),
    ]


# --- dynamic sampling ----------------------------------------------------------------------------------------------------------

ALIKE: dict[str, Any] = {"scores": (1.0, 1.0), "outcomes": (Outcome.RIGHT, Outcome.RIGHT)}


@pytest.mark.parametrize(
    "changes",
    [
        ALIKE,
        {"scores": (0.0, 0.0), "outcomes": (Outcome.WRONG, Outcome.UNPARSEABLE)},
        {"scores": (1.0, 0.0), "outcomes": (Outcome.RIGHT, Outcome.TIMEOUT)},
        {"scores": (1.0, 0.0), "outcomes": (Outcome.CRASH, Outcome.OOM)},
        {**ALIKE, "kl": (0.1, 0.7)},
    ],
)
async def test_a_group_with_nothing_to_compare_is_filtered_on_arrival(make: Make, history: Path, changes: dict[str, Any]) -> None:
    queue = await make(dynamic_sampling=True)
    await queue.admit([0, 1])
    assert await put(queue, 1)
    assert not await put(queue, 0, **changes)
    assert queue.metrics()["queue/depth"] == 1 and queue.metrics()["generation/running"] == 0
    assert queue.account()["dropped"] == queue.metrics()["ledger/dropped"] == 1
    last = json.loads(history.read_text().splitlines()[-1])
    assert (last["event"], last["ordinals"], last["reason"]) == ("dropped", [0], "filtered")


async def test_without_dynamic_sampling_every_group_is_kept(queue: ReplayQueue) -> None:
    await queue.admit([0])
    assert await put(queue, 0, **ALIKE)
    assert queue.account()["ready"] == 1


async def test_a_step_is_filled_with_what_was_kept_and_says_what_was_not(make: Make) -> None:
    queue = await make(dynamic_sampling=True)
    attempt, _ = await queue.begin()
    await queue.admit([0, 1, 2, 3])
    claim = await waiting(queue.claim(0, 1, 0, 1, attempt))
    assert [await put(queue, 0, **ALIKE), await put(queue, 1), await put(queue, 2, **ALIKE)] == [False, True, False]
    assert not claim.done()
    await put(queue, 3)
    work = await claim
    assert isinstance(work, Work) and work.ordinals == (1, 3)
    assert work.metrics["reward/filtered_groups"] == 2
    await queue.ack(StepResult(1, {}), "digest", attempt)
    await fill(queue, 4, 5, version=1)
    later = await queue.claim(1, 2, 0, 1, attempt)
    assert isinstance(later, Work) and later.metrics["reward/filtered_groups"] == 0


async def test_a_dropped_old_group_holds_the_young_up_no_longer(make: Make) -> None:
    queue = await make(dynamic_sampling=True, max_staleness=0)
    attempt, _ = await queue.begin()
    await queue.admit([0, 1])
    await put(queue, 0)
    await queue.confirm(0, 1, "digest", attempt)  # from here on admitted prompts are younger
    await queue.admit([2])
    claim = await waiting(queue.claim(0, 2, 0, 1, attempt))
    await put(queue, 2, version=1)
    await asyncio.sleep(0)
    assert not claim.done()
    await put(queue, 1, **ALIKE)
    work = await claim
    assert isinstance(work, Work) and work.ordinals == (0, 2)


async def test_a_filtered_group_needs_no_room(make: Make) -> None:
    queue = await make(dynamic_sampling=True, capacity=1)
    await queue.admit([0, 1])
    await put(queue, 0)
    assert not await put(queue, 1, **ALIKE)


async def test_a_restart_asks_again_for_what_was_filtered_after_its_checkpoint(make: Make, tmp_path: Path) -> None:
    """The run then goes on as if it had not been broken: the same prompts under the same version, so the same ones filtered."""
    queue = await make(dynamic_sampling=True)
    attempt, _ = await queue.begin()
    await queue.admit([0, 1, 2])
    await put(queue, 0, **ALIKE)
    await put(queue, 1)
    await put(queue, 2)
    await train(queue, 1, attempt, turn=0)
    await queue.admit([3, 4])
    await put(queue, 3, 1, **ALIKE)
    await queue.admit([5])
    snapshot = json.loads(json.dumps((await queue.snapshot(attempt)).ledger))

    resumed = await make(snapshot, 1, session="second", history=tmp_path / "later.jsonl", dynamic_sampling=True)
    assert await resumed.resume_point() == ([3, 4, 5], 6)
    assert (resumed.account()["dropped"], resumed.account()["trained"]) == (1, 2)


# --- the end -------------------------------------------------------------------------------------------------------------------


async def test_closing_wakes_everyone_who_waits(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await queue.set_engines(["engine"], 1)
    await queue.claim(0, 1, 0, 1, attempt)
    waiters = [await waiting(wait) for wait in (queue.claim(1, 1, 0, 1, attempt), queue.synced(), queue.next_published(0))]
    await queue.close()
    claim, sync, published = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(claim, QueueClosed) and isinstance(sync, QueueClosed) and published is None


async def test_what_was_published_before_the_end_is_still_told(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1)
    await train(queue, 1, attempt, turn=0)
    await queue.close()
    assert await queue.next_published(0) is not None
    assert await queue.next_published(1) is None


async def test_a_learner_group_that_gave_up_is_heard_by_the_conductor_and_the_rest_find_the_queue_closed(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    waiting = asyncio.create_task(queue.next_published(0))
    await asyncio.sleep(0)
    with pytest.raises(StaleAttempt):
        await queue.fail(TrainingDiverged("step 1: not finite"), attempt - 1)
    await queue.fail(TrainingDiverged("step 1: not finite"), attempt)
    with pytest.raises(TrainingDiverged, match="step 1: not finite"):
        await waiting
    with pytest.raises(QueueClosed):
        await queue.claim(0, 1, 0, 1, attempt)


async def test_a_closed_queue_refuses_by_name_whatever_comes(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1, 2)
    await queue.claim(0, 1, 0, 1, attempt)
    await queue.close()
    await queue.close()
    late = (
        queue.admit([9]),
        put(queue, 2),
        queue.drop(2, "late"),
        queue.begin(),
        queue.claim(0, 1, 0, 1, attempt),
        queue.ack(StepResult(1, {}), "digest", attempt),
        queue.confirm(0, 0, "digest", attempt),
        queue.commit(1, attempt),
        queue.synced(),
    )
    for call in late:
        with pytest.raises(QueueClosed):
            await call


# --- a queue whose process died ------------------------------------------------------------------------------------------------


def owned(*ordinals: int, version: int = 0) -> dict[int, Any]:
    """Groups as the driver keeps them."""
    return {ordinal: (meta(ordinal, version), [f"ref {ordinal}"]) for ordinal in ordinals}


async def test_a_rebuilt_queue_stands_where_the_dead_one_stood(make: Make, history: Path) -> None:
    dead = await make()
    await dead.set_engines(["engine"], 1)
    attempt, _ = await dead.begin()
    assert isinstance(await dead.claim(0, 1, 0, 1, attempt), Resync)
    await dead.confirm(1, 0, "digest", attempt)
    await fill(dead, 0, 1, 2, 3, 4)
    await train(dead, 1, attempt, turn=1)
    shares = [await dead.claim(2, 2, rank, 2, attempt) for rank in range(2)]
    await dead.admit([5])

    own = Belongings(owned(0, 1, 2, 3, 4), engines=["engine"], epoch=1)
    rebuilt = await make(own=own)
    assert [await rebuilt.claim(2, 2, rank, 2, attempt) for rank in range(2)] == shares
    assert rebuilt.metrics() == dead.metrics() and rebuilt.account() == dead.account()
    assert await rebuilt.synced(1) == 1
    with pytest.raises(StaleAttempt):
        await rebuilt.claim(2, 2, 0, 2, attempt - 1)
    assert await put(rebuilt, 4) and await put(rebuilt, 5)  # the first came once already, and its answer was lost
    await rebuilt.ack(StepResult(2, {}), "digest", attempt)
    assert (await train(rebuilt, 3, attempt, turn=3)).ordinals == (4, 5)

    lines = [json.loads(line) for line in history.read_text().splitlines()]
    assert [line["number"] for line in lines if line["event"] == "published"] == [1, 2, 3, 4]
    assert [line["ordinals"] for line in lines if line["event"] == "ready"] == [[ordinal] for ordinal in range(6)]
    assert [line["event"] for line in lines].count("rebuilt") == 1
    assert audit(lines, max_staleness=3).violations == ()


async def test_a_rebuilt_queue_still_tells_what_the_conductor_had_not_heard(make: Make) -> None:
    dead = await make()
    attempt, _ = await dead.begin()
    await fill(dead, 0, 1, 2, 3)
    for step in (1, 2):
        await train(dead, step, attempt, turn=step - 1)
    assert await dead.next_published(0)
    told = await dead.next_published(1)
    await dead.commit(2, attempt)

    rebuilt = await make(own=Belongings(owned(0, 1, 2, 3)))
    again = await rebuilt.next_published(1)
    assert told is not None and again is not None
    assert (again.step, again.frozen.ordinals, again.committed) == (2, (2, 3), 2)
    assert again.result == told.result


async def test_a_rebuilt_queue_lets_no_step_pass_a_publication_that_failed(make: Make) -> None:
    dead = await make()
    await dead.set_engines(["old"], 1)
    attempt, _ = await dead.begin()
    await fill(dead, 0, 1)
    await dead.claim(0, 1, 0, 1, attempt)
    await dead.unsynced(1, WeightSyncError("gone", engine=0, phase="send", version=0), attempt)

    rebuilt = await make(own=Belongings(owned(0, 1), engines=["old"], epoch=1))
    claim = asyncio.ensure_future(rebuilt.claim(1, 1, 0, 1, attempt))
    found = await rebuilt.next_unsynced(0)
    assert found is not None and (found[0], found[1].engine, found[1].phase) == (1, 0, "send")
    assert not claim.done()
    await rebuilt.set_engines(["new"], 2)
    assert await claim == Resync(2, ("new",))


async def test_a_rebuilt_queue_knows_why_the_run_ended(make: Make) -> None:
    dead = await make()
    attempt, _ = await dead.begin()
    await dead.fail(TrainingDiverged("too far"), attempt)
    rebuilt = await make()
    assert "TrainingDiverged: too far" in str(rebuilt.failure())
    with pytest.raises(QueueClosed):
        await rebuilt.admit([0])
    await rebuilt.closed()


async def test_an_old_queue_and_a_new_one_never_write_at_once(make: Make, history: Path) -> None:
    old = History(history)
    with pytest.raises(GmpoError, match="still writes"):
        History(history, wait_s=0.1)
    old.close()
    await make()


async def test_nobody_is_answered_before_the_driver_has_given_what_it_owns(make: Make, tmp_path: Path) -> None:
    dead = await make()
    attempt, _ = await dead.begin()
    await fill(dead, 0, 1)
    work = await dead.claim(0, 1, 0, 1, attempt)
    dead._history.close()
    dead._closed = True
    rebuilt = ReplayQueue(dead._spec)
    with pytest.raises(QueueLost):
        await rebuilt.closed()
    claim = await waiting(rebuilt.claim(0, 1, 0, 1, attempt))
    await rebuilt.begin_with(Belongings(owned(0, 1)))
    assert await claim == work
    await rebuilt.close()


# --- a driver that goes on -----------------------------------------------------------------------------------------------------


async def three_steps(make: Make, *arrivals: int) -> list[Work]:
    """What an earlier driver trained on, its prompts having come in this order."""
    first = await make()
    attempt, _ = await first.begin()
    await fill(first, *arrivals)
    trained = [await train(first, step, attempt, turn=step - 1) for step in (1, 2, 3)]
    await first.close()
    return trained


async def test_recorded_steps_are_claimed_unchanged_and_those_not_recorded_are_forgotten(make: Make, history: Path) -> None:
    before = await three_steps(make, 1, 3, 0, 2, 4, 5)

    recorded = {step: Claim(before[step - 1].ordinals, 0) for step in (1, 2)}
    second = await make(session="second", own=Belongings(owned(0, 1, 2, 3), recorded))
    assert await second.resume_point() == ([], 4)
    attempt, _ = await second.begin()
    await fill(second, 4, 5)
    again = [await train(second, step, attempt, turn=step - 1) for step in (1, 2, 3)]
    assert [work.ordinals for work in again] == [(0, 1), (2, 3), (4, 5)]
    assert again[:2] == before[:2]
    assert [found for found in events(history) if found[0] == "forgotten"] == [("forgotten", 3)]
    assert audit(read(history), max_staleness=3).violations == ()


async def test_when_groups_of_a_recorded_step_are_lost_it_and_the_later_ones_are_frozen_anew(make: Make, history: Path) -> None:
    before = await three_steps(make, 0, 1, 2, 3, 4, 5)

    recorded = {step: Claim(work.ordinals, 0) for step, work in enumerate(before, 1)}
    own = Belongings(owned(0, 1, 2, 3, 4, 5), recorded)
    second = await make(session="second", own=own)
    attempt, _ = await second.begin()
    await train(second, 1, attempt, turn=0)
    await second.claim(1, 2, 0, 1, attempt)
    await second.lost(2, [3], attempt)

    rebuilt = await make(session="second", own=own)  # its process dies now, and the driver still holds what was recorded
    await put(rebuilt, 3)
    assert [(await train(rebuilt, step, attempt, turn=step)).ordinals for step in (2, 3)] == [(2, 3), (4, 5)]
    covering = await waiting(rebuilt.coverable(2, attempt))  # the old record holds no longer
    await rebuilt.recorded(2)
    await covering
    assert [found for found in events(history) if found[0] == "forgotten"] == [("forgotten", 2)]
    assert audit(read(history), max_staleness=3).violations == ()


async def test_recorded_steps_can_be_covered_before_any_engine_is_there(make: Make) -> None:
    """Their checkpoint must not wait for the conductor, which waits for the engines, which wait for the learner that saves it."""
    queue = await make(own=Belongings(owned(0, 1, 2, 3), {1: Claim((0, 1), 0), 2: Claim((2, 3), 0)}))
    attempt, _ = await queue.begin()
    for step in (1, 2):
        await train(queue, step, attempt, turn=step - 1)
        await queue.coverable(step, attempt)
        await queue.commit(step, attempt)
    await fill(queue, 4, 5, version=2)
    await train(queue, 3, attempt, turn=2)
    covering = await waiting(queue.coverable(3, attempt))
    await queue.recorded(3)
    await covering


async def test_recorded_groups_take_no_room_from_new_ones(make: Make) -> None:
    second = await make(own=Belongings(owned(0, 1), {1: Claim((0, 1), 0)}), capacity=1)
    await fill(second, 2)
    assert second.metrics()["queue/depth"] == 3


# --- publications that fail ----------------------------------------------------------------------------------------------------


async def test_after_a_failed_publication_every_claim_waits_for_other_engines(queue: ReplayQueue, history: Path) -> None:
    await queue.set_engines(["old"], 1)
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1)
    failed = await waiting(queue.next_unsynced(0))
    await queue.claim(0, 1, 0, 2, attempt)
    error = WeightSyncError("gone", engine=1, phase="send", version=0)
    await queue.unsynced(1, error, attempt)
    await queue.unsynced(1, error, attempt)  # an answer was lost
    found = await failed
    assert found is not None and (found[0], str(found[1])) == (1, str(error))
    claims = [await waiting(queue.claim(1, 1, rank, 2, attempt)) for rank in range(2)]
    await queue.set_engines(["late"], 1)
    await asyncio.sleep(0)
    assert not any(claim.done() for claim in claims)
    await queue.set_engines(["new"], 2)
    assert await asyncio.gather(*claims) == [Resync(2, ("new",))] * 2
    assert [name for name, _ in events(history)].count("unsynced") == 1


# --- groups that are lost, or late ---------------------------------------------------------------------------------------------


async def test_lost_groups_are_recalled_and_the_others_of_their_step_are_ready_again(queue: ReplayQueue, history: Path) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1)
    assert isinstance(await queue.claim(0, 1, 0, 1, attempt), Work)
    recalls = await waiting(queue.next_recalls(0))
    await queue.lost(1, [1], attempt)
    assert await recalls == [Recall(1, "lost")]
    assert queue.account()["ready"] == queue.account()["admitted"] == 1
    claim = await waiting(queue.claim(1, 1, 0, 1, attempt))
    await put(queue, 1)
    work = await claim
    assert isinstance(work, Work) and work.ordinals == (0, 1)
    await queue.ack(StepResult(1, {}), "digest", attempt)
    assert audit(read(history), max_staleness=1).violations == ()


async def test_a_step_that_was_trained_cannot_be_made_anew(queue: ReplayQueue) -> None:
    attempt, _ = await queue.begin()
    await fill(queue, 0, 1)
    await train(queue, 1, attempt, turn=0)
    attempt, _ = await queue.begin()
    assert isinstance(await queue.claim(0, 1, 0, 1, attempt), Work)
    with pytest.raises(LostGroup, match="step 1"):
        await queue.lost(1, [1], attempt)
    assert queue.account()["trained"] == 2


async def test_patience_begins_when_nothing_else_holds_the_step_back_and_ends_once_for_all_who_wait(make: Make) -> None:
    queue = await make(max_staleness=0, stale_after_s=0.3)
    attempt, _ = await queue.begin()
    await queue.admit([0, 1])
    await queue.confirm(0, 1, "digest", attempt)
    await queue.admit([2, 3])
    claims = [asyncio.ensure_future(queue.claim(0, 2, 0, 1, attempt)) for _ in range(4)]  # calls that were made again
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await fill(queue, 4, 5, version=1)
    recalls = await queue.next_recalls(0)
    assert time.monotonic() - began >= 0.3
    assert [recall.ordinal for recall in recalls] == [0, 1]
    assert {recall.ordinal for recall in queue._news.recalls} == {0, 1}  # not the younger ones, which had no time yet
    assert {work.ordinals for work in await asyncio.gather(*claims)} == {(4, 5)}


async def test_what_left_the_run_does_not_enter_it_again(queue: ReplayQueue) -> None:
    await queue.admit([0])
    await queue.drop(0, "poisoned")
    await queue.admit([0, 1])
    assert (queue.account()["dropped"], queue.account()["admitted"]) == (1, 1)


async def test_what_holds_a_full_step_back_is_dropped_as_stale_after_the_deadline(make: Make, history: Path) -> None:
    queue = await make(max_staleness=0, stale_after_s=0.01)
    attempt, _ = await queue.begin()
    await queue.admit([0, 1])
    await put(queue, 0)
    await queue.confirm(0, 1, "digest", attempt)  # from here on admitted prompts are younger
    await queue.admit([2])
    claim = asyncio.ensure_future(queue.claim(0, 2, 0, 1, attempt))
    recalls = await waiting(queue.next_recalls(0))
    await asyncio.wait({claim}, timeout=0.1)
    assert not claim.done() and not recalls.done()  # the step is not full, so none is held back
    await put(queue, 2, version=1)
    assert await recalls == [Recall(1, "stale")]
    work = await claim
    assert isinstance(work, Work) and work.ordinals == (0, 2)
    assert not await put(queue, 1)  # it came too late
    assert queue.account()["dropped"] == 1
    dropped = [line for line in read(history) if line["event"] == "dropped"]
    assert [(line["ordinals"], line["reason"]) for line in dropped] == [([1], "stale")]


# --- every group as old as the bound ---------------------------------------------------------------------------------------------


@pytest.fixture
async def exact(make: Make) -> ReplayQueue:
    """The age of every group is 1, in a run of 3 steps; its engines have version 0."""
    queue = await make(exact_staleness=True, steps=3, stale_after_s=0.05)
    await queue.set_engines(["engine"], 1)
    attempt, _ = await queue.begin()
    assert isinstance(await queue.claim(0, 1, 0, 1, attempt), Resync)
    await queue.confirm(1, 0, "digest", attempt)
    return queue


async def ordinals(claim: asyncio.Task[Assignment]) -> tuple[int, ...]:
    """Of the step that a claim was answered with."""
    work = await claim
    assert isinstance(work, Work)
    return work.ordinals


async def test_a_step_waits_until_the_version_before_it_has_sampled_all_that_the_bound_admits(exact: ReplayQueue) -> None:
    await fill(exact, 0, 1)
    first = await waiting(exact.claim(1, 1, 0, 1, 1))
    await fill(exact, 3, 2)
    assert await ordinals(first) == (0, 1)
    await exact.ack(StepResult(1, {}), "digest", 1)
    second = await waiting(exact.claim(2, 2, 0, 1, 1))  # nothing is under way, but will be
    await fill(exact, 4, version=1)
    assert not second.done()
    await fill(exact, 5, version=1)
    assert await ordinals(second) == (2, 3)
    await exact.ack(StepResult(2, {}), "digest", 1)
    assert (await train(exact, 3, 1, turn=3)).ordinals == (4, 5)  # no more will come


async def test_what_takes_the_place_of_the_stale_has_twice_as_long(exact: ReplayQueue) -> None:
    began = time.monotonic()
    claim = asyncio.ensure_future(exact.claim(1, 1, 0, 1, 1))
    await fill(exact, 0, 1, 2)
    await exact.admit([3])
    assert await exact.next_recalls(0) == [Recall(3, "stale")]
    await exact.admit([4])
    assert await exact.next_recalls(1) == [Recall(4, "stale")]
    assert time.monotonic() - began >= 3 * 0.05
    await fill(exact, 5)
    assert isinstance(await claim, Work)


async def test_a_learner_group_that_comes_back_waits_for_the_step_that_is_being_sampled(exact: ReplayQueue) -> None:
    await fill(exact, 0, 1, 2)
    await exact.admit([3])
    attempt, _ = await exact.begin()
    assert await exact.synced(1) == 0, "whoever waits for the engines to be ready is not to wait for the learner"
    claim = await waiting(exact.claim(0, 1, 0, 1, attempt))
    await exact.drop(3, "poisoned")  # another will take its place
    await asyncio.wait({claim}, timeout=0.02)
    assert not claim.done()
    await fill(exact, 4)
    assert isinstance(await claim, Resync)


async def test_engines_without_a_version_are_sent_one_though_prompts_wait_for_them(exact: ReplayQueue) -> None:
    await fill(exact, 0, 1, 2)
    await exact.admit([3])
    attempt, _ = await exact.begin()
    claim = await waiting(exact.claim(0, 1, 0, 1, attempt))
    await exact.set_engines(["another"], 2)
    assert await claim == Resync(2, ("another",))
