"""In which order driver and learner group go from run to run."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from actors.errors import StaleAttempt
from actors.learner.agenda import Board, OneRun


def run(name: str) -> Any:
    return SimpleNamespace(run=name)


async def test_the_group_waits_for_the_next_run_and_the_driver_for_the_group() -> None:
    board = Board()
    waiting = asyncio.create_task(board.next(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert await board.begin(run("first")) == 1 == await waiting
    assert (await board.spec(1)).run == "first"
    left = asyncio.create_task(board.left(1))
    assert await board.next(0) == 1  # the group was restarted: it takes the present run up again
    assert not left.done()
    waiting = asyncio.create_task(board.next(1))
    await left
    again = asyncio.create_task(board.next(0))  # a group that was restarted after it had left
    await asyncio.sleep(0)
    assert not waiting.done() and not again.done()
    assert await board.begin(run("second")) == 2 == await waiting == await again
    with pytest.raises(StaleAttempt):
        await board.spec(1)
    assert (await board.spec(2)).run == "second"
    waiting = asyncio.create_task(board.next(2))
    await board.finish()
    assert await waiting is None


async def test_who_comes_after_the_end_is_told_so() -> None:
    board = Board()
    await board.begin(run("only"))
    await board.finish()
    assert await board.next(0) == 1  # what was begun is finished
    assert await board.next(1) is None


def test_a_group_of_one_run_takes_it_up_again_after_a_restart_and_leaves_after_it() -> None:
    agenda = OneRun(run("only"))
    assert agenda.next(0) == agenda.next(0) == 1
    assert agenda.spec(1).run == "only"
    assert agenda.next(1) is None
