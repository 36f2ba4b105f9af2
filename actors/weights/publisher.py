"""The learner's half of a publication: rank 0 drives every engine through

    connect -> pause -> send -> commit -> resume -> probe        (connect only where the engines or the learner group are new)

Each phase has a deadline and an error that names engine, phase and version. The other ranks only take part in gathering; whatever
goes wrong on rank 0, it keeps drawing buckets to the end, so that nobody waits in a collective, and then tells all ranks. A failed
publication leaves engines paused with weights in parts, and the transport closed: nothing is sampled until `use` is called with the
engines that are to go on, and the version is published to all of them anew, whole.
"""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import ray
import torch

from actors.errors import WeightSyncError, WeightSyncMismatch, WeightSyncTimeout
from actors.weights.config import WeightsConfig
from actors.weights.groups import GROUPS, BroadcastGroup
from actors.weights.protocol import Digest, ParamSpec, buckets, pack, staging_buffer

LAST_WORDS_S = 5.0
"""Time the engines have to say what happened to them once the transport broke."""


class WeightStream(Protocol):
    """Where weights come from. Iterating is a collective of the learner group: all ranks iterate, in the same order."""

    def specs(self) -> Sequence[ParamSpec]:
        """Names, dtypes and shapes on the wire, in order; no communication."""
        ...

    def tensors(self) -> Iterator[torch.Tensor]:
        """The whole tensors, in that order, in their wire dtype."""
        ...


@dataclass(frozen=True, slots=True)
class Publication:
    """A version that every engine has confirmed."""

    digest: str  # of the bytes sent; empty on ranks other than 0
    metrics: dict[str, float]  # weights/*


