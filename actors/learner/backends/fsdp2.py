"""FSDP2: each decoder layer and the rest sharded over the ranks, float32 master weights, gradients summed rather than averaged."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint import load as dcp_load
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from actors.learner.backends.wire import Wire
from actors.learner.config import Fsdp2Config, LearnerConfig
from actors.modeling.logprobs import TokenScores
from actors.modeling.packing import Packed
from actors.modeling.scoring import Scorer
from actors.weights.protocol import ParamSpec


class Fsdp2Backend:
    """See `Backend`. Before the last micro-batch of an update gradients add up locally, unsharded, and no rank waits for another."""

    def __init__(self, scorer: Scorer, wire: Wire, config: LearnerConfig, *, device: torch.device) -> None:
        assert isinstance(config.backend, Fsdp2Config)
        self.device = device
        self._wire, self._max_grad_norm = wire, config.max_grad_norm
        self._scorer = scorer.to(device)
        offloads = config.backend.cpu_offload and device.type != "cpu"
        offload = CPUOffloadPolicy() if offloads else OffloadPolicy()
        precision = MixedPrecisionPolicy(param_dtype=wire.dtype, reduce_dtype=torch.float32)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for layer in scorer.model.get_decoder().layers:
            _shard(layer, mesh=mesh, mp_policy=precision, offload_policy=offload)
        _shard(self._scorer, mesh=mesh, mp_policy=precision, offload_policy=offload)
        adamw = config.optimizer
        trainable = [parameter for parameter in self._scorer.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trainable, lr=adamw.lr, betas=adamw.betas, weight_decay=adamw.weight_decay, fused=True)
        for parameter in trainable:  # as AdamW's first step would make it; torch's checkpointing would make it by a step
            moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            self._optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}

    def score(self, batch: Packed, temperature: float, *, entropy_gradient: bool = False) -> TokenScores:
        """See Backend."""
        scores: TokenScores = self._scorer(batch, temperature, entropy_gradient=entropy_gradient)
        return scores

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """See Backend."""
        self._sharded.set_requires_gradient_sync(last)
        loss.backward()

    def step(self, lr: float) -> float:
        """See Backend."""
        norm = nn.utils.clip_grad_norm_(self._scorer.parameters(), self._max_grad_norm)
        value = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if math.isfinite(value):
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        self.discard()
        return value

    def discard(self) -> None:
        """See Backend."""
        self._optimizer.zero_grad(set_to_none=True)

    def specs(self) -> Sequence[ParamSpec]:
        """See Backend."""
        return self._wire.specs()

    def tensors(self) -> Iterator[torch.Tensor]:
        """See Backend."""
        self._sharded.reshard()
        return self._wire.tensors(_whole)

    def snapshot(self) -> Mapping[str, Any]:
        """See Backend."""
        model, optimizer = get_state_dict(self._scorer, self._optimizer)
        return {"model": model, "optimizer": optimizer}

    def load(self, directory: Path) -> None:
        """See Backend."""
        state = dict(self.snapshot())
        dcp_load(state, storage_reader=FileSystemReader(directory))
        set_state_dict(self._scorer, self._optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])

    @property
    def _sharded(self) -> FSDPModule:
        assert isinstance(self._scorer, FSDPModule)
        return self._scorer


def _whole(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def _shard(module: nn.Module, **settings: Any) -> None:
    sharded = fully_shard(module, **settings)
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)
