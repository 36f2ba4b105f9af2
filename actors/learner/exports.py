"""Servable versions as training makes them: written, thinned out, and copied to where the run is stored.

    write ──► prune ──► (a thread) upload what the storage lacks ──► prune there

An upload that fails is told and tried again with the next version and at the end of the run; training never waits for one, nor ends
with one. Where it cannot be known which versions are protected, none is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from actors.weights.shelf import Shelf
from actors.weights.version import committed_steps, prune, retained, version_path, write_version

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

Tell = Callable[[str, str], None]
"""Takes an event and why: a line for the history and the console."""


class Exporter:
    """Rank 0's hand on the folder of versions; on the other ranks it is never called upon."""

    def __init__(self, policies: Path, mirror: str | None, *, keep: int, protected: Callable[[], Collection[int]], tell: Tell) -> None:
        """`mirror` is the path or URL where every version must be found too; `protected` says which are never deleted, besides 0."""
        self._policies, self._mirror, self._keep = policies, mirror, keep
        self._protected, self._tell = protected, tell
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="export")
        self._pending: Future[bool] | None = None

    def write(
        self, step: int, state_dict: Mapping[str, torch.Tensor], *, model_config: PretrainedConfig, tokenizer_dir: Path, run: str
    ) -> None:
        """Write the version of a step, delete what is not kept any more, and have the mirror follow."""
        write_version(
            version_path(self._policies, step),
            state_dict=state_dict,
            model_config=model_config,
            tokenizer_dir=tokenizer_dir,
            step=step,
            parent=max((other for other in committed_steps(self._policies) if other < step), default=None),
            run=run,
        )
        protected = self._known_protected()
        if protected is not None:
            prune(self._policies, keep_last=self._keep, protected=protected)
        if self._mirror is not None:
            self._pending = self._thread.submit(self._follow, self._mirror, protected)

    def finish(self) -> None:
        """Return when the mirror holds the same versions, or has failed once more; also what an earlier process left undone."""
        if self._mirror is not None and not (self._pending and self._pending.result()):
            self._follow(self._mirror, self._known_protected())

    def close(self) -> None:
        """Let the thread end; an upload under way is cut off with the process and made up for by the next run."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _known_protected(self) -> set[int] | None:
        """What must not be deleted; None where that cannot be known, which is told."""
        try:
            return {0, *self._protected()}
        except Exception as error:  # of whatever kind its sources have
            self._tell("retention_failed", f"no version is deleted: {error}")
            return None

    def _follow(self, mirror: str, protected: set[int] | None) -> bool:
        """Bring the mirror up to what is here; False, told, where that fails."""
        try:
            shelf = Shelf(mirror)
            failures = [why for step in committed_steps(self._policies) if (why := self._upload(shelf, step))]
            if failures:
                self._tell("upload_failed", "; ".join(failures))
                return False
            if protected is not None:
                steps = shelf.steps()
                gone = {*steps} - retained(steps, keep_last=self._keep, protected=protected)
                for step in sorted(gone | (shelf.unfinished() - {*committed_steps(self._policies)})):
                    shelf.discard(step)
        except Exception as error:  # of whatever kind the storage has
            self._tell("upload_failed", f"{mirror}: {error}")
            return False
        return True

    def _upload(self, shelf: Shelf, step: int) -> str | None:
        """Why a version could not be uploaded; None for one that was deleted here in the meantime, and need not be there either."""
        try:
            shelf.upload(self._policies, step)
        except Exception as error:  # of whatever kind the storage has; the other versions may fare better
            return f"{shelf.place(step)}: {error}" if step in committed_steps(self._policies) else None
        return None
