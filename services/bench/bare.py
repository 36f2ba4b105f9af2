"""What a person would write without this project: a model of transformers, all logits, the GMPO loss in eight lines, clipping, AdamW.

It is given every help that costs no chunking: micro-batches are laid out before the clock starts, packed attention never crosses rows or
builds a mask, only response tokens go through the output layer, gradients travel once an update, and AdamW is fused.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from torch.nn.parallel import DistributedDataParallel
from transformers import AttentionInterface

from services.bench.layouts import Batch

Parallel = Literal["alone", "fsdp2", "ddp"]
CLIP = 0.4
Head = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    lengths: tuple[int, ...] | None = None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of [R, heads, L, head size] within rows; packed rows by a GPU's kernel for them, elsewhere one after the other."""
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast rotary embeddings leave them in float32
    if lengths is not None and query.is_cuda and query.dtype != torch.float32:
        ends = torch.tensor((0, *lengths), device=query.device).cumsum(0, dtype=torch.int32)
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        longest = max(lengths)
        mixed = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, window_size=(-1, 0), enable_gqa=True)
        assert isinstance(mixed, torch.Tensor)
        return mixed[None], None
    rows = zip(*(tensor.split(lengths or tensor.shape[2], dim=2) for tensor in (query, key, value)), strict=True)
    parts = [functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True) for q, k, v in rows]
    return (torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]).transpose(1, 2), None


AttentionInterface.register("bench_bare", attention)


def by_log_softmax(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Log-probs [M] of targets, out of all logits."""
    return torch.log_softmax((hidden @ weight.T).float(), dim=-1).gather(-1, targets[:, None]).sum(-1)


def by_cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The same by torch's cross-entropy."""
    return -functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="none")


class Policy(nn.Module):
    """Log-probs of response tokens, in one forward call: what FSDP2 and DDP want to wrap."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        model.set_attn_implementation("bench_bare")
        self.model = model
        self.head: Head = by_log_softmax

    def forward(self, batch: Batch) -> torch.Tensor:
        """Log-probs [M]."""
        decoder = self.model.get_decoder()
        states = decoder(input_ids=batch.token_ids, position_ids=batch.positions, use_cache=False, lengths=batch.lengths).last_hidden_state
        return self.head(states.flatten(0, 1)[batch.places], self.model.get_output_embeddings().weight, batch.targets)


class BareLoop:
    """One model and its optimizer; `update` makes one optimizer step of the given micro-batches."""

    def __init__(
        self, model: Any, parallel: Parallel, *, dtype: str, device: torch.device, ranks: int, lr: float, max_grad_norm: float
    ) -> None:
        self._dtype: torch.dtype = getattr(torch, dtype)
        self.policy = _spread(Policy(model).to(device), parallel, self._dtype, device)
        self._inner = self.policy.module if isinstance(self.policy, DistributedDataParallel) else self.policy
        self._autocast = self._dtype != torch.float32 and parallel != "fsdp2"
        self._device, self._ranks, self._max_grad_norm = device, ranks, max_grad_norm
        self._optimizer = torch.optim.AdamW(self.policy.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def update(self, micro_batches: Sequence[Batch], sequences: int) -> tuple[float, float]:
        """(loss of this rank's rows, gradient norm). `sequences`: rows of the update over all ranks."""
        total = torch.zeros((), device=self._device)
        for index, batch in enumerate(micro_batches):
            with self._synchronised(index == len(micro_batches) - 1):
                with torch.autocast(self._device.type, self._dtype, enabled=self._autocast):
                    logprobs = self.policy(batch)
                loss = gmpo_loss(logprobs, batch) / sequences
                (loss * self._ranks).backward()  # both wrappers average over ranks
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(total), float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def choose_head(self, batch: Batch) -> str:
        """Use the faster of the two heads on this micro-batch, and name it; ranks may differ, their results do not."""
        config = self._inner.model.config
        kind: dict[str, Any] = {"device": self._device, "dtype": self._dtype}
        weight = torch.randn(config.vocab_size, config.hidden_size, **kind) * 0.02
        hidden = torch.randn(len(batch.targets), config.hidden_size, **kind)
        inputs = weight.requires_grad_(), hidden.requires_grad_(), batch.targets
        seconds = {head: min(_seconds(head, *inputs) for _ in range(3)) for head in (by_log_softmax, by_cross_entropy)}
        self._inner.head = min(seconds, key=lambda head: seconds[head])
        return str(self._inner.head.__name__).removeprefix("by_")

    @contextlib.contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        if isinstance(self.policy, FSDPModule):
            self.policy.set_requires_gradient_sync(last)
        with self.policy.no_sync() if isinstance(self.policy, DistributedDataParallel) and not last else contextlib.nullcontext():
            yield


def gmpo_loss(logprobs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sum over rows of -A exp(mean of the clipped log-ratios), arXiv 2507.20673, equation 4."""
    ratios = logprobs - batch.old_logprobs
    advantages = batch.advantages[batch.owners]
    clipped = torch.where(advantages > 0, ratios.clamp(max=CLIP), ratios.clamp(min=-CLIP))
    sums = torch.zeros_like(batch.counts).index_add(0, batch.owners, clipped)
    return -(batch.advantages * (sums / batch.counts).exp()).sum()


def _spread(policy: Policy, parallel: Parallel, dtype: torch.dtype, device: torch.device) -> Any:
    if parallel == "ddp":
        return DistributedDataParallel(policy, device_ids=[device] if device.type == "cuda" else None, forward_sync_buffers=False)
    if parallel == "fsdp2":
        precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for layer in policy.model.get_decoder().layers:
            fully_shard(layer, mp_policy=precision)
        fully_shard(policy, mp_policy=precision)
    return policy


def _seconds(head: Head, weight: torch.Tensor, hidden: torch.Tensor, targets: torch.Tensor) -> float:
    if hidden.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    head(hidden, weight, targets).sum().backward()
    if hidden.is_cuda:
        torch.cuda.synchronize()
    weight.grad = hidden.grad = None
    return time.perf_counter() - began
