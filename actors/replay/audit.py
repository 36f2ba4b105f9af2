"""The audit of a history: was every prompt trained once or dropped with a reason, in order, and fresh enough? Pure, one pass.

It sums the events up as the queue did (`Standing`) and holds each against what came before it. What a driver that went back to a
checkpoint undid does not count as trained; what a learner group does again after a restart is no second training. A line that breaks a
rule is a violation, and the audit goes on as though that line were right, so that one fault is not told many times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.errors import LedgerError
from actors.replay.ledger import Ledger, State
from actors.replay.standing import Event, Standing

REASONS = frozenset({"stale", "poisoned", "masked", "filtered"})
"""For which a prompt may be dropped."""

BEGINNINGS = frozenset({"started", "resumed"})
BEFORE: Mapping[str, State | None] = {
    "admitted": None,
    "ready": State.ADMITTED,
    "dropped": State.ADMITTED,
    "claimed": State.READY,
    "unclaimed": State.CLAIMED,
    "trained": State.CLAIMED,
}
"""Where a prompt may stand for the event to be right."""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of a run's prompts, and what happened to the run."""

    prompts: Mapping[str, int]  # state -> how many stand there at the end; each admitted prompt once
    dropped: Mapping[str, int]  # reason -> prompts
    reissued: int  # admissions of a prompt that was admitted before
    steps: int  # trained
    committed: int  # step of the newest checkpoint
    driver_restarts: int
    queue_restarts: int
    learner_restarts: int
    publications: int  # confirmed by every engine
    failed_publications: int
    failed_checkpoints: int
    engines_lost: int
    engines_back: int
    oldest_age: int | None  # greatest age, in versions, of a group that was trained; None before the first
    overdue: int  # groups claimed beyond the staleness bound


@dataclass(frozen=True, slots=True)
class Audit:
    """The verdict on a history."""

    account: Account
    trained: Mapping[int, tuple[int, ...]]  # step -> its prompts
    finished: bool  # the run's last step is reached
    violations: tuple[str, ...]  # in the order of the lines that break a rule


def audit(events: Iterable[Event], *, max_staleness: int | None = None, steps: int | None = None) -> Audit:
    """Check a history, of a run that ended or still goes on.

    max_staleness: the run's bound on the age of a group; None: ages are not judged.
    steps: the run's last step; once it is trained no prompt may be left over. None: prompts may be under way at the end.
    """
    auditor = _Auditor(max_staleness, steps)
    for event in events:
        auditor.take(event)
    return auditor.verdict()


