"""The last look at what is to leave the machine: no secret that can be recognised goes out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from actors.errors import ConfigError

SHORTEST = 8
"""Characters; a shorter value is a word that may stand anywhere."""
_WORDS = "TOKEN|KEY|SECRET|PASS|CREDENTIAL"
_SECRET = re.compile(_WORDS, re.IGNORECASE)
_USER = re.compile(r"\w://[^/\s@]+@")
_QUERY = re.compile(rf"[?&;#][\w.%-]*({_WORDS}|PWD|AUTH|(?<![A-Z])SIG)[\w.%-]*=[^\s&;#]", re.IGNORECASE)
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")


def refuse_secrets(told: Mapping[str, object]) -> None:
    """ConfigError, naming the file and never the secret, if one stands in what a file tells.

    That is text, or a tree of values as they are before they are written: JSON and YAML escape and fold what they hold. Secrets are the
    values of environment variables named like one, whatever stands before the host in a URL, what a URL's query names like a secret
    (signatures too), and tokens of the Hugging Face hub.
    """
    stripped = {name: value.strip() for name, value in os.environ.items() if _SECRET.search(name)}
    values = {name: value for name, value in stripped.items() if len(value) >= SHORTEST}
    for file, tree in told.items():
        for text in _texts(tree):
            if found := sorted(name for name, value in values.items() if value in text):
                raise ConfigError(f"{file} would hold the value of the environment variable {found[0]}; take it out of the run's recipe")
            if _USER.search(text) or _QUERY.search(text) or _HUB_TOKEN.search(text):
                raise ConfigError(f"{file} would hold a token, or a URL with a user, password or key; take it out of the run's recipe")


def _texts(tree: object) -> Iterator[str]:
    """All that a tree says, keys and numbers too."""
    if isinstance(tree, Mapping):
        tree = [*tree, *tree.values()]
    if isinstance(tree, list | tuple):
        for part in tree:
            yield from _texts(part)
    else:
        yield str(tree)
