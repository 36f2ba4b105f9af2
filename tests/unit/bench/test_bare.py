from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.learner.batching import micro_batches
from actors.types import Row
from services.bench.bare import BareLoop, by_cross_entropy, by_log_softmax
from services.bench.layouts import even_out, packed, padded, rectangles
from services.bench.lengths import make_rows
from services.bench.shapes import SHAPES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return make_rows([(3, 9), (7, 1), (1, 20), (4, 4), (2, 13)], SHAPES["tiny"].vocabulary, np.random.default_rng(0))


def loop() -> BareLoop:
    return BareLoop(SHAPES["tiny"].build(seed=0), "alone", dtype="float32", device=CPU, ranks=1, lr=1e-3, max_grad_norm=1.0)


def test_padding_and_packing_make_the_same_update(rows: list[Row]) -> None:
    by_packing, by_padding, in_parts = loop(), loop(), loop()
    found = by_packing.update([packed(micro) for micro in micro_batches(rows, 2, CPU)], len(rows))
    assert by_padding.update([padded(rows, CPU)], len(rows)) == pytest.approx(found, rel=1e-4)
    assert in_parts.update([padded([row], CPU) for row in rows], len(rows)) == pytest.approx(found, rel=1e-4)
    for left, right in zip(by_packing.policy.parameters(), by_padding.policy.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-4)  # a tenth of the step that AdamW's first update makes


def test_the_loss_is_the_formula_row_by_row(rows: list[Row]) -> None:
    bare = loop()
    expected = 0.0
    for row in rows:
        tokens = torch.from_numpy(row.token_ids.astype(np.int64))
        logits = SHAPES["tiny"].build(seed=0)(tokens[None]).logits[0, row.prompt_length - 1 : -1]
        ratios = torch.log_softmax(logits, -1).gather(-1, tokens[row.prompt_length :, None])[:, 0] - torch.from_numpy(row.logprobs)
        clipped = ratios.clamp(max=0.4) if row.advantage > 0 else ratios.clamp(min=-0.4)
        expected -= row.advantage * clipped.detach().mean().exp().item() / len(rows)
    assert bare.update([padded(rows, CPU)], len(rows))[0] == pytest.approx(expected, rel=1e-5)


def test_both_heads_give_the_same_and_one_is_chosen(rows: list[Row]) -> None:
    hidden, weight, targets = torch.randn(6, 8), torch.randn(11, 8), torch.arange(6)
    torch.testing.assert_close(by_log_softmax(hidden, weight, targets), by_cross_entropy(hidden, weight, targets))
    assert loop().choose_head(padded(rows, CPU)) in {"log_softmax", "cross_entropy"}


def test_rectangles_keep_the_order_and_the_budget(rows: list[Row]) -> None:
    parts = rectangles(rows, 30)
    assert [id(row) for part in parts for row in part] == list(map(id, rows))
    assert all(len(part) == 1 or len(part) * max(len(row.token_ids) for row in part) <= 30 for part in parts)
    assert len(rectangles(rows, 10_000)) == 1


def test_evened_out_parts_hold_the_same_rows(rows: list[Row]) -> None:
    parts = even_out([list(rows)], 4)
    assert len(parts) == 4 and all(parts)
    assert [id(row) for part in parts for row in part] == list(map(id, rows))
