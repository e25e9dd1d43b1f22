"""Size and bit operations of a plan are sums over its sites, to the last byte."""

from __future__ import annotations

import random

import pytest

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind, Site
from autoquant.model.graph.capture import Capture, capture
from autoquant.searching.measuring.size import bops_table, int16_table, plan_costs
from tests.networks import MixedNet, images, seeded

MODEL = seeded(MixedNet)
PARAMETERS = sum(item.numel() for item in MODEL.parameters())


@pytest.fixture(scope="module")
def captured() -> Capture:
    return capture(MODEL, (images(2),))


def any_plan(captured: Capture, seed: int) -> Plan:
    draw = random.Random(seed)
    return Plan.of({site.name: draw.choice(list(Scheme)) for site in captured.sites})


@pytest.mark.parametrize("seed", range(20))
def test_the_size_is_that_of_each_weight_in_its_format(captured: Capture, seed: int) -> None:
    plan = any_plan(captured, seed)
    expected = 4 * PARAMETERS
    for site in captured.sites:
        if site.kind.is_weighted:
            bits = plan[site.name].weight.bits
            each = 2 if plan[site.name] is Scheme.INT8_WEIGHT_ONLY_BF16 else 4  # bytes of a scale
            scales = 0 if plan[site.name].weight.is_float else each * _outputs(site)
            expected += site.weight_count * bits // 8 - 4 * site.weight_count + scales
    assert plan_costs(plan, captured.sites, PARAMETERS)["size_bytes"].value == expected


def _outputs(site: Site) -> int:
    return site.output_shape[-1 if site.kind is OpKind.LINEAR else 1]


@pytest.mark.parametrize("seed", range(20))
def test_the_bops_table_gives_the_ratio(captured: Capture, seed: int) -> None:
    plan = any_plan(captured, seed)
    full = Plan.of({site.name: Scheme.FP32 for site in captured.sites})
    table = bops_table(captured.sites)
    ratio = plan_costs(plan, captured.sites, PARAMETERS)["bops_ratio"].value
    assert table.predict(plan) / table.predict(full) == ratio


@pytest.mark.parametrize("seed", range(5))
def test_the_int16_table_gives_the_share(captured: Capture, seed: int) -> None:
    plan = any_plan(captured, seed)
    share = plan_costs(plan, captured.sites, PARAMETERS)["int16_share"].value
    assert share == plan.int16_share
    assert int16_table(captured.sites).predict(plan) == pytest.approx(share, rel=1e-12)
