"""Publications to small actors that stand in for engines: real Ray calls and a real gloo group, no vLLM."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pytest
import ray
import torch

from actors.errors import WeightSyncError, WeightSyncMismatch, WeightSyncTimeout
from actors.weights import publisher
from actors.weights.config import WeightsConfig
from actors.weights.groups import GlooGroup
from actors.weights.protocol import Digest, ParamSpec, buckets, unpack
from actors.weights.publisher import Publisher

pytestmark = pytest.mark.integration

SPECS = [ParamSpec(f"layer.{index}", "float32", (1024, 300)) for index in range(3)]  # 1.2 MB each, a bucket of its own
PROBE = ([5, 6, 7, 8], [-1.0, -2.0, -3.0])
VERSION = 7
PHASES = ["pause", "begin_update", "receive", "commit", "resume", "probe"]
PHASE_OF_CALL = {"join": "connect", "begin_update": "pause", "receive": "send"}


class FakeEngine:
    """Does what an engine does with weights, and goes wrong where the script says so."""

    def __init__(self) -> None:
        self._gate = threading.Event()
        self.script("")

    def script(self, wrong: str) -> None:
        """Forget what was; `wrong` is "fail CALL", "hang CALL", "die CALL", or a way of being wrong."""
        self._gate.set()
        self._gate, self._wrong = threading.Event(), wrong
        self._calls: list[str] = []
        self._received: dict[str, torch.Tensor] = {}
        self._digest = Digest()

    def seen(self) -> tuple[list[str], dict[str, torch.Tensor]]:
        """Calls in order, and the tensors received."""
        return self._calls, self._received

    def _enter(self, call: str) -> None:
        self._calls.append(call)
        if self._wrong == f"fail {call}":
            raise RuntimeError(f"{call} broke")
        if self._wrong == f"die {call}":
            os._exit(1)
        if self._wrong == f"hang {call}":
            self._gate.wait(60)
            raise RuntimeError("too late")

    def join(self, info: Mapping[str, Any]) -> None:
        self._enter("join")
        self._bucket_bytes = info["bucket_bytes"]
        self._group = GlooGroup(
            info["address"],
            info["port"],
            info["rank_offset"],
            info["size"],
            connect_timeout_s=info["connect_timeout_s"],
            send_timeout_s=info["send_timeout_s"],
        )

    def pause(self) -> None:
        self._enter("pause")

    def begin_update(self) -> None:
        self._enter("begin_update")

    def receive(self, params: list[tuple[str, str, list[int]]]) -> None:
        self._enter("receive")
        specs = [ParamSpec(name, dtype, tuple(shape)) for name, dtype, shape in params]
        for bucket in buckets(specs, self._bucket_bytes):
            buffer = torch.empty(sum(spec.size_bytes for spec in bucket), dtype=torch.uint8)
            self._group.broadcast(buffer)
            if self._wrong == "flipped bit":
                buffer[0] ^= 1
            self._digest.update(buffer)
            self._received.update(unpack(buffer, bucket))

    def commit(self, version: int) -> tuple[str, str]:
        self._enter("commit")
        return self._digest.hexdigest(), f"tensors of {version}{self._wrong if self._wrong == 'badly fused' else ''}"

    def resume(self) -> None:
        self._enter("resume")

    def probe(self, token_ids: list[int]) -> list[float]:
        self._enter("probe")
        error = {"drifted": [0, 0.01, 0], "not a number": [0, 0, float("nan")]}.get(self._wrong, [0, 1e-5, 0])
        return [expected + wrong for expected, wrong in zip(PROBE[1], error, strict=True)]


class Stream:
    """A weight stream that knows how far it was drawn."""

    def __init__(self) -> None:
        self.drawn = 0

    def specs(self) -> Sequence[ParamSpec]:
        return SPECS

    def tensors(self) -> Iterator[torch.Tensor]:
        for index, spec in enumerate(SPECS):
            self.drawn += 1
            yield torch.full(spec.shape, float(index))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def start() -> Any:
    return ray.remote(FakeEngine).options(num_cpus=0, max_concurrency=8).remote()


@pytest.fixture(scope="module")
def pair(cluster: None) -> tuple[Any, Any]:
    engines = start(), start()
    ray.get([engine.script.remote("") for engine in engines], timeout=120)
    return engines


@pytest.fixture
def engines(pair: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Two engines that behave; a test scripts the second. Whatever hangs is let go at the end."""
    ray.get([engine.script.remote("") for engine in pair], timeout=60)
    yield pair
    ray.get([engine.script.remote("") for engine in pair], timeout=60)


@pytest.fixture
def make() -> Iterator[Callable[..., Publisher]]:
    """make(rank=0, **deadlines) -> a publisher that leaves its group when the test ends."""
    made = []

    def make(rank: int = 0, **deadlines: float) -> Publisher:
        config = WeightsConfig.model_validate(
            {"bucket_mib": 2, "connect_timeout_s": 20, "control_timeout_s": 20, "send_timeout_s": 20} | deadlines
        )
        made.append(Publisher(config, "gloo", rank=rank, tolerance=1e-3))
        return made[-1]

    yield make
    for each in made:
        each.close()


def publish(sender: Publisher) -> dict[str, float]:
    return sender.publish(VERSION, Stream(), PROBE, lambda text: text).metrics


