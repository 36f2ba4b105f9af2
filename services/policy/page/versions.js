// The list of versions: what each is worth, which one "policy" means, and the buttons that change it.

import { load } from "./api.js";
import { duration, element, find, fixed, refill, rowOf, tableOf } from "./dom.js";

const DONE = {
  promote: (step) => `policy now means step ${step}.`,
  pin: (step) => `Step ${step} is pinned: it is kept.`,
  unpin: (step) => `Step ${step} is no longer pinned.`,
  rollback: () => "Rolled back.",
  follow: () => "policy follows the newest version.",
};

/** Wire the section. `changed` is called with the list after an action; the function it returns shows a list. */
export function startVersions(changed) {
  const manage = find("#manage");
  const status = find("#versions-status");
  let latest = null;

  async function act(action, body = {}) {
    try {
      const policies = await load(`v1/policies/${action}`, { body });
      say(DONE[action](body.step));
      changed(policies);
    } catch (error) {
      say(error.message, true);
    }
  }

  function say(text, problem = false) {
    status.classList.toggle("problem", problem);
    status.textContent = text;
  }

  function show(policies) {
    latest = policies;
    find("#versions-note").textContent = summary(policies);
    const managing = manage.getAttribute("aria-expanded") === "true";
    refill(find("#versions-table"), table(policies, managing ? act : null));
  }

  manage.addEventListener("click", () => {
    const open = manage.getAttribute("aria-expanded") !== "true";
    manage.setAttribute("aria-expanded", String(open));
    find("#manage-bar").hidden = !open;
    if (latest) show(latest);
  });
  for (const button of find("#manage-bar").querySelectorAll("button")) button.addEventListener("click", () => act(button.dataset.act));
  return show;
}

function summary({ policy, best, best_by: by, following, data }) {
  if (!data.length) return "No version has been written yet.";
  const means = policy === null ? "no version yet" : `step ${policy} and ${following ? "follows the newest" : "stays there"}`;
  const leads = best === null ? `None has a figure for ${by} yet.` : `Best by ${by}: step ${best}.`;
  return `The name policy means ${means}. ${leads}`;
}

function table(policies, act) {
  const metrics = metricNames(policies);
  const heads = [["Version"], ["State"], ...metrics.map((name) => [name, "figure"]), ["Age"], ["Weights"], ...(act ? [["Change"]] : [])];
  const rows = [...policies.data].reverse().map((version) => row(version, policies, metrics, act));
  return tableOf("Policy versions, newest first", heads, rows);
}

/** The metric that decides about "best" first, the others by name. */
function metricNames({ best_by: by, data }) {
  const names = new Set(data.flatMap((version) => Object.keys(version.metrics)));
  return [...names].sort((a, b) => (b === by) - (a === by) || a.localeCompare(b));
}

function row(version, policies, metrics, act) {
  const { created, weights } = version; // not known of every refused version
  const cells = [
    element("div", {}, element("div", { class: "badges" }, badges(version, policies)), reason(version)),
    ...metrics.map((name) => fixed(version.metrics[name])),
    created ? element("time", { datetime: created, title: created }, duration(version.age_seconds)) : element("span", {}, "–"),
    element("code", {}, weights ? weights.slice(0, 12) : "–"),
  ];
  if (act) cells.push(element("div", { class: "buttons" }, actions(version, policies, act)));
  return rowOf(`step ${version.step}`, cells, { class: version.refused ? "refused" : null });
}

function badges(version, policies) {
  const shown = [
    ["policy", version.step === policies.policy, "strong"],
    ["best", version.step === policies.best, "strong"],
    ["pinned", version.pinned, ""],
    ["resident", version.resident, ""],
    ["refused", version.refused !== null, "bad"],
  ];
  return shown.filter(([, holds]) => holds).map(([name, , kind]) => element("span", { class: `badge ${kind}` }, name));
}

const reason = (version) => version.refused && element("p", { class: "reason" }, version.refused);

function actions(version, policies, act) {
  const button = (action, label) => element("button", {
    type: "button",
    class: "small",
    "aria-label": `${label} step ${version.step}`,
    "data-focus": `${label}-${version.step}`,
    click: () => act(action, { step: version.step }),
  }, label);
  const promotable = !version.refused && (version.step !== policies.policy || policies.following);
  const pinnable = version.pinned ? button("unpin", "Unpin") : !version.refused && button("pin", "Pin");
  return [promotable && button("promote", "Promote"), pinnable];
}
