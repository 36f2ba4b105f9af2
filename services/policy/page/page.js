// The page of a policy endpoint: lets the key in, then keeps versions, curves and rollouts up to date.

import { ApiError, key, load, setKey, takeKeyFromAddress } from "./api.js";
import { startAsking } from "./ask.js";
import { refreshCurves } from "./curves.js";
import { find } from "./dom.js";
import { startRollouts } from "./rollouts.js";
import { startVersions } from "./versions.js";

const REFRESH_MS = 10_000;

const fillPickers = startAsking();
const showVersions = startVersions(showPolicies);
const lookForRollouts = startRollouts();
let underWay = null;
let asking = false; // for a key

function showPolicies(policies) {
  fillPickers(policies);
  showVersions(policies);
}

function showRun({ name, step, steps }) {
  document.title = `${name} · gmpo policy`;
  find("#run-name").textContent = name;
  find("#run-state").textContent = steps ? `step ${step} of ${steps}` : `step ${step}`;
  const progress = find("#run-progress");
  progress.hidden = !steps;
  if (steps) [progress.max, progress.value] = [steps, Math.min(step, steps)];
}

/** Ask for everything that may have changed; one round at a time. */
function refresh() {
  if (asking || document.visibilityState === "hidden") return Promise.resolve();
  underWay ??= update().finally(() => {
    underWay = null;
  });
  return underWay;
}

async function update() {
  try {
    const policies = await load("v1/policies");
    if (asking) return; // the key was taken back meanwhile
    showPolicies(policies);
    open();
    const run = await load("v1/run");
    showRun(run);
    await Promise.all([refreshCurves(), lookForRollouts(run.step)]);
    find("#connection").textContent = "";
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status === 401) askForKey(key() ? error.message : "");
    else find("#connection").textContent = error.message;
  }
}

function open() {
  const asked = !find("#key").hidden;
  find("#key").hidden = true;
  for (const part of document.querySelectorAll(".needs-key")) part.hidden = false;
  if (asked) find("#question").focus();
}

/** Show the field for the key and nothing else. */
function askForKey(problem = "") {
  asking = true;
  setKey(null);
  for (const part of document.querySelectorAll(".needs-key")) part.hidden = true;
  find("#key").hidden = false;
  find("#connection").textContent = "";
  find("#key-problem").textContent = problem;
  find("#key-input").value = "";
  find("#key-input").focus();
}

find("#key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  await underWay;
  setKey(find("#key-input").value.trim());
  asking = false;
  find("#key-problem").textContent = "";
  refresh();
});
find("#change-key").addEventListener("click", () => askForKey());
document.addEventListener("visibilitychange", refresh);
window.addEventListener("hashchange", () => {
  if (takeKeyFromAddress()) asking = false;
  refresh();
});
setInterval(refresh, REFRESH_MS);

takeKeyFromAddress();
refresh(); // without a key too: an endpoint may be open