def test_every_engine_receives_the_weights_under_their_version(engines: tuple[Any, Any], make: Callable[..., Publisher]) -> None:
    sender = make()
    sender.use(engines, 1)
    metrics = publish(sender)
    for calls, received in ray.get([engine.seen.remote() for engine in engines]):
        assert calls == ["join", *PHASES]
        assert {name: float(tensor.mean()) for name, tensor in received.items()} == {"layer.0": 0, "layer.1": 1, "layer.2": 2}
    assert metrics["weights/bytes"] == 3 * 1024 * 300 * 4 and metrics["weights/digest_ok"] == 1
    assert metrics["weights/probe_error"] == pytest.approx(1e-5 / 3)
    assert metrics["weights/publish_s"] >= metrics["weights/pause_s"] >= metrics["weights/send_s"] > 0


def test_a_group_serves_many_publications_and_can_be_replaced(engines: tuple[Any, Any], make: Callable[..., Publisher]) -> None:
    sender = make()
    for _ in range(2):
        sender.use(engines, 1)
        for _ in range(2):
            ray.get([engine.script.remote("") for engine in engines])
            assert publish(sender)["weights/digest_ok"] == 1


@pytest.mark.parametrize("call", PHASES)
def test_a_failing_phase_names_itself_on_all_ranks_and_nobody_is_left_in_a_gather(
    engines: tuple[Any, Any], make: Callable[..., Publisher], call: str
) -> None:
    sender, other, streams, words = make(send_timeout_s=3), make(rank=1), (Stream(), Stream()), SimpleQueue[str]()
    sender.use(engines, 1)
    ray.get(engines[1].script.remote(f"fail {call}"))

    def tell(text: str) -> str:
        words.put(text)
        return text

    with ThreadPoolExecutor() as threads:
        ranks = [
            threads.submit(sender.publish, VERSION, streams[0], PROBE, tell),
            threads.submit(other.publish, VERSION, streams[1], PROBE, lambda _: words.get(timeout=60)),
        ]
        errors = [rank.exception(60) for rank in ranks]
    for error in errors:
        assert isinstance(error, WeightSyncError)
        # Where the transport broke for all, nobody can be named alone; the words tell.
        engine = "all" if call == "receive" else 1
        assert (error.engine, error.phase, error.version) == (engine, PHASE_OF_CALL.get(call, call), VERSION)
        assert f"RuntimeError: {call} broke" in str(error)
    assert [stream.drawn for stream in streams] == [3, 3]


@pytest.mark.parametrize(
    ("wrong", "engine", "phase"),
    [("flipped bit", 1, "commit"), ("badly fused", "all", "commit"), ("drifted", 1, "probe"), ("not a number", 1, "probe")],
)
def test_what_does_not_agree_is_a_mismatch(
    engines: tuple[Any, Any], make: Callable[..., Publisher], wrong: str, engine: int | str, phase: str
) -> None:
    sender = make()
    sender.use(engines, 1)
    ray.get(engines[1].script.remote(wrong))
    with pytest.raises(WeightSyncMismatch) as caught:
        publish(sender)
    assert (caught.value.engine, caught.value.phase, caught.value.version) == (engine, phase, VERSION)


@pytest.mark.parametrize("call", ["pause", "commit"])
def test_a_phase_past_its_deadline_is_a_timeout(engines: tuple[Any, Any], make: Callable[..., Publisher], call: str) -> None:
    sender = make(control_timeout_s=2)
    sender.use(engines, 1)
    ray.get(engines[1].script.remote(f"hang {call}"))
    with pytest.raises(WeightSyncTimeout) as caught:
        publish(sender)
    assert (caught.value.engine, caught.value.phase) == (1, call)


def test_an_engine_that_does_not_take_its_bytes_is_a_timeout(
    engines: tuple[Any, Any], make: Callable[..., Publisher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "LAST_WORDS_S", 2)
    sender = make(send_timeout_s=2)
    sender.use(engines, 1)
    ray.get(engines[1].script.remote("hang receive"))
    with pytest.raises(WeightSyncTimeout) as caught:
        publish(sender)
    assert (caught.value.engine, caught.value.phase) == (1, "send")


@pytest.mark.parametrize(("wrong", "kind"), [("fail join", WeightSyncError), ("hang join", WeightSyncTimeout)])
def test_an_engine_that_does_not_join_is_named(
    engines: tuple[Any, Any], make: Callable[..., Publisher], wrong: str, kind: type[WeightSyncError]
) -> None:
    sender = make(connect_timeout_s=2)
    ray.get(engines[1].script.remote(wrong))
    sender.use(engines[1:], 1)
    with pytest.raises(kind) as caught:
        publish(sender)
    assert (caught.value.engine, caught.value.phase, caught.value.version) == (0, "connect", VERSION)


def test_an_engine_that_dies_while_it_receives_is_named(cluster: None, make: Callable[..., Publisher]) -> None:
    engine, sender = start(), make()
    sender.use([engine], 1)
    ray.get(engine.script.remote("die receive"))
    with pytest.raises(WeightSyncError) as caught:
        publish(sender)
    assert (caught.value.engine, caught.value.phase) == (0, "send")


@pytest.mark.parametrize("call", ["pause", "receive", "commit"])
def test_after_a_failure_the_same_engines_take_the_version_whole(
    engines: tuple[Any, Any], make: Callable[..., Publisher], call: str
) -> None:
    sender = make(send_timeout_s=3)
    sender.use(engines, 1)
    ray.get(engines[1].script.remote(f"fail {call}"))
    with pytest.raises(WeightSyncError):
        publish(sender)
    ray.get([engine.script.remote("") for engine in engines])
    sender.use(engines, 1)
    assert publish(sender)["weights/digest_ok"] == 1


def test_without_engines_the_digest_is_the_same(engines: tuple[Any, Any], make: Callable[..., Publisher]) -> None:
    sender, alone = make(), make()
    sender.use(engines, 1)
    publications = [each.publish(VERSION, Stream(), PROBE, lambda text: text) for each in (sender, alone)]
    assert publications[0].digest == publications[1].digest != ""
