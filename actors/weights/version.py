"""A policy version on disk: a directory any Hugging Face program loads, with a manifest that says what it must hold.

    policies/step-12/
        config.json  generation_config.json  tokenizer.json  chat_template.jinja  ...
        model.safetensors               (in shards with an index above 5 GB)
        manifest.json                   written last; its presence in a `step-N` directory is the commit

A version is written beside its place and renamed into it, so a reader sees all of it or nothing. Its name is never given to other weights.
The directory must be on a file system of this machine (local or mounted): the commit is a rename, which object stores do not have.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from actors.errors import PolicyVersionError

# torch, safetensors and transformers are imported where they are used: listing versions must stay quick.
if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

MANIFEST = "manifest.json"
SHARD_LIMIT = "5GB"
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""Files taken from the tokenizer's directory as they are. A list of names, so that neither code nor old weights come along."""

_STEP = re.compile(r"step-(0|[1-9]\d*)")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What one file of a version must be."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The identity of a policy version and the digests of its files."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    format: Literal[1]
    step: int
    parent: int | None  # the step these weights were trained from
    created: datetime  # UTC
    run: str
    weights_sha256: str  # over the digests of the *.safetensors files, in the order of their names
    files: Mapping[str, FileEntry]

    @property
    def weights_short(self) -> str:
        """The first 12 digits of the weights' digest: enough to tell versions apart."""
        return self.weights_sha256[:12]


_MANIFEST = TypeAdapter(Manifest)


def version_path(policies: Path, step: int) -> Path:
    """Where a run keeps the version of a step."""
    return policies / f"step-{step}"


def committed_steps(policies: Path) -> list[int]:
    """The steps that have a committed version under `policies`, oldest first; other directories are not looked at."""
    if not policies.is_dir():
        return []
    matches = (_STEP.fullmatch(entry.name) for entry in policies.iterdir() if (entry / MANIFEST).is_file())
    return sorted(int(match[1]) for match in matches if match)


