"""How the queue takes up a run that began before its process did: what the driver brought along becomes events and publications. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from actors.replay.ledger import State
from actors.replay.messages import Published
from actors.replay.standing import Claim, Event, Standing
from actors.replay.steps import Steps
from actors.types import Held, StepResult


def missing_events(
    standing: Standing, groups: Mapping[int, Held], recorded: Mapping[int, Claim], reached: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, fields) of what must be recorded so that the driver's groups are ready; each is to be applied before the next is drawn.

    recorded: steps that are to be trained again unchanged.
    reached: the newest step that any earlier driver trained, maybe beyond the checkpoint.
    """
    ledger = standing.ledger
    kept = max([*recorded, standing.trained, standing.recorded])
    if reached > kept and standing.forgotten is None:
        yield "forgotten", {"step": kept + 1}
    for ordinal, (meta, _) in groups.items():
        if ordinal not in ledger:  # it was admitted after the checkpoint, and trained in a recorded step
            yield State.ADMITTED, {"ordinals": [ordinal], "version": meta.versions[0]}
        elif ledger[ordinal].state is not State.ADMITTED or ordinal in standing.waiting:
            continue  # the process before this one knew it
        stages = (State.GENERATED, State.VERIFIED)
        yield State.READY, {"ordinals": [ordinal], "stages": stages, "versions": list(meta.versions), "seconds": {}}
    if (last := max(recorded, default=0)) > standing.recorded:
        yield "recorded", {"step": last}  # nobody else will say so before the engines are up


def unheard(past: Iterable[Event], groups: Mapping[int, Held], steps: Steps, committed: int) -> Iterator[Published]:
    """What was published in this driver's life and the conductor may not have heard of: it has not let go of the groups."""
    claims: dict[int, Claim] = {}
    for event in past:
        if event["event"] == State.CLAIMED:
            claims[event["step"]] = Claim(tuple(event["ordinals"]), event["filtered"])
        elif "metrics" in event and groups.keys() >= set(claims[step := event["version"]].ordinals):
            result = StepResult(step, event["metrics"])
            yield Published(step, steps.frozen(step, claims[step], groups), result, event["time"], committed)
