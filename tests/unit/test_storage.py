from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import ConfigError
from actors.storage import joined, open_root


@pytest.mark.parametrize(
    ("root", "whole"),
    [
        ("/runs/a", "/runs/a/policies"),
        ("runs/a/", "runs/a/policies"),
        ("/runs/a?b", "/runs/a?b/policies"),  # a path has no options
        ("s3://bucket/a", "s3://bucket/a/policies"),
        ("s3://bucket/a/?region=x&scheme=http", "s3://bucket/a/policies?region=x&scheme=http"),
    ],
)
def test_a_urls_options_stay_at_its_end(root: str, whole: str) -> None:
    assert joined(root, "policies") == whole


def test_paths_and_urls_lead_to_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(b"here")
    for root in ("a", str(tmp_path / "a"), (tmp_path / "a").as_uri()):
        filesystem, path = open_root(root)
        with filesystem.open_input_stream(path) as stream:
            assert stream.read() == b"here"


def test_a_url_of_no_kind_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"nowhere://x: .*nowhere"):
        open_root("nowhere://x")
