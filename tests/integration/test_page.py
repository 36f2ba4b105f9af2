"""The page in a real browser, against a real endpoint whose run has the versions 0, 5 and 10."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, Route, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.integration, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]

QUESTION = "483920="
PATIENCE_MS = 120_000
"""For what waits until a version is loaded."""


@dataclass
class Visit:
    """A page that has been opened with a key, and what its browser complained of."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    refused: tuple[int, ...] = ()  # statuses a test brings about: the browser logs them too

    def open(self, key: str) -> None:
        self.page.goto(f"{self.url}/#key={key}")
        expect(self.page.locator("#versions-table tbody tr").first).to_be_visible(timeout=PATIENCE_MS)

    def pick(self, side: str, version: str) -> None:
        self.page.get_by_label(f"{side} version").select_option(version)

    def ask(self) -> None:
        self.page.get_by_role("textbox", name="Question").fill(QUESTION)
        self.page.get_by_label("Most tokens").fill("16")
        self.page.get_by_role("button", name="Ask both").click()

    def answer(self, side: str) -> Locator:
        return self.page.get_by_role("article", name=f"{side} answer")

    def expect_answer(self, side: str, step: int) -> None:
        answer = self.answer(side)
        expect(answer.locator(".state")).to_have_text("done", timeout=PATIENCE_MS)
        expect(answer.locator("[aria-live=polite]")).to_have_attribute("aria-busy", "false")
        expect(answer.locator("[aria-live=polite]")).not_to_be_empty()
        assert fact(answer, "Step") == str(step)
        assert re.fullmatch(r"[0-9a-f]{12}", fact(answer, "Weights"))
        assert fact(answer, "Age") and fact(answer, "Time").endswith(" s")


def fact(answer: Locator, name: str) -> str:
    return answer.locator("dl > div", has=answer.page.get_by_text(name, exact=True)).locator("dd").inner_text()


def open_pages(browser: Browser, url: str) -> Iterator[Visit]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    visit = Visit(context.new_page(), url)

    def on_console(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            visit.complaints.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith(f"{url}/"):
            visit.complaints.append(f"asked another site: {request.url}")

    visit.page.on("console", on_console)
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    visit.page.on("request", on_request)
    yield visit
    context.close()
    assert [text for text in visit.complaints if not any(f"status of {status}" in text for status in visit.refused)] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, endpoint: Any) -> Iterator[Visit]:
    yield from open_pages(browser, endpoint.url.rstrip("/"))


def test_two_versions_answer_side_by_side_and_another_one_after_a_switch(visit: Visit, endpoint: Any) -> None:
    visit.open(endpoint.query_key)
    assert endpoint.query_key not in visit.page.url
    visit.pick("First", "policy@step-0")
    visit.pick("Second", "policy")
    visit.ask()
    visit.expect_answer("First", 0)
    visit.expect_answer("Second", 10)
    assert fact(visit.answer("First"), "Weights") != fact(visit.answer("Second"), "Weights")
    visit.pick("First", "policy@step-5")
    visit.ask()
    visit.expect_answer("First", 5)
    visit.expect_answer("Second", 10)
    if path := os.environ.get("GMPO_SCREENSHOT"):
        expect(visit.page.locator("#charts svg").first).to_be_visible()
        visit.page.screenshot(path=path, full_page=True)


def test_curves_are_seen_and_their_figures_can_be_read(visit: Visit, endpoint: Any) -> None:
    visit.open(endpoint.query_key)
    reward = visit.page.get_by_role("figure", name="Reward")
    line = reward.locator("svg path[style*='--series-1']").first
    expect(line).to_be_visible()
    assert visit.page.evaluate("document.querySelector('#charts svg path[style*=\"--series-1\"]').getTotalLength()") > 0
    assert line.evaluate("path => getComputedStyle(path).stroke") == "rgb(0, 114, 178)"
    reward.get_by_text("Figures").click()
    logged = [json.loads(row) for row in (endpoint.run_dir / "metrics.jsonl").read_text().splitlines()]
    expect(reward.locator("tbody tr")).to_have_count(len([row for row in logged if row.get("reward/mean") is not None]))


