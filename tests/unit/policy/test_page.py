"""The page's files as a browser gets them; what they do is in tests/integration/test_page.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from services.policy.page import FILES, page_routes

SCRIPTS = sorted(FILES.glob("*.js"))


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page_routes())
    return TestClient(app)


def test_the_page_and_all_it_refers_to_are_served(client: TestClient) -> None:
    index = client.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    linked = re.findall(r'(?:src|href)="([^"#]+)"', index.text)
    imported = [f"static/{name}" for script in SCRIPTS for name in re.findall(r'from "\./([^"]+)"', script.read_text())]
    assert {"static/page.css", "static/page.js"} <= set(linked)
    for path in {*linked, *imported}:
        assert client.get(f"/{path}").status_code == 200, path
    assert client.get("/static/page.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("path", ["/", "/static/page.css", "/static/page.js"])
def test_no_other_site_and_no_markup_can_run_anything(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_the_markup_keeps_to_the_policy(client: TestClient) -> None:
    index = client.get("/").text
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", index)


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: str(file.name))
def test_scripts_never_parse_text_as_html_and_name_no_other_site(file: Path) -> None:
    source = file.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", source)
    assert set(re.findall(r"https?://[^\"' ]+", source)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }  # names, not addresses


def test_a_browser_that_has_a_file_does_not_get_it_again(client: TestClient) -> None:
    etag = client.get("/static/page.css").headers["etag"]
    again = client.get("/static/page.css", headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == etag != client.get("/static/page.js").headers["etag"]


def test_nothing_outside_the_folder_is_served(client: TestClient) -> None:
    for path in ("/static/", "/static/../page.py", "/static/%2e%2e/page.py", "/static/index.html"):
        assert client.get(path).status_code == 404, path
