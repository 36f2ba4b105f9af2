"""One stage over a pool whose processes die under it: who is blamed, who is tried again, who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import ObjectLostError, RayActorError

from actors.errors import EngineError, PoisonedPrompt, VerifierError
from actors.types import Prompt
from services.training.pool import Member, Pool
from services.training.stages import Stages
from tests.unit.training.members import make_pool, task_error

Work = Callable[[int, str], Any]
"""(ordinal, name of the member) -> what the stage gives, or raises."""


class Bench:
    """A pool of two, and a stage that does `work`. Whoever is suspected is looked at at once."""

    def __init__(self, work: Work, *, deaths: int = 2, members: tuple[str, ...] = ("a", "b")) -> None:
        self.pool, self.processes = make_pool(*members, events=[])
        self.work, self.stages = work, Stages(deaths)
        self.tried: list[tuple[int, str]] = []
        self.suspected: list[int] = []
        for member in self.pool.members:
            member.up = True
        self.lively = False  # calls are lost, and no process dies
        self.pool.died = self._died  # type: ignore[method-assign]

    async def _died(self, member: Member, deaths: int) -> bool:
        self.suspected.append(member.index)
        return not member.ended and not self.lively

    async def run(self, ordinal: int) -> Any:
        prompt = Prompt(ordinal, "math", np.zeros(1, dtype=np.int32), "1", "", f"file#{ordinal}")
        found, _ = await self.stages.run(prompt, self.pool, lambda handle: self._call(ordinal, handle))
        return found

    def _call(self, ordinal: int, handle: Any) -> tuple[asyncio.Future[Any], str]:
        self.tried.append((ordinal, handle._target.name))
        return asyncio.ensure_future(self._work(ordinal, handle._target.name)), "payload"

    async def _work(self, ordinal: int, name: str) -> Any:
        result = self.work(ordinal, name)
        if isinstance(result, Exception):
            raise result
        return await result if asyncio.iscoroutine(result) else result


def in_turn(*results: Any) -> Work:
    """Each try gives the next of these."""
    left = list(results)
    return lambda *_: left.pop(0)


@pytest.mark.parametrize("death", [RayActorError(), task_error(EngineError("the core is gone"))])
async def test_a_prompt_whose_process_died_is_tried_again_and_the_process_looked_at(death: Exception) -> None:
    bench = Bench(in_turn(death, "done"))
    assert await bench.run(0) == "done"
    assert len(bench.tried) == 2 and bench.suspected == [0]


async def test_a_prompt_under_which_too_many_processes_died_is_poisoned() -> None:
    bench = Bench(in_turn(RayActorError(), RayActorError()))
    with pytest.raises(PoisonedPrompt, match=r"2 processes died under prompt 7 \(file#7\)"):
        await bench.run(7)


async def test_deaths_that_we_caused_ourselves_are_nobodys_fault() -> None:
    bench = Bench(in_turn(*[RayActorError()] * 5, "done"))
    for member in bench.pool.members:
        member.ended = True
    assert await bench.run(0) == "done"
    assert len(bench.suspected) == 5


async def test_a_call_that_was_lost_is_no_death() -> None:
    bench = Bench(in_turn(*[RayActorError()] * 5, "done"))
    bench.lively = True
    assert await bench.run(0) == "done"


async def test_whoever_came_through_begins_anew() -> None:
    """Each stage, and each prompt's next turn, is judged for itself."""
    bench = Bench(in_turn(RayActorError(), "generated", RayActorError(), "verified"))
    assert await bench.run(0) == "generated"
    assert await bench.run(0) == "verified"


async def test_one_prompts_deaths_are_not_anothers() -> None:
    bench = Bench(in_turn(RayActorError(), RayActorError(), "0", "1"))
    assert list(await asyncio.gather(bench.run(0), bench.run(1))) == ["0", "1"]


async def test_prompts_under_suspicion_go_one_at_a_time_and_the_others_are_not_held_up() -> None:
    gates = {ordinal: asyncio.Event() for ordinal in range(2)}
    seen: list[int] = []

    async def wait(ordinal: int) -> str:
        await gates[ordinal].wait()
        return "done"

    def work(ordinal: int, name: str) -> Any:
        seen.append(ordinal)
        if ordinal == 2:
            return "done"
        return wait(ordinal) if seen.count(ordinal) > 1 else RayActorError()

    bench = Bench(work)
    suspects = [asyncio.create_task(bench.run(ordinal)) for ordinal in range(2)]
    while seen != [0, 1, 0]:
        await asyncio.sleep(0)
    assert await bench.run(2) == "done"
    assert seen == [0, 1, 0, 2]  # prompt 1 waits for prompt 0
    gates[0].set()
    gates[1].set()
    assert list(await asyncio.gather(*suspects)) == ["done", "done"]


async def test_one_death_holds_nobody_up_where_more_are_needed_for_a_verdict() -> None:
    begun: list[int] = []
    gate = asyncio.Event()

    async def wait() -> str:
        await gate.wait()
        return "done"

    def work(ordinal: int, name: str) -> Any:
        begun.append(ordinal)
        return wait() if begun.count(ordinal) > 1 else RayActorError()

    bench = Bench(work, deaths=3)
    prompts = [asyncio.create_task(bench.run(ordinal)) for ordinal in range(4)]
    while len(begun) < 8:  # all four are tried again before any has come through
        await asyncio.sleep(0)
    gate.set()
    assert set(await asyncio.gather(*prompts)) == {"done"}


async def test_once_the_cause_is_found_the_others_are_free_of_suspicion() -> None:
    seen: list[int] = []

    def work(ordinal: int, name: str) -> Any:
        seen.append(ordinal)
        return RayActorError() if ordinal == 0 or seen.count(ordinal) == 1 else "done"

    bench = Bench(work)
    guilty, innocent = asyncio.create_task(bench.run(0)), asyncio.create_task(bench.run(1))
    with pytest.raises(PoisonedPrompt):
        await guilty
    assert await innocent == "done"
    assert not bench.stages._deaths


@pytest.mark.parametrize("error", [task_error(VerifierError("a bug")), ObjectLostError("00", None, "")])
async def test_what_is_no_death_is_raised_at_once(error: Exception) -> None:
    bench = Bench(in_turn(error))
    with pytest.raises(type(error)):
        await bench.run(0)
    assert bench.suspected == [] and len(bench.tried) == 1


async def test_giving_a_prompt_up_cancels_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cancel", lambda call: call.cancel())
    never = asyncio.Event()
    cancelled: list[int] = []

    async def wait() -> None:
        try:
            await never.wait()
        except asyncio.CancelledError:
            cancelled.append(0)
            raise

    bench = Bench(lambda *_: wait(), members=("a",))
    running = asyncio.create_task(bench.run(0))
    while not bench.tried or bench.pool.members[0].load == 0:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert cancelled == [0] and bench.pool.members[0].load == 0


async def test_the_first_try_is_on_the_wanted_member() -> None:
    bench = Bench(in_turn("done"))
    pool: Pool = bench.pool
    prompt = Prompt(0, "math", np.zeros(1, dtype=np.int32), "1", "", "file#0")
    await bench.stages.run(prompt, pool, lambda handle: bench._call(0, handle), on=pool.members[1])
    assert bench.tried == [(0, "b")]