def test_rollouts_are_browsed_by_step_and_verdict(visit: Visit, endpoint: Any) -> None:
    visit.open(endpoint.query_key)
    verdicts = visit.page.locator("#rollouts-list .verdict")
    expect(verdicts.first).to_be_visible()
    step = visit.page.locator("#rollouts-step")
    newest = step.input_value()
    expect(visit.page.locator("#rollouts-list .words *")).to_have_count(0)  # markup in a response stays text
    visit.page.get_by_role("button", name="Next").click()
    expect(visit.page.locator("#rollouts-status")).to_have_text(re.compile(r"^13 to \d+ of \d+$"))
    visit.page.get_by_role("button", name="Previous").click()
    expect(visit.page.locator("#rollouts-status")).to_have_text(re.compile(r"^1 to 12 of \d+$"))
    for verdict in ("right", "wrong"):
        visit.page.get_by_label("Verdict").select_option(verdict)
        expect(visit.page.locator("#rollouts-status")).to_have_text(re.compile("of|None with this verdict"))
        expect(visit.page.locator(f"#rollouts-list .verdict:not(.{verdict})")).to_have_count(0)
    visit.page.get_by_label("Verdict").select_option("any")
    expect(verdicts.first).to_be_visible()
    oldest = step.locator("option").last.get_attribute("value")
    with visit.page.expect_response(re.compile(rf"/v1/run/rollouts\?.*step={oldest}(&|$)")):
        step.select_option(oldest)
    expect(verdicts.first).to_be_visible()
    assert step.input_value() == oldest != newest


def test_a_keyboard_is_enough(visit: Visit, endpoint: Any) -> None:
    """From the wrong key over the right one to two answers, without a pointer."""
    visit.refused = (401,)
    keyboard = visit.page.keyboard
    visit.page.goto(visit.url)
    expect(visit.page.get_by_label("Key", exact=True)).to_be_focused()
    keyboard.type("wrong")
    keyboard.press("Enter")
    expect(visit.page.get_by_role("alert")).to_have_text("The endpoint does not accept this key.")
    expect(visit.page.get_by_label("Key", exact=True)).to_be_focused()
    keyboard.type(endpoint.query_key)
    keyboard.press("Enter")
    question = visit.page.get_by_role("textbox", name="Question")
    expect(question).to_be_focused(timeout=PATIENCE_MS)
    keyboard.type(QUESTION)
    for control in ("First version", "Second version", "Temperature", "Most tokens"):
        keyboard.press("Tab")
        expect(visit.page.get_by_label(control)).to_be_focused()
    keyboard.press("Control+a")
    keyboard.type("16")
    keyboard.press("Tab")
    expect(visit.page.get_by_role("button", name="Ask both")).to_be_focused()
    assert visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keyboard.press("Enter")
    visit.expect_answer("First", 0)
    visit.expect_answer("Second", 10)


def test_only_an_admin_changes_what_policy_means(visit: Visit, endpoint: Any) -> None:
    visit.refused = (403,)
    visit.open(endpoint.query_key)
    note, status = visit.page.locator("#versions-note"), visit.page.locator("#versions-status")
    visit.page.get_by_role("button", name="Manage").click()
    visit.page.get_by_role("button", name="Promote step 5").click()
    expect(status).to_contain_text("needs an admin key")
    expect(note).to_contain_text("policy means step 10 and follows the newest")

    visit.page.get_by_role("button", name="Change key").click()
    visit.page.get_by_label("Key", exact=True).fill(endpoint.admin_key)
    visit.page.get_by_role("button", name="Use this key").click()
    try:
        visit.page.get_by_role("button", name="Promote step 5").click()
        expect(note).to_contain_text("policy means step 5 and stays there", timeout=PATIENCE_MS)
        expect(visit.page.get_by_role("row", name="step 5").get_by_text("policy", exact=True)).to_be_visible()
        expect(visit.page.locator("#ask-form option", has_text="policy (now step 5)")).to_have_count(2)
    finally:
        visit.page.get_by_role("button", name="Follow the newest").click()
        expect(note).to_contain_text("policy means step 10 and follows the newest", timeout=PATIENCE_MS)


def test_refusals_are_told_in_words(visit: Visit, endpoint: Any) -> None:
    visit.refused = (503, 429)
    refusals = {"policy@step-0": (503, "policy@step-0 cannot be loaded just now"), "policy@step-5": (429, "too many")}

    def refuse(route: Route) -> None:
        status, message = refusals[json.loads(route.request.post_data or "")["model"]]
        error = {"message": message, "type": "x", "param": None, "code": status}
        route.fulfill(status=status, headers={"retry-after": "7"}, json={"error": error})

    visit.open(endpoint.query_key)
    visit.page.route("**/v1/chat/completions", refuse)
    visit.pick("First", "policy@step-0")
    visit.pick("Second", "policy@step-5")
    visit.ask()
    expect(visit.answer("First").get_by_role("alert")).to_have_text("policy@step-0 cannot be loaded just now. Try again in 7 s.")
    expect(visit.answer("Second").get_by_role("alert")).to_have_text("Too many requests are under way with this key. Try again in 7 s.")
    expect(visit.page.get_by_role("button", name="Ask both")).to_be_enabled()


