"""Putting an exported folder on the Hugging Face hub, in one commit: a reader there sees all of it or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

KEPT = ".gitattributes"
"""The hub's own file: how it stores the others."""


def check_push(repo_id: str) -> None:
    """What can be known to be wrong before anything is written: ConfigError for the name, or where nobody is signed in."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not listed as such

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(f"--push {repo_id}: {error}") from None
    if get_token() is None:
        raise ConfigError("--push: the hub asks who you are; set HF_TOKEN to a token that may write")


def push(folder: Path, repo_id: str, *, public: bool, message: str) -> str:
    """Make the repository if there is none, put the folder there in place of what it held, and return the commit's address.

    A repository that others can read is written to only if `public`. UsageError says what the hub refused, or that it did not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # the latter its HTTP client's own

    api = HfApi()
    try:
        api.create_repo(repo_id, private=not public, exist_ok=True)
        before = api.model_info(repo_id)
        if not public and not before.private:
            raise ConfigError(f"--push {repo_id}: it is there already and public; say --public, or name another")
        return _commit(api, folder, repo_id, before, message)
    except HfHubHTTPError as error:
        said = error.server_message or str(error).strip().partition("\n")[0]
        raise UsageError(f"--push {repo_id}: the hub refused: {said}; {_again(folder, repo_id, public=public)}") from None
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # the last two are what a failed upload of a file is told as
        raise UsageError(f"--push {repo_id}: {error.__cause__ or error}; {_again(folder, repo_id, public=public)}") from None


def _commit(api: HfApi, folder: Path, repo_id: str, before: ModelInfo, message: str) -> str:
    """On top of what was looked at: an older version's shards must not stay beside these, since engines load all they find."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    ours = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    theirs = {sibling.rfilename for sibling in before.siblings or ()}
    operations: list[CommitOperationAdd | CommitOperationDelete] = [CommitOperationAdd(name, path) for name, path in ours.items()]
    operations += [CommitOperationDelete(name) for name in sorted(theirs - ours.keys() - {KEPT})]
    return str(api.create_commit(repo_id, operations, commit_message=message, parent_commit=before.sha).commit_url)


def _again(folder: Path, repo_id: str, *, public: bool) -> str:
    """What to do when the cause is mended; the folder need not be written once more."""
    return f"the folder is whole, so this will do then: hf upload {repo_id} {folder} .{'' if public else ' --private'} --delete '*'"
