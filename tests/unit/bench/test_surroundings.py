from __future__ import annotations

import socket
from multiprocessing import shared_memory
from pathlib import Path

from services.bench.surroundings import control_recipe, received_bytes, touched_store_bytes


def test_what_comes_over_a_connection_is_counted_to_the_byte() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as sender, listener.accept()[0] as receiver:
            before = received_bytes()
            sender.sendall(bytes(10_000))
            received = 0
            while received < 10_000:
                received += len(receiver.recv(4_096))
            assert received_bytes() - before == 10_000


def test_pages_of_shared_memory_count_once_they_are_touched() -> None:
    memory = shared_memory.SharedMemory(create=True, size=2**20)
    try:
        before = touched_store_bytes()
        assert memory.buf is not None
        memory.buf[: 2**19] = bytes(2**19)
        assert 2**19 <= touched_store_bytes() - before < 2**20
    finally:
        memory.close()
        memory.unlink()


def test_the_recipe_admits_as_many_groups_as_the_benchmark_keeps_in_flight(tmp_path: Path) -> None:
    recipe = control_recipe(tmp_path, steps=3, prompts_per_step=50, max_staleness=4)
    assert recipe.outstanding == 250 and recipe.run_dir.parent == tmp_path
