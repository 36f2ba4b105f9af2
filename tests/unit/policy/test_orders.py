from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors.errors import PolicyVersionError
from services.policy.orders import Orders, read, write
from tests.s3 import object_store


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with object_store() as url:
        yield url


@pytest.fixture(params=["path", "file", "s3"])
def policies(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    if request.param == "s3":
        url: str = request.getfixturevalue("bucket").format(f"{tmp_path.name}/policies")
        return url
    return tmp_path / "policies" if request.param == "path" else (tmp_path / "policies").as_uri()


def test_without_orders_the_newest_version_is_followed_and_none_is_pinned(policies: str | Path) -> None:
    assert read(policies) == Orders(promoted=None, pinned=frozenset())


def test_orders_stand_until_they_are_changed(policies: str | Path) -> None:
    first = Orders().pin(3).pin(12).promote(12)
    write(policies, first)
    assert read(policies) == first
    write(policies, first.unpin(3).follow())
    assert read(policies) == Orders(promoted=None, pinned=frozenset({12}))


def test_what_an_order_names_is_kept() -> None:
    assert Orders().kept == frozenset()
    assert Orders().pin(4).promote(9).pin(0).kept == {0, 4, 9}
    assert Orders().pin(4).promote(9).unpin(4).follow().kept == frozenset()


def test_unpinning_what_is_not_pinned_changes_nothing() -> None:
    assert Orders().pin(4).unpin(5) == Orders().pin(4)


@pytest.mark.parametrize(("current", "good", "back"), [(12, [0, 4, 8, 12], 8), (12, [4, 20], 4), (8, [4, 12, 0], 4)])
def test_a_rollback_promotes_the_newest_good_version_before_the_present_one(current: int, good: list[int], back: int) -> None:
    assert Orders().pin(1).rollback(current, good) == Orders(promoted=back, pinned=frozenset({1}))


@pytest.mark.parametrize("good", [[], [5], [5, 6]])
def test_there_may_be_nothing_to_roll_back_to(good: list[int]) -> None:
    with pytest.raises(PolicyVersionError, match="no good version is older than step 5"):
        Orders().rollback(5, good)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda content: content[:-3], "Invalid JSON"),
        (lambda content: b"", "Invalid JSON"),
        (lambda content: json.dumps(json.loads(content) | {"promoted": "12"}).encode(), "promoted"),
        (lambda content: json.dumps(json.loads(content) | {"promoted": True}).encode(), "promoted"),
        (lambda content: json.dumps(json.loads(content) | {"pinned": [3, -1]}).encode(), "pinned"),
        (lambda content: json.dumps(json.loads(content) | {"pined": [3]}).encode(), "pined"),
        (lambda content: json.dumps(json.loads(content) | {"format": 2}).encode(), "format"),
    ],
)
def test_a_damaged_file_is_named_and_not_taken_for_no_orders(tmp_path: Path, damage: Callable[[bytes], bytes], complaint: str) -> None:
    write(tmp_path, Orders().promote(12).pin(3))
    file = tmp_path / "serving.json"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(PolicyVersionError, match=rf"{file}: .*{complaint}"):
        read(tmp_path)
