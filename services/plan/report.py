"""A plan on the screen and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from services.plan.colocated import Colocated, colocated
from services.plan.estimate import Estimate, Pool
from services.plan.layout import Layout
from services.plan.parts import BYTES, GIB, MIB
from services.plan.remedies import remedies

Justify = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Unit:
    """In what sizes are shown."""

    name: str
    size: int

    def __call__(self, size: float) -> str:
        """A size in this unit, without its name."""
        value = size / self.size
        return f"{value:,.0f}" if abs(value) >= 100 or (value == 0) else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


GIBS, MIBS = Unit("GiB", GIB), Unit("MiB", MIB)
SMALL = 16 * GIB
"""A run on CPUs that takes less in all is shown in MiB."""


def show(name: str, layout: Layout, out: Console) -> None:
    """Pools, what their memory is made of, disk, the recipe's lines, and the paper's layout beside this one."""
    found, recipe = layout.estimate, layout.recipe
    number = BYTES[recipe.policy.dtype]
    about = (
        f"{found.shape.parameters:,} parameters, {found.shape.kv_bytes(number):,} bytes of keys and values a token ({recipe.policy.dtype})"
    )
    _print(out, f"{name}: {about}", "")
    unit = GIBS if found.machine.gpus or found.host > SMALL else MIBS
    for table in (_pools(found, unit), _parts(found, unit)):
        width = max(out.width, Measurement.get(out, out.options.update(max_width=1_000), table).maximum)
        Console(file=out.file, width=width, highlight=False).print(table)
        _print(out, "")
    _print(out, *_rooms(layout, unit), *_host(found, unit), *_disk(found, unit))
    if layout.changes:
        _print(out, "", "for the recipe:", f"  {' '.join(overrides(layout))}")
    if layout.pace is not None and found.fits:
        _print(out, *_beside_the_paper(layout, colocated(layout, found.shape, found.machine)))
    _print(out, "", *_verdict(layout))


def overrides(layout: Layout) -> list[str]:
    """What was chosen, as the command line takes it."""
    return [f"{path}={str(value).lower()}" for path, value in layout.changes.items()]


def as_json(name: str, layout: Layout) -> dict[str, Any]:
    """The whole plan in plain values; sizes in bytes."""
    found = layout.estimate
    return {
        "model": name,
        "parameters": found.shape.parameters,
        "machine": {"gpus": found.machine.gpus, "gpu_bytes": found.machine.gpu_bytes, "nodes": found.machine.nodes},
        "fits": found.fits,
        "gpus": found.gpus,
        "pools": [_pool_json(pool) for pool in found.pools],
        "host_bytes": found.host,
        "object_store_bytes": found.object_store,
        "disk": {
            "checkpoint_bytes": found.disk.checkpoint,
            "checkpoints": found.disk.checkpoints,
            "version_bytes": found.disk.version,
            "versions": found.disk.versions,
            "rollouts_bytes": found.disk.rollouts,
        },
        "overrides": overrides(layout),
    }


def _pool_json(pool: Pool) -> dict[str, Any]:
    return {
        "name": pool.name,
        "members": pool.members,
        "gpus": pool.all_gpus,
        "fits": pool.fits,
        "gpu_bytes": pool.device and dict(pool.device.parts),
        "gpu_limit_bytes": pool.limit or None,
        "responses": pool.room and pool.room.responses,
        "host_bytes": pool.all_host,
        "host_member_bytes": dict(pool.host),
        "host_once_bytes": dict(pool.once),
    }


def _pools(found: Estimate, unit: Unit) -> Table:
    gpu = found.machine.gpus > 0
    heads: dict[str, Justify] = {"pool": "left", "members": "right"}
    heads |= {"GPUs": "right", "GiB on a GPU": "right", "of": "right", "fits": "left"} if gpu else {}
    table = _table(heads | {f"host {unit.name} each": "right", f"host {unit.name}": "right"})
    for pool in found.pools:
        device = (unit(pool.device.size), unit(pool.limit), "yes" if pool.fits else "NO") if pool.device else ("", "", "")
        cells = (f"{pool.all_gpus:g}" if pool.gpus else "", *device) if gpu else ()
        table.add_row(pool.name, str(pool.members), *cells, unit(sum(pool.host.values())), unit(pool.all_host))
    total = (f"{found.gpus:g}", "", "", "yes" if found.gpus <= found.machine.gpus else "NO") if gpu else ()
    table.add_row("in all, with libraries and groups under way", "", *total, "", unit(found.host), style="bold")
    return table


def _parts(found: Estimate, unit: Unit) -> Table:
    table = _table({"what it is made of": "left", "": "left", unit.name: "right"})
    for pool in found.pools:
        parts = pool.device.parts if pool.device else pool.host
        for index, (name, size) in enumerate(parts.items()):
            where = f"{pool.name}, {pool.device.when}" if pool.device else pool.name
            table.add_row(where if index == 0 else "", name, unit(size))
    return table


def _table(heads: Mapping[str, Justify]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head, justify in heads.items():
        table.add_column(head, justify=justify, no_wrap=True)
    return table


def _rooms(layout: Layout, unit: Unit) -> Iterator[str]:
    asked = {"engines": layout.recipe.generation.max_running, "endpoint": layout.recipe.serve.max_running}
    for pool in layout.estimate.pools:
        if pool.room is not None:
            room = f"room for {pool.room.responses:,} whole sequences of {pool.room.response_tokens:,} tokens"
            yield f"{pool.name}: {unit(pool.room.kv_bytes)} {unit.name} of keys and values each, {room}; at most {asked[pool.name]} run"


def _host(found: Estimate, unit: Unit) -> Iterator[str]:
    nodes = f"{found.machine.nodes} node{'s' if found.machine.nodes > 1 else ''}"
    store = f"groups under way take up to {unit(found.object_store)} of the object store"
    yield f"host memory: {unit(found.host)} {unit.name} on {nodes}; {store}"


def _disk(found: Estimate, unit: Unit) -> Iterator[str]:
    disk = found.disk
    kinds = f"{disk.checkpoints} checkpoints of {unit(disk.checkpoint)}, {disk.versions} versions of {unit(disk.version)}"
    yield f"disk: {unit(disk.size)} {unit.name} at most: {kinds}, rollouts {unit(disk.rollouts)}"


def _beside_the_paper(layout: Layout, paper: Colocated) -> Iterator[str]:
    found, pace = layout.estimate, layout.pace
    assert pace is not None
    gpus, engines, learner = found.machine.gpus, found.pool("engines"), found.pool("learner")
    here = engines.room.responses * engines.members if engines.room else 0
    yield ""
    yield f"beside the paper's colocated layout (all {gpus} GPUs generate, then all learn; no reference model):"
    yield (
        f"  a GPU there: {GIBS(sum(paper.learner.values()))} GiB of learner (ZeRO-2) all the time, "
        f"{GIBS(paper.engine)} GiB of engine that sleeps while it learns"
    )
    yield f"  in turns {gpus} GPUs generate and {gpus} learn, here {engines.all_gpus:g} and {learner.all_gpus:g} always"
    yield f"  room for whole responses at once: {paper.responses * gpus:,}, here {here:,}"
    turns = f"{_seconds(paper.generation_s)} + {_seconds(paper.learning_s)} = {_seconds(paper.step_s)} s"
    together = f"{_seconds(pace.generation)} s generating, {_seconds(pace.learning)} s learning, {_seconds(pace.reference)} s scoring"
    yield f"  a step, roughly: {turns}, here the longest of {together}, at the same time"
    yield "  what disjoint pools cost: memory of a pool is of no use to another, and the slowest pool sets the pace"
    stale = layout.recipe.replay.max_staleness
    if stale:
        yield (
            f"  what asynchrony (max_staleness={stale}) gives back: no engine waits for the longest response of a step, none sleeps or "
            f"wakes; the price is responses up to {stale} version{'s' if stale > 1 else ''} old"
        )
    else:
        yield "  with max_staleness=0 the pools take turns: the times above add up, and nothing is given back"


def _verdict(layout: Layout) -> Iterator[str]:
    found = layout.estimate
    if not found.machine.gpus:
        yield "on CPUs: compare host memory with what the nodes have"
        return
    if found.fits:
        yield f"fits: {found.gpus:g} of {found.machine.gpus} GPUs (by formulas that no GPU has confirmed: docs/sizing.md)"
        return
    yield "does NOT fit:"
    for pool in found.pools:
        if not pool.fits and pool.device is not None:
            short = pool.room is not None and pool.room.responses < 1
            yield f"  {pool.name}: " + (
                "no room for a single response" if short else f"{GIBS(pool.device.size)} GiB, and a GPU offers {GIBS(pool.limit)}"
            )
    if found.gpus > found.machine.gpus:
        yield f"  the pools ask for {found.gpus:g} GPUs of {found.machine.gpus}: they are disjoint"
    if words := list(remedies(layout.asked, found.shape, found.machine)):
        yield f"each of these alone would make it fit: {'; '.join(words)}"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.2g}"


def _print(out: Console, *lines: str) -> None:
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