def test_a_refused_version_is_listed_with_its_reason_and_cannot_be_asked(visit: Visit, endpoint: Any) -> None:
    nothing: dict[str, Any] = {
        "weights": None,
        "created": None,
        "age_seconds": None,
        "age_steps": None,
        "resident": False,
        "pinned": False,
        "metrics": {},
    }

    def add_refused(route: Route) -> None:
        body = route.fetch().json()
        body["data"].append({"id": "policy@step-12", "step": 12, "refused": "model.safetensors is cut short", **nothing})
        route.fulfill(json=body)

    visit.page.route("**/v1/policies", add_refused)
    visit.open(endpoint.query_key)
    row = visit.page.get_by_role("row", name="step 12")
    expect(row.get_by_text("refused", exact=True)).to_be_visible()
    expect(row.get_by_text("model.safetensors is cut short")).to_be_visible()
    for option in visit.page.locator("#ask-form option[value='policy@step-12']").all():
        expect(option).to_be_disabled()
    visit.page.unroute_all(behavior="ignoreErrors")


def test_an_answer_can_be_stopped(visit: Visit, endpoint: Any) -> None:
    visit.open(endpoint.query_key)
    visit.page.route("**/v1/chat/completions", lambda route: None)  # never answered
    visit.ask()
    expect(visit.answer("First").locator(".state")).to_have_text("writing …")
    expect(visit.answer("First").locator("[aria-live=polite]")).to_have_attribute("aria-busy", "true")
    visit.page.get_by_role("button", name="Stop").click()
    for side in ("First", "Second"):
        expect(visit.answer(side).locator(".state")).to_have_text("stopped")
    expect(visit.page.get_by_role("button", name="Ask both")).to_be_focused()
    visit.page.unroute_all(behavior="ignoreErrors")


def test_what_a_model_writes_stays_text_and_a_broken_stream_is_told(visit: Visit, endpoint: Any) -> None:
    words = "<img src=x onerror=alert(1)><script>alert(2)</script> é"
    said = json.dumps({"choices": [{"index": 0, "delta": {"content": words}, "finish_reason": None}]}, ensure_ascii=False)
    broken = json.dumps({"error": {"message": "the engine died", "type": "x", "param": None, "code": 500}})
    headers = {"x-gmpo-step": "0", "x-gmpo-weights": "0" * 12, "x-gmpo-age-seconds": "61", "x-gmpo-age-steps": "1"}
    body = f"data: {said}\n\ndata: {broken}\n\n"
    visit.open(endpoint.query_key)
    visit.page.route("**/v1/chat/completions", lambda route: route.fulfill(headers=headers, content_type="text/event-stream", body=body))
    visit.ask()
    answer = visit.answer("First")
    expect(answer.locator(".words")).to_have_text(words)
    expect(answer.get_by_role("alert")).to_have_text("the engine died.")
    expect(answer.locator(".state")).to_have_text("failed")
    assert fact(answer, "Age") == "1 minute, 1 step behind the newest"
    expect(visit.page.locator(".words *")).to_have_count(0)


@pytest.mark.parametrize("width", [360, 1400])
def test_everything_has_a_name_and_fits(visit: Visit, endpoint: Any, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.open(endpoint.query_key)
    expect(visit.page.locator("#charts svg").first).to_be_visible()
    expect(visit.page.locator("#rollouts-list article").first).to_be_visible()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = "[...document.querySelectorAll('input, select, textarea')].filter(e => !e.labels.length).map(e => e.outerHTML)"
    assert visit.page.evaluate(unnamed) == []
    for button in visit.page.get_by_role("button").all():
        assert button.inner_text().strip() or button.get_attribute("aria-label")
    levels = [int(heading.evaluate("e => e.tagName[1]")) for heading in visit.page.get_by_role("heading").all()]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))
    for landmark in ("banner", "navigation", "main"):
        expect(visit.page.get_by_role(landmark)).to_have_count(1)
    for svg in visit.page.locator("#charts svg").all():
        assert svg.get_attribute("role") == "img" and svg.get_attribute("aria-label")
