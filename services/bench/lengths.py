"""Made-up rollouts with the lengths of real ones: what the learner's benchmark trains on.

Response lengths are lognormal. Sigma is 0.99: the 99th percentile of reasoning rollouts is about ten times their median (Laminar, arXiv
2510.12633), and ln 10 / 2.326 = 0.99. The cap is the 3,000 tokens of the GMPO paper's runs, and the median of 600 puts one response in
twenty at the cap. Prompts are a chat template of 30 tokens and a problem: lognormal, median 54 tokens, sigma 0.72, which are the
8,523 problems of the paper's training set (MATH levels 3-5: median 162 characters, sigma 0.72) at three characters a token.
"""

from __future__ import annotations

import numpy as np

from actors.types import Row

MEDIAN, SIGMA, CAP = 600, 0.99, 3_000
TEMPLATE, PROBLEM_MEDIAN, PROBLEM_SIGMA, PROMPT_CAP = 30, 54, 0.72, 1_024


def rollout_lengths(tokens: int, generator: np.random.Generator, *, divisor: int = 1) -> list[tuple[int, int]]:
    """(prompt, response) lengths of rows that come to `tokens` in all, each length divided by `divisor`; the last row is cut to fit."""
    pairs: list[tuple[int, int]] = []
    left = tokens
    while left >= 2:
        prompt = min(PROMPT_CAP, TEMPLATE + PROBLEM_MEDIAN * np.exp(PROBLEM_SIGMA * generator.standard_normal())) / divisor
        response = min(CAP, MEDIAN * np.exp(SIGMA * generator.standard_normal())) / divisor
        prompt_tokens = max(1, min(round(prompt), left - 1))
        pairs.append((prompt_tokens, max(1, min(round(response), left - prompt_tokens))))
        left -= sum(pairs[-1])
    return pairs


def make_rows(pairs: list[tuple[int, int]], vocabulary: int, generator: np.random.Generator) -> list[Row]:
    """Rows of random tokens. Behaviour log-probs lie about the random model's own, so that some ratios are clipped and most are not;
    no advantage is 0, so that no row is skipped."""
    return [_row(prompt, response, vocabulary, generator) for prompt, response in pairs]


def _row(prompt: int, response: int, vocabulary: int, generator: np.random.Generator) -> Row:
    return Row(
        token_ids=generator.integers(0, vocabulary, prompt + response, dtype=np.int32),
        prompt_length=prompt,
        mask=np.ones(response, dtype=np.bool_),
        logprobs=(-np.log(vocabulary) + 0.3 * generator.standard_normal(response)).astype(np.float32),
        ref_logprobs=None,
        advantage=float(generator.choice([-1.0, 1.0]) * generator.uniform(0.5, 1.5)),
        update=0,
        current=np.ones(response, dtype=np.bool_),
    )


def share_out(rows: list[Row], ranks: int) -> list[list[Row]]:
    """Each rank's rows: the longest left goes to the rank with the fewest tokens; within a rank they keep their order."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index].token_ids)):
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += len(rows[index].token_ids)
    return [[rows[index] for index in sorted(share)] for share in shares]
