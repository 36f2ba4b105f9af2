"""What an operator asked for: which version `policy` means, and which versions stay. One small file beside the versions.

    policies/serving.json       {"format": 1, "promoted": 12, "pinned": [4, 12]}

It is replaced whole, so a reader sees the old orders or the new ones. Two operators at once: the later one's orders count.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pyarrow.fs import LocalFileSystem
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from actors.errors import PolicyVersionError
from actors.storage import open_root
from services.telemetry.atomic import write_atomically

FILE = "serving.json"
Order = Literal["promote", "pin", "unpin", "rollback", "follow"]
Step = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class Orders:
    """Standing until they are changed; steps need not have a version any more."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    promoted: Step | None = None  # what `policy` means; None: the newest good version
    pinned: frozenset[Step] = frozenset()  # never deleted by retention
    format: Literal[1] = field(default=1, kw_only=True)

    @property
    def kept(self) -> frozenset[int]:
        """Steps whose versions must not be deleted."""
        return self.pinned if self.promoted is None else self.pinned | {self.promoted}

    def promote(self, step: int) -> Orders:
        """`policy` means this version from now on."""
        return replace(self, promoted=step)

    def follow(self) -> Orders:
        """`policy` means the newest good version, whatever comes."""
        return replace(self, promoted=None)

    def pin(self, step: int) -> Orders:
        """Retention never deletes this version."""
        return replace(self, pinned=self.pinned | {step})

    def unpin(self, step: int) -> Orders:
        """Retention may delete it again."""
        return replace(self, pinned=self.pinned - {step})

    def rollback(self, current: int, good_steps: Collection[int]) -> Orders:
        """Promote the newest good version older than `current`, which is what `policy` means now. PolicyVersionError if none is."""
        older = [step for step in good_steps if step < current]
        if not older:
            raise PolicyVersionError(f"no good version is older than step {current}")
        return self.promote(max(older))


_ORDERS = TypeAdapter(Orders)


def read(policies: str | Path) -> Orders:
    """The standing orders; the default where none were ever given. PolicyVersionError names a file that cannot be understood."""
    filesystem, base = open_root(str(policies))
    path = f"{base}/{FILE}"
    try:
        with filesystem.open_input_stream(path) as stream:
            return _ORDERS.validate_json(stream.read())
    except FileNotFoundError:
        return Orders()
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise PolicyVersionError(f"{path}: {place}: {first['msg']}") from None


def write(policies: str | Path, orders: Orders) -> None:
    """Replace the standing orders."""
    filesystem, base = open_root(str(policies))
    content = _ORDERS.dump_json(orders)
    if isinstance(filesystem, LocalFileSystem):
        Path(base).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(base) / FILE, content.decode())
        return
    with filesystem.open_output_stream(f"{base}/{FILE}") as stream:  # the object appears when it is closed
        stream.write(content)
