"""DeepSpeed's ZeRO: gradients and optimizer state split over the ranks (stage 2), parameters too (stage 3), gradients summed.

Where DeepSpeed's interface ends (forgetting gradients, optimizer state before the first step) this reaches into its optimizers, `_zero`,
as they are in the pinned version.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint import load as dcp_load

from actors.learner.backends.wire import Wire
from actors.learner.config import DeepSpeedConfig, LearnerConfig
from actors.modeling.logprobs import TokenScores
from actors.modeling.packing import Packed
from actors.modeling.scoring import Scorer
from actors.weights.protocol import ParamSpec

BUCKET_ELEMENTS = 50_000_000
"""Gradient elements reduced at once: 200 MB in float32."""
WHOLE_ELEMENTS = 10_000
"""Stage 3 keeps parameters up to this size whole on every rank: norms and biases, whose gathering would cost more than it saves."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, under torch's names."""


class DeepSpeedBackend:
    """See `Backend`. ZeRO keeps gradients only in shards, so each micro-batch is reduced as it comes, not only the last of an update."""

    def __init__(self, scorer: Scorer, wire: Wire, config: LearnerConfig, *, device: torch.device) -> None:
        assert isinstance(config.backend, DeepSpeedConfig)
        self.device = device
        self._wire, self._stage = wire, config.backend.stage
        self._trainable = {name: parameter for name, parameter in scorer.named_parameters() if parameter.requires_grad}
        # DeepSpeed would take its float32 masters from parameters that it has rounded before.
        masters = {parameter: parameter.detach() for parameter in self._trainable.values() if parameter.dtype != wire.dtype}
        self._shapes = {name: parameter.shape for name, parameter in self._trainable.items()}
        self._deepspeed = _quiet_deepspeed(device)
        adamw = config.optimizer
        self._optimizer = torch.optim.AdamW(
            self._trainable.values(), lr=adamw.lr, betas=adamw.betas, weight_decay=adamw.weight_decay, fused=True
        )
        settings = _settings(config.backend, config.max_grad_norm, wire.dtype, device)
        self._engine, self._zero, *_ = self._deepspeed.initialize(model=scorer, optimizer=self._optimizer, config=settings)
        # ZeRO-3 knows no sum over ranks, only the mean.
        self._loss_scale = 1 if self._stage == 2 else dist.get_world_size()
        self._create_moments()
        for parameter, master in masters.items():
            self._deepspeed.utils.safe_set_full_fp32_param(parameter, master)

    def score(self, batch: Packed, temperature: float, *, entropy_gradient: bool = False) -> TokenScores:
        """See Backend."""
        scores: TokenScores = self._engine(batch, temperature, entropy_gradient=entropy_gradient)
        return scores

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """See Backend."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._loss_scale, scale_wrt_gas=False)

    def step(self, lr: float) -> float:
        """See Backend."""
        self._zero.set_lr(lr)
        self._engine.step()  # clips; changes nothing where the norm over all ranks is not finite
        norm = float(self._engine.get_global_grad_norm())
        if not math.isfinite(norm):
            self.discard()  # with offloading and bfloat16 DeepSpeed would add the next update to the refused one
        return norm

    def discard(self) -> None:
        """See Backend."""
        self._zero.zero_grad()  # stage 3 then lets the next backward pass overwrite what it holds, instead of adding to it
        self._zero.averaged_gradients.clear()
        self._zero.reset_cpu_buffers()  # what offloading has noted of norms and overflows
        if self._stage == 2:
            self._zero.all_grad_tensors.clear()
            self._zero.micro_step_id = -1  # as zero_grad does for stage 3, where gradients are offloaded

    def specs(self) -> Sequence[ParamSpec]:
        """See Backend."""
        return self._wire.specs()

    def tensors(self) -> Iterator[torch.Tensor]:
        """See Backend."""
        return self._wire.tensors(self._whole)

    def snapshot(self) -> Mapping[str, Any]:
        """See Backend. Laid out like FSDP2's; parameters are gathered one by one, and each is kept by one rank."""
        utils, rank = self._deepspeed.utils, dist.get_rank()
        updates = self._optimizer.state[self._partitions[0]]["step"]
        owners = _owners(self._shapes, dist.get_world_size())
        masters, states = {}, {}
        for name, parameter in self._trainable.items():
            master = utils.safe_get_full_fp32_param(parameter)
            moments = {key: utils.safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            if owners[name] == rank:
                masters[name] = master.cpu()
                states[name] = {"step": updates.to("cpu", copy=True), **{key: moment.cpu() for key, moment in moments.items()}}
        return {"model": masters, "optimizer": {"state": states}}

    def load(self, directory: Path) -> None:
        """See Backend. Either stage reads what the other wrote."""
        utils, reader = self._deepspeed.utils, FileSystemReader(directory)
        updates = torch.zeros(())
        for name, parameter in self._trainable.items():
            master, *moments = (torch.empty(self._shapes[name]) for _ in range(1 + len(MOMENTS)))
            state = dict(zip(MOMENTS, moments, strict=True))
            dcp_load({"model": {name: master}, "optimizer": {"state": {name: {"step": updates, **state}}}}, storage_reader=reader)
            utils.safe_set_full_fp32_param(parameter, master)
            for key, moment in state.items():
                utils.safe_set_full_optimizer_state(parameter, moment, key)
            with self._deepspeed.zero.GatheredParameters(parameter, modifier_rank=0):
                parameter.data.copy_(master)
        for partition in self._partitions:
            self._optimizer.state[partition]["step"].copy_(updates)

    @property
    def _partitions(self) -> list[torch.Tensor]:
        """This rank's flat pieces of the float32 masters, which the optimizer works on."""
        partitions: list[torch.Tensor]
        partitions = self._zero.single_partition_of_fp32_groups if self._stage == 2 else self._zero.fp32_partitioned_groups_flat
        return partitions

    def _create_moments(self) -> None:
        """AdamW's state as its first step would make it, so that there is one to save and to load from the start."""
        for partition in self._partitions:
            moments = {key: torch.zeros_like(partition, requires_grad=False) for key in MOMENTS}
            self._optimizer.state[partition] = {"step": torch.zeros((), device=partition.device), **moments}
        if self._stage == 2:
            self._zero._lazy_init_hp_params_optimizer_state()  # links each parameter to its part of them

    def _whole(self, parameter: nn.Parameter) -> torch.Tensor:
        with self._deepspeed.zero.GatheredParameters(parameter):
            return parameter.detach()


def _quiet_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, told its device, kept from compiling and from talking of itself.

    Its shared-memory all-reduce would be built at the first engine on a CPU: minutes of a compiler, and a start that is killed
    meanwhile leaves a lock on which all later ones wait for ever. It is built only where this table says that it can be.
    """
    warnings.filterwarnings("ignore", "`torch.distributed.(all_gather_into|reduce_scatter)_tensor` is deprecated", FutureWarning)
    os.environ |= {"DS_ACCELERATOR": device.type, "LOCAL_RANK": str(device.index or 0)}
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}
    deepspeed.utils.logger.setLevel(logging.ERROR)  # that an update was refused is the learner's to tell
    return deepspeed


def _settings(backend: DeepSpeedConfig, max_grad_norm: float, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's configuration. Batch sizes mean nothing here: losses are shares of a sum, and the learner says where an update ends."""
    zero: dict[str, Any] = {
        "stage": backend.stage,
        "reduce_bucket_size": BUCKET_ELEMENTS,
        "stage3_param_persistence_threshold": WHOLE_ELEMENTS,
    }
    if backend.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # its own Adam would have to be compiled
        "gradient_allreduce_op": "sum" if backend.stage == 2 else "mean",
        "gradient_clipping": max_grad_norm,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "bf16": {"enabled": dtype == torch.bfloat16},
        "timers": {"throughput": {"enabled": False}},  # it would wait for the device twice a micro-batch
    }


def _owners(shapes: Mapping[str, torch.Size], ranks: int) -> dict[str, int]:
    """Which rank keeps which parameter in a snapshot: about the same number of elements each."""
    held = [0] * ranks
    owners = {}
    for name in sorted(shapes, key=lambda name: -shapes[name].numel()):
        owners[name] = held.index(min(held))
        held[owners[name]] += shapes[name].numel()
    return owners
