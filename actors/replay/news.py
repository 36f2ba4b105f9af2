"""What the conductor must hear of though it did not do it: recalled prompts, failed publications, notes. Told by events, and in order.

Each list only grows during a driver's life, also where the queue's process is made again; whoever listens knows how many it has heard.
"""

from __future__ import annotations

from actors.errors import WeightSyncError
from actors.replay.messages import Recall
from actors.replay.standing import Event


class News:
    """Collects them from events."""

    def __init__(self) -> None:
        self.recalls: list[Recall] = []
        self.unsynced: list[tuple[int, WeightSyncError]] = []  # with the epoch of the engines
        self.notes: list[str] = []

    @property
    def broken(self) -> int:
        """Epoch of the engines to which a publication failed last; -1 before any did."""
        return self.unsynced[-1][0] if self.unsynced else -1

    def apply(self, event: Event) -> None:
        """Take note of an event, if it is one of these."""
        match event:
            case {"event": "unsynced"}:
                error = WeightSyncError(event["error"], engine=event["engine"], phase=event["phase"], version=event["version"])
                self.unsynced.append((event["epoch"], error))
                self.notes.append(f"publication failed: {error}")
            case {"recall": reason}:
                self.recalls += [Recall(ordinal, reason) for ordinal in event["ordinals"]]
            case {"why": why}:
                self.notes.append(f"{event['event'].replace('_', ' ')}: {why}")
