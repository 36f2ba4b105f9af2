"""Types of the settings that say what an actor takes of its node, beside CPUs."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

OWN_SETTINGS = {"CPU": "cpus", "GPU": "gpus"}
NOT_CUSTOM = ("memory", "object_store_memory")


def _whole_or_part(amount: float) -> float:
    if amount > 1 and not amount.is_integer():
        raise ValueError(f"{amount:g} is neither a part of one nor a whole number")
    return amount


def _custom(resources: dict[str, float]) -> dict[str, float]:
    for name in resources:
        if name in OWN_SETTINGS:
            raise ValueError(f"{name}: has a setting of its own, {OWN_SETTINGS[name]}")
        if name in NOT_CUSTOM:
            raise ValueError(f"{name}: is Ray's own; choose another name")
    return resources


Gpus = Annotated[float, Field(ge=0), AfterValidator(_whole_or_part)]
"""GPUs of one process: a whole number, or a part of one GPU that it shares with others."""
CustomResources = Annotated[
    dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0), AfterValidator(_whole_or_part)]], AfterValidator(_custom)
]
"""Amounts of Ray's custom resources, by name: an actor goes only to a node that offers them."""
