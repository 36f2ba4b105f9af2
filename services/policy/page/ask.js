// Asking two versions the same question side by side.

import { ApiError, request, streamed } from "./api.js";
import { duration, element, find, makeReachable, setOptions } from "./dom.js";

const ENDINGS = { stop: "ended by itself", length: "cut at the token limit" };

/** One side: a picker in the form and a card with the answer. */
class Side {
  constructor(name) {
    this.picker = find(`select[data-side="${name}"]`);
    this.card = find(`article[data-side="${name}"]`);
    this.title = element("h3", {}, `${name === "first" ? "First" : "Second"} answer`);
    this.state = element("p", { class: "state" });
    this.text = element("div", { class: "words empty", role: "group", "aria-label": "Text", "aria-live": "polite" }, "Nothing asked yet.");
    this.facts = element("dl", { class: "facts" });
    this.card.append(element("div", { class: "heading" }, this.title, this.state), this.text, this.facts);
  }

  /** Stream the answer of the picked version into the card; resolves whatever comes of it. */
  async ask(question, settings, signal) {
    this.begin();
    const started = performance.now();
    try {
      const body = { model: this.asked, messages: [{ role: "user", content: question }], stream: true, ...settings };
      const response = await request("v1/chat/completions", { body, signal });
      this.showVersion(response.headers);
      this.end("done", await this.write(response), started);
    } catch (error) {
      const stopped = error.name === "AbortError";
      if (!stopped && !(error instanceof ApiError)) error.message = `The answer broke off: ${error.message}`;
      if (!stopped) this.card.append(element("p", { class: "problem", role: "alert" }, error.message));
      this.end(stopped ? "stopped" : "failed", undefined, started);
    }
  }

  begin() {
    find(".problem", this.card)?.remove();
    this.asked = this.picker.value; // which may be changed while the answer comes
    this.title.textContent = this.asked;
    this.text.classList.remove("empty");
    this.text.setAttribute("aria-busy", "true");
    this.text.replaceChildren();
    this.facts.replaceChildren();
    this.setState("writing");
  }

  async write(response) {
    let ending;
    for await (const event of streamed(response)) {
      const choice = event.choices?.[0];
      this.text.append(choice?.delta?.content ?? "");
      ending = choice?.finish_reason ?? ending;
    }
    return ending;
  }

  end(state, ending, started) {
    this.text.normalize();
    makeReachable(this.text);
    if (!this.text.textContent) {
      this.text.classList.add("empty");
      this.text.textContent = state === "done" ? "The answer has no text." : "No answer.";
    }
    this.text.setAttribute("aria-busy", "false");
    this.addFact("Time", `${((performance.now() - started) / 1000).toFixed(2)} s`);
    if (ending) this.addFact("End", ENDINGS[ending] ?? ending);
    this.setState(state);
  }

  showVersion(headers) {
    const step = headers.get("x-gmpo-step");
    const behind = Number(headers.get("x-gmpo-age-steps") ?? 0);
    this.title.textContent = this.asked.endsWith(`step-${step}`) ? this.asked : `${this.asked} = step ${step}`;
    this.addFact("Step", step);
    this.addFact("Weights", element("code", {}, headers.get("x-gmpo-weights") ?? ""));
    const steps = behind ? `${behind} step${behind === 1 ? "" : "s"} behind the newest` : "the newest";
    this.addFact("Age", `${duration(Number(headers.get("x-gmpo-age-seconds")))}, ${steps}`);
  }

  addFact(name, value) {
    this.facts.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  }

  setState(state) {
    this.state.dataset.state = state;
    this.state.textContent = state === "writing" ? "writing …" : state;
  }
}

/** Wire the form; the function it returns fills the pickers from the list of versions. */
export function startAsking() {
  const sides = ["first", "second"].map((name) => new Side(name));
  const [form, askButton, stopButton] = ["#ask-form", "#ask-both", "#stop"].map((selector) => find(selector));
  let underWay = null;

  async function ask() {
    if (underWay) return;
    underWay = new AbortController();
    [askButton.disabled, stopButton.disabled] = [true, false];
    const settings = { temperature: find("#temperature").valueAsNumber, max_tokens: find("#max-tokens").valueAsNumber };
    const question = find("#question").value;
    await Promise.all(sides.map((side) => side.ask(question, settings, underWay.signal)));
    underWay = null;
    [askButton.disabled, stopButton.disabled] = [false, true];
    if (document.activeElement === document.body || document.activeElement === stopButton) askButton.focus();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  stopButton.addEventListener("click", () => underWay?.abort());
  return (policies) => fillPickers(sides, policies);
}

function fillPickers([first, second], policies) {
  const named = [["policy", policies.policy], ["policy@best", policies.best]].filter(([, step]) => step !== null);
  const versions = [...policies.data].reverse();
  const usable = versions.filter((version) => !version.refused);
  const options = [
    ...named.map(([name, step]) => [name, `${name} (now step ${step})`, false]),
    ...versions.map((version) => [version.id, version.id + remark(version), Boolean(version.refused)]),
  ];
  setOptions(first.picker, options, usable.at(-1)?.id ?? "policy");
  setOptions(second.picker, options, policies.policy === null ? usable[0]?.id : "policy");
}

function remark(version) {
  if (version.refused) return " (refused)";
  return version.resident ? "" : " (loads on demand)";
}
