// Browsing what was trained on, with the verdicts.

import { load } from "./api.js";
import { element, find, makeReachable, setOptions } from "./dom.js";

const PAGE = 12;
const MARKS = { right: "✓", wrong: "✗" };

/** Wire the section; the function it returns is told the newest trained step, and shows rollouts where none are shown yet. */
export function startRollouts() {
  const [step, outcome, previous, next] = ["step", "outcome", "previous", "next"].map((name) => find(`#rollouts-${name}`));
  const status = find("#rollouts-status");
  let offset = 0;
  let asked = 0;
  let shown = false;
  let seen = null;

  async function show(start) {
    const query = new URLSearchParams({ offset: start, limit: PAGE });
    if (step.value) query.set("step", step.value);
    if (outcome.value) query.set("outcome", outcome.value);
    const mine = ++asked;
    try {
      const page = await load(`v1/run/rollouts?${query}`);
      if (mine !== asked) return; // another choice was made meanwhile
      offset = start;
      shown = page.steps.length > 0;
      fillSteps(page);
      render(page);
    } catch (error) {
      status.textContent = error.message;
    }
  }

  function fillSteps(page) {
    setOptions(step, [...page.steps].reverse().map((number) => [String(number), `step ${number}`, false]), String(page.step ?? ""));
  }

  function render(page) {
    find("#rollouts-list").replaceChildren(...byPrompt(page.data).map(card));
    document.querySelectorAll("#rollouts-list .words").forEach(makeReachable);
    const last = offset + page.data.length;
    const nothing = page.steps.length ? "None with this verdict." : "No rollouts yet.";
    status.textContent = page.total ? `${offset + 1} to ${last} of ${page.total}` : nothing;
    previous.disabled = offset === 0;
    next.disabled = last >= page.total;
    // A disabled button would keep the focus and answer to nothing.
    if (document.activeElement === previous && previous.disabled) next.focus();
    if (document.activeElement === next && next.disabled) previous.focus();
  }

  async function lookForSteps(newest) {
    if (newest === seen) return;
    if (shown) fillSteps(await load("v1/run/rollouts?limit=1"));
    else await show(0);
    seen = newest;
  }

  find("#rollouts-form").addEventListener("submit", (event) => event.preventDefault());
  for (const select of [step, outcome]) select.addEventListener("change", () => show(0));
  previous.addEventListener("click", () => show(Math.max(0, offset - PAGE)));
  next.addEventListener("click", () => show(offset + PAGE));
  return lookForSteps;
}

/** Rows of one prompt stand together in a record. */
function byPrompt(rows) {
  const groups = [];
  for (const row of rows) {
    const last = groups.at(-1);
    if (last && last[0].ordinal === row.ordinal && last[0].prompt === row.prompt) last.push(row);
    else groups.push([row]);
  }
  return groups;
}

function card(group) {
  const title = element("h3", {}, group[0].ordinal == null ? "Prompt" : `Prompt ${group[0].ordinal}`);
  return element("article", { class: "card rollout" },
    title,
    words("Prompt", group[0].prompt),
    element("ul", { class: "columns" }, group.map((row) => element("li", {}, response(row)))));
}

function response(row) {
  const verdict = row.outcome ?? "no verdict";
  const facts = [["score", row.score], ["advantage", row.advantage]].filter(([, value]) => value != null);
  return [
    element("p", { class: "soft line" },
      element("span", { class: `verdict ${verdict}` }, `${MARKS[verdict] ?? "!"} ${verdict}`),
      facts.map(([name, value]) => element("span", {}, `${name} ${Number(value.toPrecision(3))}`)),
      element("span", {}, versionsOf(row))),
    words(`Response ${row.sample == null ? "" : row.sample + 1}`, row.response),
  ];
}

function versionsOf({ version_oldest: oldest, version_newest: newest }) {
  if (oldest == null) return "version unknown";
  return oldest === newest ? `sampled by step ${oldest}` : `sampled by steps ${oldest} to ${newest}`;
}

function words(label, text) {
  if (!text) return element("p", { class: "words empty" }, "(empty)");
  return element("div", { class: "words", role: "group", "aria-label": label }, text);
}
