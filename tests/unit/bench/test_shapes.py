from __future__ import annotations

import pytest

from services.bench.shapes import PUBLISHED, SHAPES, peak_flops


@pytest.mark.parametrize("length", [16_384, 65_536])
def test_the_flop_count_gives_the_published_mfu_for_the_published_tokens_per_second(length: int) -> None:
    """So that the two figures may stand side by side."""
    published = PUBLISHED["qwen3-0.6b", length]
    flops_per_token = SHAPES["qwen3-0.6b"].update_flops([(1, length - 1)]) / length
    peak = peak_flops("NVIDIA H100 80GB HBM3")
    assert peak is not None
    assert flops_per_token * published.tokens_per_s / peak == pytest.approx(published.mfu, rel=0.005)


def test_prompts_do_not_go_through_the_output_layer_and_rows_do_not_see_each_other() -> None:
    shape = SHAPES["30m"]
    assert shape.update_flops([(50, 50)]) < shape.update_flops([(1, 99)])
    assert shape.update_flops([(1, 99)] * 2) == 2 * shape.update_flops([(1, 99)]) < shape.update_flops([(2, 198)])


def test_a_shape_counts_the_matrices_of_the_model_it_builds() -> None:
    shape = SHAPES["tiny"]
    model = shape.build(seed=0)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name and "lm_head" not in name)
    assert shape.layer_parameters == matrices


def test_the_30m_shape_has_30_million_parameters() -> None:
    assert sum(p.numel() for p in SHAPES["30m"].build(seed=0).parameters()) == pytest.approx(30e6, rel=0.03)


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 80GB HBM3", 989.4e12), ("NVIDIA H200", 989.4e12), ("CPU, AMD EPYC", None)],
)
def test_the_peak_is_that_of_the_gpu_by_its_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
