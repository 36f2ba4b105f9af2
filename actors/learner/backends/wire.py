"""A policy's parameters as they travel to engines and files: whole, in one dtype, under the names of the plain model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from actors.weights.protocol import ParamSpec

Whole = Callable[[nn.Parameter], torch.Tensor]
"""Gathers one parameter; all ranks call it together, in the same order."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a wire tensor comes from; `down`, `up` and `scaling` of its adapter where it has one."""

    spec: ParamSpec
    parameter: str
    down: str | None = None
    up: str | None = None
    scaling: float = 0.0


class Wire:
    """Reads the model's layout before it is sharded; afterwards parameters are looked up by name.

    Engines and files need the output layer under its own name even where it shares the embedding's storage, and know nothing of
    adapters: their product is added to the layer they adapt (arXiv 2106.09685, section 4.1).
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._model, self.dtype = model, dtype
        self._sources = list(_sources(model, str(dtype).removeprefix("torch.")))

    def specs(self) -> Sequence[ParamSpec]:
        """Name, dtype and shape of each wire tensor, tied ones under each of their names."""
        return [source.spec for source in self._sources]

    def tensors(self, whole: Whole) -> Iterator[torch.Tensor]:
        """Whole tensors in the order of `specs`, one at a time."""
        parameters = dict(self._model.named_parameters())
        held: tuple[str, torch.Tensor] | None = None
        for source in self._sources:
            if held is None or held[0] != source.parameter:  # a tied name follows its source: gathered once
                held = source.parameter, whole(parameters[source.parameter]).detach()
            yield self._merged(held[1], source, parameters, whole).to(self.dtype)

    def _merged(self, base: torch.Tensor, source: _Source, parameters: dict[str, nn.Parameter], whole: Whole) -> torch.Tensor:
        if source.down is None or source.up is None:
            return base
        down, up = whole(parameters[source.down]).detach(), whole(parameters[source.up]).detach()
        return base.float() + source.scaling * (up.float() @ down.float())


def _sources(model: Any, dtype: str) -> Iterator[_Source]:
    adapted = {name: module for name, module in model.named_modules() if hasattr(module, "base_layer")}
    tied = _tied_names(model)
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".base_layer.")
        if ".lora_" in name:
            continue
        plain = f"{owner}.{leaf}" if owner else name
        spec = ParamSpec(plain, dtype, tuple(parameter.shape))
        if owner and leaf == "weight":
            yield _Source(spec, name, f"{owner}.lora_A.default.weight", f"{owner}.lora_B.default.weight", adapted[owner].scaling["default"])
        else:
            yield _Source(spec, name)
        yield from (_Source(replace(spec, name=twin), name) for twin in tied.get(name, ()))


def _tied_names(model: Any) -> dict[str, tuple[str, ...]]:
    """Parameter -> the further names under which it must travel."""
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    if output is not embedding:
        return {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(embedding)]: ("lm_head.weight",)}
