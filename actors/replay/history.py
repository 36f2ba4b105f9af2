"""The append-only history on disk: one JSON object a line, in the order things happened."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class History:
    """Writes `ledger.jsonl`. Each line is flushed to the operating system before the call returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, event: str, **fields: Any) -> None:
        """Add one line: {"time": unix seconds, "event": ..., fields}."""
        self._file.write(json.dumps({"time": round(time.time(), 3), "event": str(event), **fields}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; writing afterwards is an error."""
        self._file.close()
