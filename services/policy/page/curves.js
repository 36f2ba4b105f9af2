// Curves over versions: the server's drawings, the same figures as tables, and the suites' results.

import { load } from "./api.js";
import { element, find, fixed, rowOf, tableOf } from "./dom.js";

let shown = "";
let suitesShown = "";

/** Load the curves and show them; what is on the page stays where nothing changed. */
export async function refreshCurves() {
  const [curves, evaluations] = await Promise.all([load("v1/run/charts"), load("v1/run/evaluations")]);
  const status = find("#curves-status");
  status.textContent = curves.charts.length ? "" : "No step has finished yet.";
  if (shown !== (shown = JSON.stringify(curves))) showCharts(curves);
  if (suitesShown !== (suitesShown = JSON.stringify(evaluations))) showSuites(evaluations.data);
}

function showCharts({ charts, series }) {
  const open = new Set([...document.querySelectorAll("#charts details[open]")].map((details) => details.dataset.title));
  const focused = document.activeElement.closest?.("#charts details")?.dataset.title;
  find("#charts").replaceChildren(...charts.map((chart) => figure(chart, series, open.has(chart.title))));
  if (focused) find(`#charts details[data-title="${CSS.escape(focused)}"] summary`)?.focus();
}

function figure(chart, series, open) {
  const details = element("details", { "data-title": chart.title }, element("summary", {}, "Figures"));
  // Filled when it is opened: the table of a long run is large.
  details.addEventListener("toggle", () => {
    if (details.open && !find("table", details)) details.append(figuresTable(chart, series));
  });
  details.open = open;
  const caption = element("figcaption", {}, element("h3", {}, chart.title), element("p", { class: "soft" }, chart.note));
  return element("figure", { class: "card" }, caption, drawing(chart.svg), details);
}

/** The server's SVG as elements. The page forbids itself style attributes in markup, so they are set one by one. */
function drawing(svg) {
  const source = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"');
  const root = new DOMParser().parseFromString(source.replaceAll(" style=", " data-style="), "image/svg+xml").documentElement;
  const imported = document.importNode(root, true);
  for (const styled of imported.querySelectorAll("[data-style]")) {
    styled.style.cssText = styled.dataset.style;
    delete styled.dataset.style;
  }
  return imported;
}

function figuresTable(chart, series) {
  const columns = chart.series.flatMap((name) => columnsOf(name, series[name]));
  const steps = [...new Set(columns.flatMap((column) => [...column.values.keys()]))].sort((a, b) => a - b);
  const heads = [["step"], ...columns.map((column) => [column.name, "figure"])];
  const rows = steps.map((step) => rowOf(String(step), columns.map((column) => figureText(column.values.get(step)))));
  const table = element("table", {}, tableOf(`${chart.title}: figures by step`, heads, rows));
  return element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": `${chart.title}: figures` }, table);
}

function columnsOf(name, { steps, values, low, high }) {
  const column = (label, figures) => ({ name: label, values: new Map(steps.map((step, at) => [step, figures[at]])) });
  return [column(name, values), ...(low ? [column("low", low), column("high", high)] : [])];
}

const figureText = (value) => (value == null ? "–" : String(Number(value.toPrecision(4))));

const SUITE_HEADS = [["Suite"], ...["Step", "pass@1", "95 % interval", "Problems", "Responses each"].map((name) => [name, "figure"])];

function showSuites(results) {
  if (!results.length) return find("#suites").replaceChildren();
  const rows = results.map((result) => {
    const interval = `${fixed(result.low)} to ${fixed(result.high)}`;
    return rowOf(result.suite, [String(result.step), fixed(result["pass@1"]), interval, String(result.problems), String(result.samples)]);
  });
  const table = element("table", {}, tableOf("Results of the evaluation suites", SUITE_HEADS, rows));
  find("#suites").replaceChildren(
    element("h3", {}, "Evaluation suites"),
    element("div", { class: "card scroll", role: "region", tabindex: "0", "aria-label": "Evaluation suites" }, table),
  );
}
