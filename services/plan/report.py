"""A plan on the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from services.plan.answer import Answer
from services.plan.colocated import Colocated
from services.plan.estimate import Estimate
from services.plan.layout import Layout
from services.plan.parts import BYTES, GIB, MIB, Parts, size
from services.plan.pools import Pool

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


def show(answer: Answer, out: Console) -> None:
    """Pools, what their memory is made of, disk, what was chosen, the paper's layout beside this one, and whether it fits."""
    layout, found = answer.layout, answer.layout.estimate
    unit = GIBS if found.machine.gpus or found.host > SMALL else MIBS
    _print(out, *_head(answer), "")
    for table in (_pools(found, unit), _parts(found, unit)):
        width = max(out.width, Measurement.get(out, out.options.update(max_width=1_000), table).maximum)
        Console(file=out.file, width=width, highlight=False).print(table)
        _print(out, "")
    _print(out, *_rooms(layout, unit), *_host(found, unit), *_disk(found, unit))
    if layout.overrides:
        _print(out, "", "chosen, as overrides of the recipe:", *(f"  {override}" for override in layout.overrides))
    if answer.paper is not None:
        _print(out, *_beside_the_paper(layout, answer.paper))
    _print(out, "", *_verdict(answer))


def _head(answer: Answer) -> Iterator[str]:
    shape, dtype = answer.layout.estimate.shape, answer.layout.recipe.policy.dtype
    yield f"{answer.name}: {shape.parameters:,} parameters, {shape.kv_bytes(BYTES[dtype]):,} bytes of keys and values a token ({dtype})"
    if answer.note is not None:
        yield answer.note


def _pools(found: Estimate, unit: Unit) -> Table:
    gpu = found.machine.gpus > 0
    heads: dict[str, Justify] = {"pool": "left", "members": "right"}
    heads |= {"GPUs": "right", "GiB on a GPU": "right", "of": "right", "fits": "left"} if gpu else {}
    table = _table(heads | {f"host {unit.name} each": "right", f"host {unit.name}": "right"})
    for pool in found.pools:
        device = (unit(pool.device.size), unit(pool.limit), _yes(pool.fits)) if pool.device else ("", "", "")
        cells = (f"{pool.all_gpus:g}" if pool.gpus else "", *device) if gpu else ()
        table.add_row(pool.name, str(pool.members), *cells, unit(size(pool.host)), unit(pool.all_host))
    alike = Counter(shared.names for shared in found.shared)
    for shared in {shared.names: shared for shared in found.shared}.values():
        table.add_row(
            f"shared by {shared.names}", "", f"{alike[shared.names]}", unit(shared.size), unit(shared.limit), _yes(shared.fits), "", ""
        )
    total = (f"{found.gpus:g}", "", "", _yes(found.fits)) if gpu else ()
    table.add_row("in all, with libraries and groups under way", "", *total, "", unit(found.host), style="bold")
    return table


def _yes(fits: bool) -> str:
    return "yes" if fits else "NO"


def _parts(found: Estimate, unit: Unit) -> Table:
    table = _table({"what it is made of": "left", "": "left", unit.name: "right"})
    for pool in found.pools:
        for where, parts in _places(pool):
            for index, (part, amount) in enumerate(parts.items()):
                table.add_row(where if index == 0 else "", part.value, unit(amount))
    return table


def _places(pool: Pool) -> Iterator[tuple[str, Parts]]:
    """(where, what) of one member's memory, and of what one member alone has."""
    if pool.device is not None:
        tokens = f" {pool.device.tokens:,} tokens" if pool.device.tokens else ""
        yield f"{pool.name}, on a GPU, {pool.device.when}{tokens}", pool.device.parts
    yield f"{pool.name}, host memory of each", pool.host
    yield f"{pool.name}, host memory of one", pool.once


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
    theirs = f"{_seconds(paper.generation_s)} + {_seconds(paper.learning_s)} = {_seconds(paper.step_s)} s"
    work = f"generating {_seconds(pace.generation)} s, scoring {_seconds(pace.reference)} s, learning {_seconds(pace.learning)} s"
    stale = layout.recipe.replay.max_staleness
    if not layout.recipe.replay.by_turns:
        yield f"  a step, roughly: {theirs}, here {_seconds(pace.slowest)} s, the longest of {work}, all at the same time"
        yield "  what disjoint pools cost: memory of a pool is of no use to another, and the slowest pool sets the pace"
        yield (
            f"  what asynchrony (max_staleness={stale}) gives back: no engine waits for the longest response of a step, none sleeps or "
            f"wakes; the price is responses up to {stale} version{'s' if stale > 1 else ''} old"
        )
    else:
        sampling = max(pace.generation, pace.reference)  # groups are scored as they come
        ours = f"{_seconds(sampling)} + {_seconds(pace.learning)} = {_seconds(sampling + pace.learning)} s"
        yield f"  a step, roughly: {theirs}, here {ours}: {work}, which waits for the others"
        yield "  what disjoint pools cost: memory of a pool is of no use to another, and one stands still while another works"
        yield (
            f"  what asynchrony would give back (max_staleness of 1 or more, exact_staleness off): all at the same time, "
            f"{_seconds(pace.slowest)} s a step"
        )


def _verdict(answer: Answer) -> Iterator[str]:
    found = answer.layout.estimate
    if not found.machine.gpus:
        yield "on CPUs: compare host memory with what the nodes have"
    elif found.fits:
        yield f"fits: {found.gpus:g} of {found.machine.gpus} GPUs (by formulas that no GPU has confirmed: docs/sizing.md)"
    else:
        yield "does NOT fit:"
        yield from (f"  {line}" for line in _lacking(found))
        if answer.remedies:
            yield f"each of these alone would make it fit: {'; '.join(answer.remedies)}"
        else:
            yield "no single change makes it fit: tried were adapters, offloading, no reference, more GPUs of this size"


def _lacking(found: Estimate) -> Iterator[str]:
    """Why it does not fit, pool by pool."""
    for pool in found.pools:
        if pool.room is not None and pool.room.responses < 1:
            yield f"{pool.name}: no room for a single response"
        elif pool.device is not None and not pool.fits:
            yield f"{pool.name}: {GIBS(pool.device.size)} GiB, and a GPU offers {GIBS(pool.limit)}"
        if pool.start > pool.limit:
            yield f"{pool.name}: at the start each has the whole model on its GPU, {GIBS(pool.start)} GiB; more of them do not lower that"
    for shared in {shared.names: shared for shared in found.shared if not shared.fits}.values():
        yield f"a GPU shared by {shared.names}: {GIBS(shared.size)} GiB together, and it offers {GIBS(shared.limit)}"
    if found.gpus > found.machine.gpus:
        yield f"the pools ask for {found.gpus:g} GPUs of {found.machine.gpus}: none is in two pools unless they ask for parts of it"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.2g}"


def _print(out: Console, *lines: str) -> None:
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
