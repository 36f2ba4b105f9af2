from __future__ import annotations

import asyncio

from services.training.admission import Admission


async def waiting(admission: Admission, count: int) -> asyncio.Task[None]:
    """A task that waits for `count` places."""
    task = asyncio.ensure_future(admission.admit(count))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_prompts_are_admitted_up_to_the_limit() -> None:
    admission = Admission(3, least=1)
    await admission.admit(2)
    await admission.admit(1)
    fourth = await waiting(admission, 1)
    await admission.free(1)
    await fourth


async def test_a_whole_step_waits_until_all_its_places_are_free() -> None:
    admission = Admission(4, least=4)
    await admission.admit(4)
    step = await waiting(admission, 4)
    await admission.free(3)
    await asyncio.sleep(0)
    assert not step.done()
    await admission.free(1)
    await step


async def test_places_that_come_free_serve_no_more_than_they_are() -> None:
    admission = Admission(2, least=1)
    await admission.admit(2)
    waiters = [await waiting(admission, 1) for _ in range(3)]
    await admission.free(2)
    await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)
    assert sum(waiter.done() for waiter in waiters) == 2
    await admission.free(1)
    await asyncio.gather(*waiters)


async def test_under_a_full_store_no_more_than_a_step_is_under_way() -> None:
    admission = Admission(8, least=4)
    await admission.press(True)
    await admission.admit(2)
    await admission.admit(2)  # with fewer no step would come together, and nothing be let go of
    more = await waiting(admission, 1)
    await admission.press(False)
    await more


async def test_places_may_be_taken_from_the_start() -> None:
    admission = Admission(4, least=1, taken=3)
    await admission.admit(1)
    more = await waiting(admission, 1)
    await admission.free(3)
    await more
