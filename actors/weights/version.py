"""A policy version on disk: a directory any Hugging Face program loads, with a manifest that says what it must hold.

    policies/step-12/
        config.json  generation_config.json  tokenizer.json  chat_template.jinja  ...
        model.safetensors               (in shards with an index above 5 GB)
        manifest.json                   written last; its presence in a `step-N` directory is the commit

A version is written beside its place and renamed into it, so a reader sees all of it or nothing. Its name is never given to other weights.
The directory must be on a file system of this machine (local or mounted): the commit is a rename, which object stores do not have.
`shelf` copies versions to and from those.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.errors import PolicyVersionError
from actors.weights.manifest import MANIFEST, Manifest, describe, verify_version, weights_digest

# torch, safetensors and transformers are imported where they are used: listing versions must stay quick.
if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

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
        files = describe(draft)
        manifest = Manifest(1, step, parent, datetime.now(UTC), run, weights_digest(files), files)
        (draft / MANIFEST).write_bytes(manifest.to_json())
        if directory.exists():
            return _same_version(directory, manifest)
        _commit(draft, directory)
        return manifest
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def retained(steps: Sequence[int], *, keep_last: int, protected: Iterable[int]) -> set[int]:
    """Which of these versions (oldest first) stay: the newest `keep_last` and the protected."""
    return {*steps[max(len(steps) - keep_last, 0) :], *protected} & {*steps}


def prune(policies: Path, *, keep_last: int, protected: Iterable[int] = ()) -> list[int]:
    """Delete the versions that are not retained and return their steps."""
    for leftover in policies.glob(".step-*.pruned"):
        shutil.rmtree(leftover)
    steps = committed_steps(policies)
    removed = sorted({*steps} - retained(steps, keep_last=keep_last, protected=protected))
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
