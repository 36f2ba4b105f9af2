"""The two ways bytes travel: a gloo group through host memory, an NCCL group between GPUs. Both broadcast from rank 0.

These groups stand outside torch's default process group, because learner ranks and engine workers belong to different jobs.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

_POLL_S = 0.0005


class BroadcastGroup(Protocol):
    """Rank 0 sends, all others receive into a buffer of the same size.

    Building one waits at most `connect_timeout_s` for all members, one broadcast at most `send_timeout_s`; then RuntimeError.
    """

    device: torch.device

    def broadcast(self, buffer: torch.Tensor) -> None:
        """Fill `buffer` ([bytes] uint8, contiguous, on `device`) with rank 0's; blocks until it may be used again."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class GlooGroup:
    """Broadcast through host memory; the only way on a CPU, and where learner and engine share one GPU."""

    def __init__(self, address: str, port: int, rank: int, size: int, *, connect_timeout_s: float, send_timeout_s: float) -> None:
        timeout = timedelta(seconds=connect_timeout_s)
        self._send_timeout = timedelta(seconds=send_timeout_s)
        self.device = torch.device("cpu")
        self._store = _store(address, port, size, is_master=rank == 0, timeout=timeout)
        self._group: Any = dist.ProcessGroupGloo(dist.PrefixStore("gmpo-weights", self._store), rank, size, timeout)

    def broadcast(self, buffer: torch.Tensor) -> None:
        """See BroadcastGroup."""
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = 0, 0, self._send_timeout
        self._group.broadcast([buffer], options).wait()

    def close(self) -> None:
        """See BroadcastGroup."""
        self._group.abort()


class NcclGroup:
    """Broadcast between GPUs over vLLM's stateless communicator. That knows no deadline: here the host watches, and aborts it.

    NCCL refuses two ranks on one device.
    """

    def __init__(self, address: str, port: int, rank: int, size: int, *, connect_timeout_s: float, send_timeout_s: float) -> None:
        from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
        from vllm.distributed.utils import StatelessProcessGroup

        self.device = torch.device("cuda", torch.cuda.current_device())
        store = StatelessProcessGroup.create(host=address, port=port, rank=rank, world_size=size, store_timeout=int(connect_timeout_s))
        self._communicator: Any = _within(connect_timeout_s, lambda: PyNcclCommunicator(store, device=self.device))
        self._send_timeout_s = send_timeout_s

    def broadcast(self, buffer: torch.Tensor) -> None:
        """See BroadcastGroup."""
        stream, done = torch.cuda.current_stream(), torch.cuda.Event()
        self._communicator.broadcast(buffer, src=0, stream=stream)
        done.record(stream)
        until = time.monotonic() + self._send_timeout_s
        while not done.query():
            if time.monotonic() > until:
                self.close()  # else the stream would wait for the dead for ever
                raise RuntimeError(f"an NCCL broadcast took longer than {self._send_timeout_s:g} s")
            time.sleep(_POLL_S)

    def close(self) -> None:
        """See BroadcastGroup."""
        self._communicator.destroy()


def _store(address: str, port: int, size: int, *, is_master: bool, timeout: timedelta) -> dist.TCPStore:
    """The members' meeting place. Its master listens on `address` alone; torch's own socket would listen on every network."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family).detach() if is_master else None  # from here on the store's to close
    return dist.TCPStore(address, port, size, is_master=is_master, timeout=timeout, wait_for_workers=False, master_listen_fd=listener)


def _within(seconds: float, make: Callable[[], Any]) -> Any:
    """What `make` makes, in a thread that is given up after so many seconds; RuntimeError then."""
    made: Future[Any] = Future()

    def run() -> None:
        try:
            made.set_result(make())
        except Exception as error:
            made.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return made.result(seconds)
    except FutureTimeoutError:
        raise RuntimeError(f"no NCCL group in {seconds:g} s") from None


GROUPS: dict[str, type[GlooGroup] | type[NcclGroup]] = {"gloo": GlooGroup, "nccl": NcclGroup}
