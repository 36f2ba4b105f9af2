"""The last look at what is to leave the machine: no secret that can be recognised goes out in a text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from actors.errors import ConfigError

SHORTEST = 8
"""Characters; a shorter value is a word that may stand anywhere."""
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_WITH_PASSWORD = re.compile(r"\w+://[^/\s:@]+:[^/\s@]+@")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")


def refuse_secrets(texts: Mapping[str, str]) -> None:
    """ConfigError, naming the file and never the secret, if a text holds one.

    Secrets are the values of environment variables named like one, passwords in URLs, and tokens of the Hugging Face hub.
    """
    values = {name: value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= SHORTEST}
    for file, text in texts.items():
        if found := sorted(name for name, value in values.items() if value in text):
            raise ConfigError(f"{file} would hold the value of the environment variable {found[0]}; take it out of the run's recipe")
        if _WITH_PASSWORD.search(text) or _HUB_TOKEN.search(text):
            raise ConfigError(f"{file} would hold a password or a token; take it out of the run's recipe")
