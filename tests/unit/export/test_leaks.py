from __future__ import annotations

import pytest

from actors.errors import ConfigError
from services.export.leaks import refuse_secrets


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct-horse\n")
    monkeypatch.setenv("OTHER_SECRET", 'say "correct"\\')
    monkeypatch.setenv("PIN_PASS", "31415926")
    monkeypatch.setenv("SHORT_KEY", "word")


@pytest.mark.parametrize(
    "told",
    [
        "system: correct-horse",
        {"prompts": {"system": ['I say "correct"\\.']}},
        {"options": {"correct-horse": 1}},
        {"seed": 31415926},
        "path: s3://id:correct@bucket",
        "git+https://correct@host/path",
        "redis://:correct@host:6379",
        "s3://bucket/x?region=eu&secret_access_key=correct",
        "https://host/x?apiKey=correct",
        "https://host?X-Amz-Signature=correct",
        "https://account.blob/x?sv=1&sig=correct",
        "https://host/x?user=me&pass=correct",
        "https://host/x#access_token=correct",
        f"hf_{'a1' * 17}",
    ],
)
def test_a_secret_is_refused_by_its_file_and_never_repeated(told: object) -> None:
    with pytest.raises(ConfigError, match=r"^recipe\.yaml would hold") as refused:
        refuse_secrets({"README.md": "nothing", "recipe.yaml": told})
    assert not any(secret in str(refused.value) for secret in ("correct", "a1a1", "31415926"))


@pytest.mark.parametrize(
    "told",
    [
        "a word, a path /x and someone@host",
        "http://host:80/path, http://host/@someone",
        "https://host/x?region=eu&design=a&token=",
        {"max_tokens": 256, "tokens": ["key=value"], "path": None},
    ],
)
def test_what_gives_nothing_away_goes_out(told: object) -> None:
    refuse_secrets({"recipe.yaml": told})
