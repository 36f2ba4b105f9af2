// Talking to the endpoint: the key, requests, failures in words, and the stream of an answer.

const STORED = "gmpo-key";

/** The key of this tab, or null. */
export const key = () => sessionStorage.getItem(STORED);

/** Keep a key for as long as the tab lives; null forgets it, and so does what no HTTP header can hold. */
export function setKey(value) {
  if (value && /^[!-~]+$/.test(value)) sessionStorage.setItem(STORED, value);
  else sessionStorage.removeItem(STORED);
}

/** Keep the key of an address that ends in #key=..., and take it out of the address bar and the history; whether there was one. */
export function takeKeyFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!given) return false;
  setKey(given);
  history.replaceState(null, "", location.pathname + location.search);
  return true;
}

/** A request that was refused; `message` is for people, `status` 0 where nothing answered. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** GET a path, or POST it where there is a body; the response, or ApiError. Aborting raises the browser's AbortError. */
export async function request(path, { body, signal } = {}) {
  const headers = key() ? { authorization: `Bearer ${key()}` } : {};
  const options = { headers, signal };
  if (body !== undefined) {
    headers["content-type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const response = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The endpoint does not answer.", 0);
  });
  if (!response.ok) throw new ApiError(await inWords(response), response.status);
  return response;
}

/** The JSON of a path. */
export async function load(path, options) {
  const response = await request(path, options);
  return response.json();
}

async function inWords(response) {
  const said = await response.json().then((body) => body.error?.message, () => undefined);
  const wait = response.headers.get("retry-after");
  const again = wait ? ` Try again in ${wait} s.` : "";
  switch (response.status) {
    case 401:
      return "The endpoint does not accept this key.";
    case 403:
      return "This key may ask, but not change what answers: that needs an admin key.";
    case 429:
      return `Too many requests are under way with this key.${again}`;
    case 503:
      return `${sentence(said ?? "The endpoint cannot answer now")}${again}`;
    default:
      return sentence(said ?? `The endpoint answered with status ${response.status}`);
  }
}

const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);

/** The objects of a server-sent event stream, until [DONE]; ApiError for one that tells of a failure. */
export async function* streamed(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r\n|\n|\r/);
    rest = lines.pop();
    for (const line of lines.filter((line) => line.startsWith("data:"))) {
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(sentence(event.error.message), event.error.code);
      yield event;
    }
  }
}
