"""The append-only history on disk, `ledger.jsonl`: one JSON object a line, in the order things happened. What stands here survives.

started | resumed   session, step              a driver began, or went on from the checkpoint of `step`: later work is undone
forgotten           step                       from this step on, what was trained before the resume will be trained on other groups
rebuilt             session                    the queue's process died and was made again from this file; nothing is undone
admitted            ordinals, version          prompts enter, or enter again because their work was lost
ready               ordinals, stages, versions, seconds    one prompt came through the pools (no seconds: it came back from disk)
dropped             ordinals, reason, step     why (stale, poisoned, masked, filtered), and which step was next
claimed             ordinals, step, attempt, turn, filtered    a step was frozen for this turn of a learner group
unclaimed           ordinals, step             the step was broken up, because groups of it were lost
reclaimed           step, attempt, turn        a frozen step was handed out once more
resync              epoch, attempt, turn       the learner group was sent to the engines of `epoch`
learner             attempt, step              a learner group began from the checkpoint of `step`
trained             ordinals, step, digest     the step's ack
published           number, version, epoch, digest, metrics    every engine confirmed `version`; `number` grows over restarts too
                    (metrics: all figures of the step, where the version is that of a step just trained)
unsynced            engine, phase, version, epoch, error    a publication failed
engine_lost         engine, why                it is being replaced
engine_back         engine, why                it confirmed the present version
checkpoint_failed   why                        one could not be written; the run goes on
upload_failed       why                        a policy version could not be copied to run.storage; it is tried again
retention_failed    why                        no old version was deleted, since which must stay could not be read
stopping            reason                     no further step
recorded            step                       what it was trained on is on disk
committed           step                       a checkpoint covers the step
failed              error                      the learner group cannot go on, and starting it again would not help
closed              account
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from actors.errors import GmpoError


class History:
    """Writes one run's history. Each line is with the operating system before the call returns, so it outlives this process."""

    def __init__(self, path: Path, *, wait_s: float = 60.0) -> None:
        """Waits for another process that still writes: of a driver that is gone, whose actors are not. GmpoError if it stays."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        _lock(self._file, time.monotonic() + wait_s)
        self._file.truncate(_whole(path.read_bytes()))  # a line that a kill cut off is no line

    def write(self, event: str, **fields: Any) -> None:
        """Add one line: {"time": unix seconds, "event": ..., fields}."""
        line = json.dumps({"time": round(time.time(), 3), "event": str(event), **fields}) + "\n"
        self._file.write(line.encode("ascii"))
        self._file.flush()

    def close(self) -> None:
        """Close the file; writing afterwards is an error."""
        self._file.close()


def _lock(file: IO[bytes], until: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > until:
                file.close()
                raise GmpoError(f"{file.name}: another replay queue still writes to it") from None
            time.sleep(0.1)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a history, oldest first; none where there is no file."""
    if path.exists():
        content = path.read_bytes()
        for line in content[: _whole(content)].splitlines():
            yield json.loads(line)


def _whole(content: bytes) -> int:
    """Bytes up to the end of the last whole line."""
    return content.rfind(b"\n") + 1