def write_version(
    directory: Path,
    *,
    state_dict: Mapping[str, torch.Tensor],
    model_config: PretrainedConfig,
    tokenizer_dir: Path,
    step: int,
    parent: int | None,
    run: str,
) -> Manifest:
    """Write and commit a version; called by one process, with the full weights on the CPU.

    A directory that already holds the same weights of the same step is left as it is and its manifest returned (a step trained again
    after a restart); other weights under the same name raise PolicyVersionError.
    """
    from huggingface_hub import save_torch_state_dict

    directory.parent.mkdir(parents=True, exist_ok=True)
    for leftover in directory.parent.glob(f".{directory.name}.*.tmp"):
        shutil.rmtree(leftover)
    draft = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}.tmp")
    draft.mkdir()
    try:
        config = _servable_config(model_config, state_dict)
        save_torch_state_dict(_with_tied_heads(state_dict, config), draft, max_shard_size=SHARD_LIMIT, metadata={"format": "pt"})
        config.to_json_file(draft / "config.json")
        for name in COMPANIONS:
            if (tokenizer_dir / name).is_file():
                shutil.copyfile(tokenizer_dir / name, draft / name)
        manifest = _describe(draft, step=step, parent=parent, run=run)
        if directory.exists():
            return _same_version(directory, manifest)
        _commit(draft, directory)
        return manifest
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a committed version, taken at its word; `verify_version` holds the files against it."""
    path = directory / MANIFEST
    try:
        return _MANIFEST.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise PolicyVersionError(f"{path}: missing, so this version was never committed") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise PolicyVersionError(f"{path}: {field}: {first['msg']}") from None


def verify_version(directory: Path, *, finite: bool = False) -> Manifest:
    """Hold every file against the manifest before a tensor is touched; PolicyVersionError names the first that differs.

    Files the manifest does not know are refused too: engines load every weight file they find. `finite` also reads the tensors and
    refuses NaN and infinities.
    """
    manifest = read_manifest(directory)
    present = {entry.name for entry in directory.iterdir()} - {MANIFEST}
    for name, entry in sorted(manifest.files.items()):
        if Path(name).name != name:
            raise PolicyVersionError(f"{directory / MANIFEST}: {name!r} is not a file name")
        if name not in present:
            raise PolicyVersionError(f"{directory / name}: missing")
        size = (directory / name).stat().st_size
        if size != entry.size_bytes:
            raise PolicyVersionError(f"{directory / name}: {size} bytes, the manifest says {entry.size_bytes}")
        if _sha256(directory / name) != entry.sha256:
            raise PolicyVersionError(f"{directory / name}: its sha256 is not the manifest's")
    if extra := sorted(present - manifest.files.keys()):
        raise PolicyVersionError(f"{directory / extra[0]}: not in the manifest")
    if manifest.weights_sha256 != _weights_digest(manifest.files):
        raise PolicyVersionError(f"{directory / MANIFEST}: weights_sha256 does not follow from the files' digests")
    if finite:
        _check_finite(directory, manifest)
    return manifest


def prune(policies: Path, *, keep_last: int, keep_every: int | None, protected: Iterable[int] = ()) -> list[int]:
    """Delete old versions and return their steps: all but the newest `keep_last`, the multiples of `keep_every`, and the protected."""
    for leftover in policies.glob(".step-*.pruned"):
        shutil.rmtree(leftover)
    steps = committed_steps(policies)
    kept = {*protected, *steps[max(len(steps) - keep_last, 0) :]}
    if keep_every:
        kept.update(step for step in steps if step % keep_every == 0)
    removed = [step for step in steps if step not in kept]
    for step in removed:
        # Out of sight in one move, so that a half deleted version is never taken for a committed one.
        doomed = policies / f".step-{step}.pruned"
        version_path(policies, step).rename(doomed)
        shutil.rmtree(doomed)
    return removed


def _servable_config(model_config: PretrainedConfig, state_dict: Mapping[str, torch.Tensor]) -> PretrainedConfig:
    """A copy that says which class to build and in which type: what `save_pretrained` would add to a bare config."""
    config = deepcopy(model_config)
    if not config.architectures:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        config.architectures = [model_class.__name__]
    config.dtype = next(tensor.dtype for tensor in state_dict.values() if tensor.is_floating_point())
    return config


def _with_tied_heads(state_dict: Mapping[str, torch.Tensor], config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """The weights with every tied one spelled out and owning its bytes.

    A running vLLM engine that reloads a tied model goes on with its old output layer unless that is in the file, and reports no error.
    """
    full = dict(state_dict)
    if not config.tie_word_embeddings:
        return full
    import transformers

    architecture = (config.architectures or ["?"])[0]
    tied = getattr(getattr(transformers, architecture, None), "_tied_weights_keys", None)
    if not isinstance(tied, Mapping):
        raise PolicyVersionError(f"{architecture} ties its embeddings but does not say which weights")
    for target, source in tied.items():
        full[target] = full.get(target, full[source]).clone()
    return full


def _describe(directory: Path, *, step: int, parent: int | None, run: str) -> Manifest:
    """Digest what was written and write the manifest over it."""
    files = {path.name: FileEntry(_sha256(path), path.stat().st_size) for path in sorted(directory.iterdir())}
    manifest = Manifest(1, step, parent, datetime.now(UTC), run, _weights_digest(files), files)
    (directory / MANIFEST).write_bytes(_MANIFEST.dump_json(manifest, indent=2))
    return manifest


def _same_version(directory: Path, fresh: Manifest) -> Manifest:
    present = verify_version(directory)
    if (present.step, present.weights_sha256) != (fresh.step, fresh.weights_sha256):
        raise PolicyVersionError(
            f"{directory}: holds other weights already (step {present.step}, {present.weights_short}); names are not reused"
        )
    return present


def _commit(draft: Path, directory: Path) -> None:
    for path in (*draft.iterdir(), draft):
        _sync(path)
    draft.rename(directory)
    _sync(directory.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights_digest(files: Mapping[str, FileEntry]) -> str:
    digests = [files[name].sha256 for name in sorted(files) if name.endswith(".safetensors")]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _check_finite(directory: Path, manifest: Manifest) -> None:
    from safetensors import safe_open

    for name in sorted(manifest.files):
        if not name.endswith(".safetensors"):
            continue
        with safe_open(directory / name, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a mapping
                if not tensors.get_tensor(key).isfinite().all():
                    raise PolicyVersionError(f"{directory / name}: {key} holds values that are not finite")
