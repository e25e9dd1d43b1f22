"""Sizes and bit operations by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.model.graph.capture import capture
from autoquant.searching.measuring.size import plan_costs


def costs(scheme: Scheme) -> tuple[float, float]:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Hardswish(), nn.Conv2d(8, 4, 1))
    captured = capture(model, (torch.ones(2, 3, 6, 6),))
    plan = Plan.of({site.name: scheme for site in captured.sites})
    parameters = sum(item.numel() for item in model.parameters())
    found = plan_costs(plan, captured.sites, parameters)
    return found["size_bytes"].value, found["bops_ratio"].value


@pytest.mark.slow
def test_fp32_is_four_bytes_a_parameter() -> None:
    # 3*8*9 + 8 and 8*4 + 4 parameters
    assert costs(Scheme.FP32) == (4.0 * (216 + 8 + 32 + 4), 1.0)


def test_int8_keeps_biases_and_a_scale_for_each_output_channel() -> None:
    assert costs(Scheme.INT8) == (216 + 32 + 4 * (8 + 4) + 4 * (8 + 4), 8 * 8 / 32**2)


def test_int16_activations_keep_int8_weights() -> None:
    assert costs(Scheme.INT16) == (costs(Scheme.INT8)[0], 8 * 16 / 32**2)


def test_bf16_halves_the_weights() -> None:
    assert costs(Scheme.BF16) == (2.0 * (216 + 32) + 4 * (8 + 4), 16 * 16 / 32**2)


def test_macs_of_a_convolution_count_every_output_position() -> None:
    captured = capture(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), (torch.ones(2, 3, 6, 6),))
    assert captured.sites[0].macs == 6 * 6 * 216


def test_the_weight_of_a_norm_that_is_a_site_stays_fp32() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4)).eval()
    captured = capture(model, (torch.zeros(2, 8),))
    parameters = sum(item.numel() for item in model.parameters())
    for scheme, saved in ((Scheme.FP32, 0), (Scheme.INT8, 3 * (64 + 32) - 4 * (8 + 4))):
        plan = Plan.of({site.name: scheme for site in captured.sites})
        size = plan_costs(plan, captured.sites, parameters)["size_bytes"].value
        assert size == 4 * parameters - saved


class Tied(nn.Module):
    """An embedding of 10 x 8 and a head that shares its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.embed(tokens))
        return found


@pytest.mark.parametrize(
    ("embed", "head", "size"),
    [
        (Scheme.FP32, Scheme.FP32, 4 * 80),
        (Scheme.INT8_WEIGHT_ONLY, Scheme.FP32, 4 * 80 + 80 + 4 * 10),
        (Scheme.FP32, Scheme.INT8, 4 * 80 + 80 + 4 * 10),
        (Scheme.INT8_WEIGHT_ONLY, Scheme.INT8, 80 + 4 * 10),
        (Scheme.BF16, Scheme.BF16, 2 * 80),
    ],
)
def test_a_shared_weight_is_stored_once_for_each_format(
    embed: Scheme, head: Scheme, size: int
) -> None:
    tokens = torch.zeros(2, 3, dtype=torch.long)
    captured = capture(Tied().eval(), (tokens,), how="export")
    assert captured.stored_count == 80
    plan = Plan.of({"embed": embed, "head": head})
    assert plan_costs(plan, captured.sites, captured.stored_count)["size_bytes"].value == size


@pytest.mark.parametrize(
    ("scheme", "size"),
    [
        # 5 rows of 80: 3 groups of 32, 2 of 64 and 1 of 128 in each, the last ones not full
        (Scheme.INT4_WEIGHT_ONLY, 400 // 2 + 4 * 5 * 3 + 4 * 5),
        (Scheme.INT4_WEIGHT_ONLY_64, 400 // 2 + 4 * 5 * 2 + 4 * 5),
        (Scheme.INT4_WEIGHT_ONLY_128, 400 // 2 + 4 * 5 + 4 * 5),
    ],
)
def test_four_bits_take_half_a_byte_and_a_scale_for_each_group(scheme: Scheme, size: int) -> None:
    captured = capture(nn.Sequential(nn.Linear(80, 5)).eval(), (torch.zeros(2, 80),))
    found = plan_costs(Plan.of({"0": scheme}), captured.sites, 405)
    assert found["size_bytes"].value == size
    assert found["bops_ratio"].value == 4 * 32 / 32**2


def test_a_weight_that_is_computed_is_stored_as_what_it_is_folded_to() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(12, 16))
    captured = capture(nn.Sequential(normed).eval(), (torch.zeros(2, 12),))
    assert captured.stored_count == 12 * 16 + 16
    sizes = {
        scheme: plan_costs(Plan.of({"0": scheme}), captured.sites, captured.stored_count)
        for scheme in (Scheme.FP32, Scheme.INT8)
    }
    assert sizes[Scheme.FP32]["size_bytes"].value == 4 * (12 * 16 + 16)
    assert sizes[Scheme.INT8]["size_bytes"].value == 12 * 16 + 4 * (16 + 16)


def test_a_shared_weight_in_two_group_sizes_is_stored_twice() -> None:
    tokens = torch.zeros(2, 3, dtype=torch.long)
    captured = capture(Tied().eval(), (tokens,), how="export")
    both = Plan.of({"embed": Scheme.INT4_WEIGHT_ONLY, "head": Scheme.INT4_WEIGHT_ONLY_64})
    same = Plan.of(dict.fromkeys(("embed", "head"), Scheme.INT4_WEIGHT_ONLY))
    sizes = [
        plan_costs(plan, captured.sites, captured.stored_count)["size_bytes"].value
        for plan in (same, both)
    ]
    assert sizes == [40 + 4 * 10, 2 * (40 + 4 * 10)]
