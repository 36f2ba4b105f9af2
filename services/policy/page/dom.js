// Building and replacing elements. Text always goes in as text nodes: what a model wrote is never parsed as markup.

/** The one element that a selector names. */
export const find = (selector, within = document) => within.querySelector(selector);

/** An element with attributes (functions are listeners, false and null are left out) and children (nodes or text). */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value != null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

/** Replace what an element holds; the control that had the focus gets it back, told by its data-focus. */
export function refill(container, ...children) {
  const focused = container.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  container.replaceChildren(...children.flat());
  if (focused) find(`[data-focus="${CSS.escape(focused)}"]`, container)?.focus();
}

const optionsOf = new WeakMap();

/** Give a <select> these [value, label, disabled] options, keeping the choice; an open list stays open where nothing changed. */
export function setOptions(select, options, fallback) {
  const wanted = JSON.stringify(options);
  if (optionsOf.get(select) === wanted) return;
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, label, disabled]) => element("option", { value, disabled }, label)));
  optionsOf.set(select, wanted);
  const usable = options.filter(([, , disabled]) => !disabled).map(([value]) => String(value));
  select.value = usable.includes(chosen) ? chosen : fallback;
}

/** What a <table> holds: a caption for screen readers, column heads, and rows. */
export function tableOf(caption, heads, rows) {
  return [
    element("caption", { class: "hidden" }, caption),
    element("thead", {}, element("tr", {}, heads.map(([name, kind]) => element("th", { scope: "col", class: kind }, name)))),
    element("tbody", {}, rows),
  ];
}

/** A row: its head, and cells, of which bare text is a figure. */
export function rowOf(head, cells, attributes = {}) {
  const made = cells.map((cell) => (typeof cell === "string" ? element("td", { class: "figure" }, cell) : element("td", {}, cell)));
  return element("tr", attributes, element("th", { scope: "row" }, head), made);
}

/** Let the keyboard reach a box of words that has to be scrolled. */
export function makeReachable(box) {
  if (box.scrollHeight > box.clientHeight) box.tabIndex = 0;
}

/** Three decimals, a dash where there is no figure. */
export const fixed = (value) => (value == null ? "–" : value.toFixed(3));

/** A stretch of time in words, by its greatest unit. */
export function duration(seconds) {
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const [name, size] = units.find(([, size]) => seconds >= size) ?? units.at(-1);
  const count = Math.floor(seconds / size);
  return `${count} ${name}${count === 1 ? "" : "s"}`;
}
