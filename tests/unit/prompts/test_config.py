from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from actors.prompts.config import HubSource, PromptsConfig

REVISION = "e53f048856ff4f594e959d75785d2c2d37b678ee"


def bad_fields(**values: object) -> set[str]:
    with pytest.raises(ValidationError) as caught:
        PromptsConfig.model_validate(values)
    return {".".join(map(str, error["loc"])) for error in caught.value.errors()}


def test_a_hub_source_names_repository_configuration_and_split() -> None:
    source = HubSource(id="openai/gsm8k:main@train[:100]", revision=REVISION)
    assert (source.name, source.config, source.split) == ("openai/gsm8k", "main", "train[:100]")
    assert HubSource(id="some-one/set.v2@test", revision=REVISION).config is None


@pytest.mark.parametrize("values", [{}, {"revision": "main"}, {"revision": ""}])
def test_a_hub_source_without_a_pinned_revision_is_refused(values: dict[str, str]) -> None:
    assert bad_fields(source={"type": "hub", "id": "openai/gsm8k:main@train", **values}) == {"source.hub.revision"}


def test_a_hub_source_without_a_split_is_refused() -> None:
    assert bad_fields(source={"type": "hub", "id": "openai/gsm8k", "revision": REVISION}) == {"source.hub.id"}


def test_bad_fields_are_named_by_path() -> None:
    digits = {"type": "digits"}
    assert bad_fields(source={"type": "digits", "digitz": 6}) == {"source.digits.digitz"}
    assert bad_fields(source={"type": "file", "path": []}) == {"source.file.path.str", "source.file.path.tuple[str, ...]"}
    assert bad_fields(source=digits, template="qwen") == {"template"}
    assert bad_fields(source=digits, max_tokens=0, held_out=-1) == {"max_tokens", "held_out"}


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="only for template chat"):
        PromptsConfig.model_validate({"source": {"type": "digits"}, "template": "r1", "system": "Be brief."})
    with pytest.raises(ValidationError, match="held_out is 0"):
        PromptsConfig.model_validate({"source": {"type": "digits"}, "held_out_source": {"type": "digits"}})


def test_a_missing_file_is_no_matter_of_the_config() -> None:
    assert PromptsConfig.model_validate({"source": {"type": "file", "path": "/nowhere/rows.jsonl"}})


def test_the_section_imports_nothing_heavy() -> None:
    heavy = "import sys, actors.prompts.config; print(sorted({'numpy', 'pyarrow', 'torch', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout.strip() == "[]"