class Publisher:
    """Sends policy versions to the engines. `transport` is "gloo" or "nccl"; `engines` are actor handles, meaningful on rank 0."""

    def __init__(self, config: WeightsConfig, transport: str, *, rank: int, tolerance: float) -> None:
        self._config = config
        self._transport = transport
        self._rank = rank
        self._tolerance = tolerance
        self._group: BroadcastGroup | None = None
        self._engines: tuple[Any, ...] = ()
        self._workers = 1

    def use(self, engines: Sequence[Any], workers: int) -> None:
        """These engines, of `workers` workers each, are sent what is published from now on. None at all: only the digest is made."""
        self.close()
        self._engines, self._workers = tuple(engines), workers

    def _connect(self, version: int) -> None:
        """Open a group of this rank and all workers. Independent engines count their workers from 0, so each is given its own offset."""
        engines, workers = self._engines, self._workers
        timeout_s, size = self._config.connect_timeout_s, 1 + workers * len(engines)
        address, port = ray.util.get_node_ip_address(), _free_port()
        info = {
            "address": address,
            "port": port,
            "size": size,
            "bucket_bytes": self._bucket_bytes,
            # The sender gives up first, and can tell who made it wait.
            "connect_timeout_s": timeout_s + LAST_WORDS_S,
            "send_timeout_s": self._config.send_timeout_s + LAST_WORDS_S,
        }
        joining = [engine.join.remote(info | {"rank_offset": 1 + index * workers}) for index, engine in enumerate(engines)]
        try:
            self._group = GROUPS[self._transport](
                address, port, 0, size, connect_timeout_s=timeout_s, send_timeout_s=self._config.send_timeout_s
            )
        except RuntimeError as error:
            self._await(joining, "connect", version, 0)  # whoever failed or stayed away says more
            raise WeightSyncError(str(error), engine="all", phase="connect", version=version) from error
        self._await(joining, "connect", version, timeout_s)

    def publish(
        self, version: int, weights: WeightStream, probe: tuple[list[int], Sequence[float]], synchronize: Callable[[str], str]
    ) -> Publication:
        """Put `weights` into every engine under the label `version`.

        probe: token ids [L] and the learner's log-probs [L - 1] of all but the first. synchronize: gives every rank rank 0's string.
        Raises WeightSyncError, the same on all ranks.
        """
        if self._rank != 0:
            for _ in weights.tensors():
                pass
            if failure := synchronize(""):
                raise pickle.loads(bytes.fromhex(failure))
            return Publication("", {})
        publication, error = Publication("", {}), None
        try:
            publication = self._publish(version, weights, probe)
        except WeightSyncError as caught:
            error = caught
        except Exception as caught:
            error = WeightSyncError(repr(caught), engine="all", phase="send", version=version)
            error.__cause__ = caught
        if error:
            self.close()  # whoever still waits for bytes learns that none will come
        synchronize(pickle.dumps(error).hex() if error else "")
        if error:
            raise error
        return publication

    def close(self) -> None:
        """Leave the group."""
        if self._group is not None:
            self._group.close()
            self._group = None

    @property
    def _bucket_bytes(self) -> int:
        return self._config.bucket_mib * 2**20

    def _publish(self, version: int, weights: WeightStream, probe: tuple[list[int], Sequence[float]]) -> Publication:
        control_s = self._config.control_timeout_s
        tensors = weights.tensors()
        try:
            clock = _Clock()
            if self._engines and self._group is None:
                self._connect(version)
            with clock("pause"):
                self._await([engine.pause.remote() for engine in self._engines], "pause", version, control_s)
                self._await([engine.begin_update.remote() for engine in self._engines], "pause", version, control_s)
            with clock("send"):
                digest = self._send(version, weights.specs(), tensors)
            with clock("commit"):
                commits = self._await([engine.commit.remote(version) for engine in self._engines], "commit", version, control_s)
                self._compare(version, digest, commits)
            with clock("resume"):
                self._await([engine.resume.remote() for engine in self._engines], "resume", version, control_s)
        finally:
            for _ in tensors:  # the other ranks are in the same collective: go through with it
                pass
        with clock("probe"):
            error = self._probe(version, probe)
        if not self._engines:
            return Publication(digest, clock.metrics())
        size_bytes = sum(spec.size_bytes for spec in weights.specs())
        figures = {
            "weights/bytes": float(size_bytes),
            "weights/bandwidth": size_bytes / clock.seconds["send"],
            "weights/probe_error": error,
            "weights/digest_ok": 1.0,
        }
        return Publication(digest, clock.metrics() | figures)

    def _send(self, version: int, specs: Sequence[ParamSpec], tensors: Iterator[torch.Tensor]) -> str:
        device = self._group.device if self._group else torch.device("cpu")
        params = [(spec.name, spec.dtype, list(spec.shape)) for spec in specs]
        receiving = [engine.receive.remote(params) for engine in self._engines]
        digest, staging = Digest(), staging_buffer(specs, self._bucket_bytes, device)
        for bucket in buckets(specs, self._bucket_bytes):
            buffer = pack([next(tensors) for _ in bucket], device, staging)
            try:
                if self._group:
                    self._group.broadcast(buffer)
            except RuntimeError as error:
                raise _cause(receiving, version, error) from error
            digest.update(buffer)
        self._await(receiving, "send", version, self._config.send_timeout_s)
        return digest.hexdigest()

    def _compare(self, version: int, digest: str, commits: Sequence[tuple[str, str]]) -> None:
        for index, (received, _) in enumerate(commits):
            if received != digest:
                raise WeightSyncMismatch(f"received {received}, sent {digest}", engine=index, phase="commit", version=version)
        if len({checksum for _, checksum in commits}) > 1:
            raise WeightSyncMismatch("engines hold different tensors", engine="all", phase="commit", version=version)

    def _probe(self, version: int, probe: tuple[list[int], Sequence[float]]) -> float:
        token_ids, expected = probe
        calls = [engine.probe.remote(token_ids) for engine in self._engines]
        worst = 0.0
        for index, found in enumerate(self._await(calls, "probe", version, self._config.control_timeout_s)):
            error = float(np.abs(np.subtract(expected, found)).mean())  # NaN if any is
            if not error <= self._tolerance:
                raise WeightSyncMismatch(f"probe log-probs differ by {error:.2e} on average", engine=index, phase="probe", version=version)
            worst = max(worst, error)
        return worst

    def _await(self, calls: Sequence[Any], phase: str, version: int, timeout_s: float) -> list[Any]:
        """The engines' answers, in their order. The first failure ends the wait: the others may be waiting for the one that failed."""
        deadline = time.monotonic() + timeout_s
        waiting = {call: index for index, call in enumerate(calls)}
        results: list[Any] = [None] * len(calls)
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                late = sorted(waiting.values())
                culprit = late[0] if len(late) == 1 else "all"
                raise WeightSyncTimeout(f"no answer of {late} in {timeout_s:g} s", engine=culprit, phase=phase, version=version)
            index = waiting.pop(done[0])
            try:
                results[index] = ray.get(done[0])
            except Exception as error:
                raise WeightSyncError(str(error), engine=index, phase=phase, version=version) from error
        return results


def _cause(receiving: list[Any], version: int, broken: RuntimeError) -> WeightSyncError:
    """What a broken transport comes down to: an engine that died, one that says nothing, or what all of them have to say.

    An engine that failed by itself breaks the transport of the others, so among failures alone no culprit is named.
    """
    answered, silent = ray.wait(receiving, num_returns=len(receiving), timeout=LAST_WORDS_S)
    words = [str(broken)]
    for index, call in enumerate(receiving):
        try:
            if call in answered:
                ray.get(call)
        except ray.exceptions.RayActorError as error:
            return WeightSyncError(str(error), engine=index, phase="send", version=version)
        except Exception as error:
            words.append(f"engine {index}: {str(error).strip().splitlines()[-1]}")
    if silent:
        return WeightSyncTimeout(str(broken), engine=receiving.index(silent[0]), phase="send", version=version)
    return WeightSyncError("; ".join(words), engine="all", phase="send", version=version)


class _Clock:
    """Seconds per phase; `pause` to `resume` is what generation feels."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[phase] = time.monotonic() - began

    def metrics(self) -> dict[str, float]:
        paused = _total(self.seconds, ("pause", "send", "commit", "resume"))
        return {"weights/pause_s": paused, "weights/send_s": self.seconds["send"], "weights/publish_s": paused + self.seconds["probe"]}


def _total(seconds: dict[str, float], phases: Iterable[str]) -> float:
    return sum(seconds[phase] for phase in phases)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])
