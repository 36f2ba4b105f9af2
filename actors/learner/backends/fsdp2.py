"""FSDP2: each decoder layer and the rest sharded over the ranks, float32 master weights, gradients summed rather than averaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint import load as dcp_load
from torch.distributed.checkpoint import save as dcp_save
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from actors.learner.config import AdamWConfig, Fsdp2Config
from actors.modeling.logprobs import TokenScores
from actors.modeling.scoring import Rectangle, Scorer
from actors.weights.protocol import ParamSpec


class Fsdp2Backend:
    """See `Backend`. `dtype` is that of computation and of the wire; master weights and reductions stay float32."""

    def __init__(self, model: Any, config: Fsdp2Config, optimizer: AdamWConfig, *, dtype: str, device: torch.device) -> None:
        self.device = device
        self._wire = getattr(torch, dtype)
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._scorer = Scorer(model.float()).to(device)
        self._tied = _tied_names(model)
        policy = MixedPrecisionPolicy(param_dtype=self._wire, reduce_dtype=torch.float32)
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for layer in model.get_decoder().layers:
            _shard(layer, mesh, policy)
        _shard(self._scorer, mesh, policy)
        self._optimizer = torch.optim.AdamW(
            self._scorer.parameters(), lr=optimizer.lr, betas=optimizer.betas, weight_decay=optimizer.weight_decay
        )

    def score(self, batch: Rectangle, temperature: float) -> TokenScores:
        """See Backend."""
        scores: TokenScores = self._scorer(batch, temperature)
        return scores

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """See Backend."""
        assert isinstance(self._scorer, FSDPModule)
        self._scorer.set_requires_gradient_sync(last)
        loss.backward()

    def step(self, lr: float, max_grad_norm: float) -> float:
        """See Backend."""
        norm = nn.utils.clip_grad_norm_(self._scorer.parameters(), max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def specs(self) -> Sequence[ParamSpec]:
        """See Backend."""
        dtype = str(self._wire).removeprefix("torch.")
        return [ParamSpec(name, dtype, tuple(parameter.shape)) for name, parameter in self._named()]

    def tensors(self) -> Iterator[torch.Tensor]:
        """See Backend."""
        self._scorer_module().reshard()
        for _, parameter in self._named():
            whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            yield whole.detach().to(self._wire)

    def save(self, directory: Path) -> None:
        """See Backend."""
        model, optimizer = get_state_dict(self._scorer, self._optimizer)
        dcp_save({"model": model, "optimizer": optimizer}, storage_writer=FileSystemWriter(directory))

    def load(self, directory: Path) -> None:
        """See Backend."""
        model, optimizer = get_state_dict(self._scorer, self._optimizer)
        dcp_load({"model": model, "optimizer": optimizer}, storage_reader=FileSystemReader(directory))
        set_state_dict(self._scorer, self._optimizer, model_state_dict=model, optim_state_dict=optimizer)

    def _scorer_module(self) -> FSDPModule:
        assert isinstance(self._scorer, FSDPModule)
        return self._scorer

    def _named(self) -> Iterator[tuple[str, torch.Tensor]]:
        parameters = dict(self._scorer.model.named_parameters())
        yield from parameters.items()
        # Engines and files need the output layer under its own name even where it shares the embedding's storage.
        yield from ((name, parameters[source]) for name, source in self._tied.items())


def _shard(module: nn.Module, mesh: Any, policy: MixedPrecisionPolicy) -> None:
    sharded = fully_shard(module, mesh=mesh, mp_policy=policy)
    sharded.set_gradient_divide_factor(1.0)
    sharded.set_force_sum_reduction_for_comms(True)


def _tied_names(model: Any) -> dict[str, str]:
    """Names of tied output layers -> the parameter they share, before sharding replaces the parameters."""
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if output is not embedding:
        return {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {"lm_head.weight": names[id(embedding)]}
