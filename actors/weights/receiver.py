"""The engine's half of a publication: vLLM weight-transfer engines that run inside each vLLM worker.

vLLM imports this module in the worker because `WeightReceiver` is its `worker_extension_cls`; the import registers the two engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.lifeline import die_with_parent
from actors.weights.groups import GROUPS, BroadcastGroup
from actors.weights.protocol import ParamSpec, receive


@dataclass
class JoinInfo(WeightTransferInitInfo):
    """How a worker joins the group. Its rank is `rank_offset` plus its rank in the engine."""

    address: str
    port: int
    rank_offset: int
    size: int
    bucket_bytes: int
    connect_timeout_s: float
    send_timeout_s: float


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """The parameters that are about to arrive, in order."""

    params: list[tuple[str, str, list[int]]]


class BucketReceiver(WeightTransferEngine[JoinInfo, UpdateInfo]):
    """Receives buckets from the group's rank 0 and loads them layer by layer."""

    init_info_cls = JoinInfo
    update_info_cls = UpdateInfo
    transport: ClassVar[str]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        die_with_parent()  # this runs inside the engine's process, which would otherwise outlive a killed actor
        self.group: BroadcastGroup | None = None
        self.bucket_bytes = 0
        self.digest = ""

    def init_transfer_engine(self, init_info: JoinInfo) -> None:
        """Join the group, leaving any earlier one."""
        self.shutdown()
        rank = init_info.rank_offset + self.parallel_config.rank
        self.group = GROUPS[self.transport](
            init_info.address,
            init_info.port,
            rank,
            init_info.size,
            connect_timeout_s=init_info.connect_timeout_s,
            send_timeout_s=init_info.send_timeout_s,
        )
        self.bucket_bytes = init_info.bucket_bytes

    def start_weight_update(self) -> None:
        """Open the model for loading."""
        if self.device.type == "cpu":
            _unpack_experts(self.model)
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Take every bucket of one publication."""
        if self.group is None:
            raise RuntimeError("weights sent before the engine joined a group")
        specs = [ParamSpec(name, dtype, tuple(shape)) for name, dtype, shape in update_info.params]
        self.digest = receive(self.group, specs, self.bucket_bytes, self._load)

    def _load(self, named: Sequence[tuple[str, torch.Tensor]]) -> None:
        load: Any = self.model.load_weights
        load((name, tensor.to(self.device)) for name, tensor in named)

    def finish_weight_update(self) -> None:
        """Close the model: fuse, cast and put in place what was loaded."""
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Leave the group."""
        if self.group is not None:
            self.group.close()
            self.group = None


def _unpack_experts(model: torch.nn.Module) -> None:
    """Have the kernels of experts on a CPU made again for the weights to come.

    They pack the weights as they are made, and vLLM copies new ones, as they came, over the packed ones of a kernel that is there.
    """
    for layer in model.modules():
        method: Any = getattr(layer, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


class GlooReceiver(BucketReceiver):
    """Through host memory."""

    transport = "gloo"


class NcclReceiver(BucketReceiver):
    """Between GPUs."""

    transport = "nccl"


WeightTransferEngineFactory.register_engine("gmpo-gloo", GlooReceiver)
WeightTransferEngineFactory.register_engine("gmpo-nccl", NcclReceiver)


class WeightReceiver:
    """Mixed into vLLM's worker: what the engine actor may ask of it by `collective_rpc`."""

    weight_transfer_engine: Any

    def received_digest(self) -> str:
        """Digest of the bytes of the last publication."""
        digest: str = self.weight_transfer_engine.digest
        return digest
