from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from actors.weights.groups import GlooGroup

SENT = [torch.arange(1000, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8), torch.full((70_000,), 7, dtype=torch.uint8)]


@pytest.fixture
def port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def on_every_rank(size: int, work: Callable[[int], list[torch.Tensor]]) -> list[list[torch.Tensor]]:
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(work, range(size)))


@pytest.mark.parametrize("size", [1, 3])
def test_everyone_receives_the_bytes_of_rank_0_in_order(port: int, size: int) -> None:
    def take_part(rank: int) -> list[torch.Tensor]:
        group = GlooGroup("127.0.0.1", port, rank, size, connect_timeout_s=30, send_timeout_s=30)
        buffers = [tensor.clone() if rank == 0 else torch.empty_like(tensor) for tensor in SENT]
        for buffer in buffers:
            group.broadcast(buffer)
        group.close()
        return buffers

    for received in on_every_rank(size, take_part):
        for buffer, sent in zip(received, SENT, strict=True):
            assert torch.equal(buffer, sent)


def test_a_member_that_stays_away_ends_the_wait(port: int) -> None:
    with pytest.raises(RuntimeError):
        GlooGroup("127.0.0.1", port, 0, 2, connect_timeout_s=0.5, send_timeout_s=30)


def test_a_group_can_follow_another_in_the_same_process(port: int) -> None:
    for _ in range(2):
        group = GlooGroup("127.0.0.1", port, 0, 1, connect_timeout_s=30, send_timeout_s=30)
        group.broadcast(torch.ones(3, dtype=torch.uint8))
        group.close()
        del group


def test_a_member_that_does_not_receive_ends_the_wait_after_its_own_deadline(port: int) -> None:
    def join(rank: int) -> GlooGroup:
        return GlooGroup("127.0.0.1", port, rank, 2, connect_timeout_s=30, send_timeout_s=0.5)

    with ThreadPoolExecutor(2) as threads:
        sender, _silent = threads.map(join, range(2))
    with pytest.raises(RuntimeError):
        sender.broadcast(torch.ones(10, dtype=torch.uint8))