@dataclass(slots=True)
class _Auditor:
    """One event at a time; `_on_<event>` judges an event before the standing takes it."""

    max_staleness: int | None
    steps: int | None
    standing: Standing = field(default_factory=Standing)
    trained: dict[int, tuple[int, ...]] = field(default_factory=dict)  # by step, without what was undone
    promised: dict[int, tuple[int, ...]] = field(default_factory=dict)  # steps trained and undone, to be done again alike
    oldest: dict[int, int] = field(default_factory=dict)  # prompt -> oldest version among its tokens, since it was last ready
    ages: dict[int, int] = field(default_factory=dict)  # trained step -> greatest age
    counts: Counter[str] = field(default_factory=Counter)  # events of each kind, and what else is counted
    violations: list[str] = field(default_factory=list)
    line: int = 0
    place: str = "the end"
    session: str | None = None
    published: int = 0  # newest version of the present learner group
    unpublished: int | None = None  # step that is trained, its version not yet published
    closed: bool = False
    aged: bool = False  # whether in this driver's life a learner group went back to its checkpoint

    def take(self, event: Event) -> None:
        """Judge one event, and let the standing take it."""
        self.line += 1
        try:
            kind = event["event"]
            self.place = f"line {self.line}, {kind}"
            self.counts[kind] += 1
            self._sequence(kind)
            judge = getattr(self, f"_on_{kind}", None)
            if judge is not None:
                judge(event)
            self._apply(event)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.place = f"line {self.line}"
            self._wrong(f"not an event as the history lists them ({type(error).__name__}: {error})")

    def verdict(self) -> Audit:
        """What can be said at the end only."""
        lives = self.standing.ledger.snapshot()
        finished = self.steps is not None and self.standing.trained >= self.steps
        self.place = "at the end"
        self._nothing_lost(finished)
        if self.closed and self.unpublished is not None:
            self._wrong(f"step {self.unpublished} was trained and its version never published")
        account = Account(
            prompts=self.standing.ledger.account(),
            dropped=dict(sorted(Counter(reason for _, _, _, reason in lives if reason is not None).items())),
            reissued=self.counts["reissued"],
            steps=self.standing.trained,
            committed=self.standing.committed,
            driver_restarts=max(0, self.counts["started"] + self.counts["resumed"] - 1),
            queue_restarts=self.counts["rebuilt"],
            learner_restarts=self.counts["learner restarts"],
            publications=self.counts["published"],
            failed_publications=self.counts["unsynced"],
            failed_checkpoints=self.counts["checkpoint_failed"],
            engines_lost=self.counts["engine_lost"],
            engines_back=self.counts["engine_back"],
            oldest_age=max(self.ages.values(), default=None),
            overdue=self.counts["overdue"],
        )
        return Audit(account, self.trained, finished, tuple(self.violations))

    def _nothing_lost(self, finished: bool) -> None:
        ledger = self.standing.ledger
        if missing := [ordinal for ordinal in range(ledger.next_ordinal()) if ordinal not in ledger]:
            self._wrong(f"{_prompts(missing)} never admitted, though later ones were")
        # A drop that was undone may leave both the prompt and the one that took its place without a step to go to.
        if finished and len(left := ledger.unfinished()) > self.counts["undone drops"]:
            self._wrong(f"{_prompts(left)} neither trained nor dropped, though the last step is done")

    # --- the sum of the events ------------------------------------------------------------------------------------------------

    def _apply(self, event: Event) -> None:
        try:
            self.standing.apply(event)
        except LedgerError as error:
            self._wrong(str(error))
            self._mend(event)

    def _mend(self, event: Event) -> None:
        """Put the event's prompts where they must stand for it to be right, and take it."""
        rows = {row[0]: row for row in self.standing.ledger.snapshot()}
        before = BEFORE[event["event"]]
        for ordinal in event["ordinals"]:
            rows.pop(ordinal, None)
            if before is not None:
                rows[ordinal] = [ordinal, before, event.get("step"), None]
        self.standing.ledger = Ledger.restore(rows.values())
        try:
            self.standing.apply({**event, "ordinals": list(dict.fromkeys(event["ordinals"]))})
        except LedgerError:
            return  # it contradicts itself, and has been told

    def _wrong(self, what: str) -> None:
        self.violations.append(f"{self.place}: {what}")

    # --- drivers, queues, learner groups --------------------------------------------------------------------------------------

    def _sequence(self, kind: str) -> None:
        if self.session is None and kind not in BEGINNINGS:
            self._wrong("comes before any driver began")
            self.session = ""
        if self.closed and kind not in BEGINNINGS and kind != "rebuilt":
            self._wrong("comes after the queue was closed")
        self.closed = kind == "closed"

    def _on_started(self, event: Event) -> None:
        self._on_resumed(event)

    def _on_resumed(self, event: Event) -> None:
        """Undo what came after the checkpoint. That may be an older one than the newest: a damaged one is passed over."""
        step = event["step"]
        if step > self.standing.trained:
            self._wrong(f"goes on from step {step}, and {self.standing.trained} steps were trained")
        self.counts["undone drops"] += sum(
            state == State.DROPPED and (at or 0) > step for _, state, at, _ in self.standing.ledger.snapshot()
        )
        for later in [later for later in self.trained if later > step]:
            self.promised[later] = self.trained.pop(later)
            self.ages.pop(later, None)
        if self.unpublished is not None and self.unpublished > step:
            self.unpublished = None
        self.session, self.published, self.aged = event["session"], step, False

    def _on_rebuilt(self, event: Event) -> None:
        if event["session"] != self.session:
            self._wrong(f"the queue of {event['session']}, while {self.session} drives the run")

    def _on_learner(self, event: Event) -> None:
        if event["attempt"] != self.standing.attempt + 1:
            self._wrong(f"attempt {event['attempt']} follows attempt {self.standing.attempt}")
        if event["step"] > self.standing.committed:
            self._wrong(f"begins from step {event['step']}, and the newest checkpoint is of step {self.standing.committed}")
        if self.standing.attempt > 0:
            self.counts["learner restarts"] += 1
            self.aged = True
        self.published = event["step"]

    def _on_forgotten(self, event: Event) -> None:
        self.promised = {step: ordinals for step, ordinals in self.promised.items() if step < event["step"]}

    def _on_closed(self, event: Event) -> None:
        ours = self.standing.ledger.account()
        for state in (State.TRAINED, State.DROPPED):
            if event["account"][state] != ours[state]:
                self._wrong(f"{event['account'][state]} prompts {state}, while the lines before make it {ours[state]}")

    # --- prompts --------------------------------------------------------------------------------------------------------------

    def _on_admitted(self, event: Event) -> None:
        self.counts["reissued"] += sum(ordinal in self.standing.ledger for ordinal in event["ordinals"])

    def _on_ready(self, event: Event) -> None:
        for ordinal in event["ordinals"]:
            self.oldest[ordinal] = event["versions"][0]

    def _on_dropped(self, event: Event) -> None:
        if event["reason"] not in REASONS:
            self._wrong(f"{_prompts(event['ordinals'])} dropped for no known reason: {event['reason']}")

    # --- steps ----------------------------------------------------------------------------------------------------------------

    def _turn(self, event: Event) -> None:
        """What a learner group is told: by its present attempt, once a turn, until the run stops."""
        standing, turn = self.standing, event["turn"]
        if event["attempt"] != standing.attempt:
            self._wrong(f"for attempt {event['attempt']}, which attempt {standing.attempt} has replaced")
        elif turn <= max(standing.turns, default=turn - 1):
            self._wrong(f"turn {turn} was already decided")
        if standing.stopping is not None:
            self._wrong("comes after the run was told to stop")

    _on_reclaimed = _on_resync = _turn

    def _on_claimed(self, event: Event) -> None:
        step, ordinals = event["step"], event["ordinals"]
        self._turn(event)
        if step <= self.standing.trained:
            self._wrong(f"step {step} was already trained")
        promised = self.promised.get(step)
        if promised is not None and sorted(promised) != sorted(ordinals):
            self._wrong(f"step {step} was trained on {_prompts(promised)} before a restart, and is now to be on {_prompts(ordinals)}")
        late = [ordinal for ordinal in ordinals if self.max_staleness is not None and self._age(step, ordinal) > self.max_staleness]
        self.counts["overdue"] += len(late)
        if late and not self.aged and promised is None:
            self._wrong(f"step {step}: {_prompts(late)} older than {self.max_staleness} versions")

    def _on_unclaimed(self, event: Event) -> None:
        step, ordinals = event["step"], event["ordinals"]
        if step in self.trained:
            self._wrong(f"step {step} was already trained")
        if sorted(self.standing.claims[step].ordinals) != sorted(ordinals):
            self._wrong(f"step {step} was not claimed with {_prompts(ordinals)}")

    def _age(self, step: int, ordinal: int) -> int:
        return step - 1 - self.oldest.get(ordinal, step - 1)

    def _on_trained(self, event: Event) -> None:
        step, ordinals, standing = event["step"], tuple(event["ordinals"]), self.standing
        if step != standing.trained + 1:
            self._wrong(f"step {step} follows step {standing.trained}")
        claim = standing.claims.get(step)
        if claim is None:
            self._wrong(f"step {step} was not claimed")
        elif sorted(claim.ordinals) != sorted(ordinals):
            self._wrong(f"step {step} was claimed with {_prompts(claim.ordinals)}, and trained on {_prompts(ordinals)}")
        self._publication_due(step)
        self.unpublished = step
        self.trained[step] = ordinals
        self.promised.pop(step, None)
        self.ages[step] = max((self._age(step, ordinal) for ordinal in ordinals), default=0)

    def _on_published(self, event: Event) -> None:
        number, version, standing = event["number"], event["version"], self.standing
        if number != standing.publications + 1:
            self._wrong(f"publication {number} follows publication {standing.publications}")
        if version < self.published:
            self._wrong(f"version {version} follows version {self.published} of the same learner group")
        if version > standing.trained and version not in standing.claims:
            self._wrong(f"version {version} is of a step that was not claimed")
        self.published = version
        if self.unpublished == version:
            self.unpublished = None

    def _on_committed(self, event: Event) -> None:
        step, standing = event["step"], self.standing
        if step <= standing.committed:
            self._wrong(f"the checkpoint of step {step} follows that of step {standing.committed}")
        if step not in self.trained:
            self._wrong(f"step {step} was not trained")
        self._publication_due(step + 1)

    def _publication_due(self, before: int) -> None:
        if self.unpublished is not None and self.unpublished < before:
            self._wrong(f"the version of step {self.unpublished} was not published before")
            self.unpublished = None


def _prompts(ordinals: Sequence[Any]) -> str:
    """Some prompts, by name; of many the first ones."""
    shown = ", ".join(map(str, ordinals[:8]))
    return f"prompt{'s' if len(ordinals) > 1 else ''} {shown}{f' and {len(ordinals) - 8} more' if len(ordinals) > 8 else ''}"
