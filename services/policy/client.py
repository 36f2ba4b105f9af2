"""Asking an endpoint one question, with the step and the weights that answered."""

from __future__ import annotations

import time
from dataclasses import dataclass

from actors.errors import UsageError
from services.policy.headers import STEP_HEADER, WEIGHTS_HEADER


@dataclass(frozen=True, slots=True)
class Answer:
    """What the policy said, and which policy it was."""

    text: str
    model: str
    step: int
    weights: str  # first digits of the weights' sha256
    seconds: float


def query(
    url: str,
    question: str,
    *,
    key: str | None = None,
    model: str = "policy",
    max_tokens: int = 256,
    temperature: float = 0.0,
    timeout_s: float = 60.0,
) -> Answer:
    """Ask over HTTP with the official client; `url` is the endpoint's root, and UsageError says what is wrong with it or the question."""
    import openai  # a second to import, and only this function needs it

    # Without a key a word is sent: the client would send the one it finds in the environment, which is for someone else.
    client = openai.OpenAI(base_url=f"{url.rstrip('/')}/v1", api_key=key or "none", timeout=timeout_s, max_retries=0)
    started = time.perf_counter()
    try:
        with client:
            raw = client.chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": question}], max_tokens=max_tokens, temperature=temperature
            )
    except openai.APIStatusError as error:
        raise UsageError(f"{url}: {error.message}") from None
    except openai.APIConnectionError as error:
        raise UsageError(f"{url}: no answer ({error.__cause__ or error})") from None
    if STEP_HEADER not in raw.headers:
        raise UsageError(f"{url}: the answer has no {STEP_HEADER}, so this is not a gmpo endpoint")
    completion = raw.parse()
    return Answer(
        text=completion.choices[0].message.content or "",
        model=completion.model,
        step=int(raw.headers[STEP_HEADER]),
        weights=raw.headers[WEIGHTS_HEADER],
        seconds=time.perf_counter() - started,
    )
