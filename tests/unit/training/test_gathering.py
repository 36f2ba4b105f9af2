from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.training.gathering import Gathering


async def test_what_comes_while_a_call_is_under_way_goes_out_together() -> None:
    lots: list[list[int]] = []
    gate = asyncio.Event()

    async def send(items: Sequence[int]) -> list[int]:
        lots.append(list(items))
        await gate.wait()
        return [10 * item for item in items]

    gathering = Gathering(send)
    first = asyncio.ensure_future(gathering(1))
    while not lots:
        await asyncio.sleep(0)
    others = [asyncio.ensure_future(gathering(item)) for item in (2, 3, 4)]
    await asyncio.sleep(0)
    others[1].cancel()  # whoever gives up takes nobody along
    gate.set()
    assert await first == 10
    assert [await others[0], await others[2]] == [20, 40]
    assert lots == [[1], [2, 3, 4]]


async def test_a_failure_reaches_all_of_its_lot_and_no_other() -> None:
    async def send(items: Sequence[int]) -> list[int]:
        if 0 in items:
            raise ValueError("refused")
        return list(items)

    gathering = Gathering(send)
    refused = await asyncio.gather(gathering(0), gathering(1), return_exceptions=True)
    assert [type(one) for one in refused] == [ValueError, ValueError]
    assert await gathering(2) == 2
    with pytest.raises(ValueError, match="refused"):
        await gathering(0)
