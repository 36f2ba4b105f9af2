"""A rank's memory, against the real FSDP2 backend on the first of four ranks that exist only in name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg as fakes
from hypothesis import given
from hypothesis import strategies as st

from actors.learner import backends
from actors.learner.backends.deepspeed import BUCKET_ELEMENTS
from actors.learner.backends.fsdp2 import Fsdp2Backend
from actors.learner.config import LearnerConfig
from actors.modeling.config import TinyPolicy
from actors.modeling.packing import pack
from actors.modeling.tiny import make_model
from services.plan import learner, shapes
from services.plan.parts import Part, Parts
from tests.unit.plan.recipes import MATH_7B, paper

RANKS = 4
POLICY = TinyPolicy(hidden_size=256)


@pytest.fixture
def backend() -> Iterator[Fsdp2Backend]:
    assert not dist.is_initialized()
    dist.init_process_group("fake", rank=0, world_size=RANKS, store=fakes.FakeStore())
    try:
        built = backends.build(make_model(POLICY), LearnerConfig(), dtype="bfloat16", device=torch.device("cpu"))
        assert isinstance(built, Fsdp2Backend)
        yield built
    finally:
        dist.destroy_process_group()


def device_parts(*overrides: str) -> Parts:
    return learner.rank(paper(*overrides), MATH_7B, gpu=True).device.parts


def whole_gradients(backend: Fsdp2Backend) -> int:
    """Bytes of the gradients that FSDP2 keeps unsharded."""
    groups = (module._get_fsdp_state()._fsdp_param_group for module in backend._scorer.modules() if hasattr(module, "_get_fsdp_state"))
    held = (parameter.unsharded_accumulated_grad for group in groups if group for parameter in group.fsdp_params)
    return sum(gradient.nbytes for gradient in held if gradient is not None)


def local_bytes(tensors: Iterator[torch.Tensor]) -> int:
    return sum(tensor.to_local().nbytes for tensor in tensors if isinstance(tensor, dist.tensor.DTensor))


def test_a_rank_holds_its_share_of_masters_and_moments_and_whole_gradients_between_micro_batches(backend: Fsdp2Backend) -> None:
    parameters = shapes.of_tiny(POLICY).parameters
    rounded = pytest.approx(parameters / RANKS, rel=0.01)  # ranks do not divide every tensor
    states = backend._optimizer.state.values()
    assert local_bytes(iter(backend._scorer.parameters())) / learner.MASTER == rounded
    assert local_bytes(value for state in states for value in state.values()) / learner.MOMENTS == rounded
    batch = pack([np.arange(40, dtype=np.int32)] * 2, [5, 5], backend.device)
    for _ in range(2):
        backend.backward(backend.score(batch, 1.0).logprobs.sum(), last=False)
        assert whole_gradients(backend) == learner.GRADIENT * parameters
    backend.backward(backend.score(batch, 1.0).logprobs.sum(), last=True)
    assert whole_gradients(backend) == 0
    assert (
        local_bytes(parameter.grad for parameter in backend._scorer.parameters() if parameter.grad is not None) / learner.GRADIENT
        == rounded
    )


def test_seven_billion_parameters_on_four_ranks() -> None:
    parts = device_parts("learner.ranks=4", "learner.activation_checkpointing=true")
    assert parts[Part.MASTER_WEIGHTS] == 4 * 7_615_616_512 / 4
    assert parts[Part.MOMENTS] == 8 * 7_615_616_512 / 4
    assert parts[Part.WHOLE_GRADIENTS] == 4 * 7_615_616_512


def test_an_update_of_one_micro_batch_holds_no_whole_gradients() -> None:
    one = device_parts("learner.ranks=4", "learner.updates_per_step=256")  # four responses, one for each rank
    assert Part.WHOLE_GRADIENTS not in one and one[Part.GRADIENTS] == 4 * 7_615_616_512 / 4


@pytest.mark.parametrize(
    "change",
    [
        "learner.lora={rank: 32}",
        "learner.activation_checkpointing=true",
        "learner.backend={type: fsdp2, cpu_offload: true}",
        "learner.micro_batch_tokens=8192",
        "learner.ranks=8",
    ],
)
def test_what_saves_memory_saves_it(change: str) -> None:
    assert sum(device_parts("learner.ranks=4", change).values()) < sum(device_parts("learner.ranks=4").values())


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([2_048, 8_192, 16_384, 65_536]))
def test_more_ranks_never_need_more_of_a_gpu(few: int, many: int, tokens: int) -> None:
    few, many = sorted((few, many))
    sizes = [
        learner.rank(paper(f"learner.ranks={ranks}", f"learner.micro_batch_tokens={tokens}"), MATH_7B, gpu=True) for ranks in (few, many)
    ]
    assert sizes[0].device.size >= sizes[1].device.size


def test_deepspeed_reduces_in_buckets_of_this_size() -> None:
    assert 2 * 4 * BUCKET_ELEMENTS == learner.DEEPSPEED_BUCKETS


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_keeps_its_weights_whole_in_stage_2_only(stage: int) -> None:
    parts = device_parts("learner.ranks=4", f"learner.backend={{type: deepspeed, stage: {stage}}}")
    assert (parts[Part.COMPUTING_WEIGHTS] == 2 * 7_615_616_512) == (stage == 2)


@pytest.mark.parametrize("backend", ["{type: fsdp2, cpu_offload: true}", "{type: deepspeed, stage: 3, offload_optimizer: true}"])
def test_what_leaves_the_gpu_is_in_host_memory(backend: str) -> None:
    rank = learner.rank(paper("learner.ranks=4", f"learner.backend={backend}"), MATH_7B, gpu=True)
    assert rank.host[Part.OFFLOADED] == 16 * 7_615_616_512 / 4
    assert not {Part.MASTER_WEIGHTS, Part.MOMENTS} & rank.device.parts.keys()


@pytest.mark.parametrize("ranks", [1, 64])
def test_at_the_start_a_rank_has_the_whole_model_on_its_gpu(ranks: int) -> None:
    assert learner.rank(paper(f"learner.ranks={ranks}"), MATH_7B, gpu=True).start == 4 * 7_615_616_512
