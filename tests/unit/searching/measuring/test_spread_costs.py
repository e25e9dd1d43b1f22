from __future__ import annotations

import pytest

from autoquant.core.precision import Scheme
from autoquant.core.sites import Site
from autoquant.core.space import Knob, SearchSpace
from autoquant.model.graph.capture import capture
from autoquant.searching.measuring.cost_profile import spread_costs
from tests.networks import MixedNet, images, seeded

SCHEMES = (Scheme.INT8, Scheme.FP16, Scheme.FP32)


@pytest.fixture(scope="module")
def sites() -> tuple[Site, ...]:
    return capture(seeded(MixedNet), (images(4),)).sites


@pytest.fixture(scope="module")
def space(sites: tuple[Site, ...]) -> SearchSpace:
    return SearchSpace(tuple(Knob(site.name, (site.name,), SCHEMES) for site in sites))


def test_a_uniform_plan_costs_what_was_timed(space: SearchSpace, sites: tuple[Site, ...]) -> None:
    table = spread_costs(space, sites, {Scheme.INT8: 2.0, Scheme.FP32: 8.0})
    assert table.predict(space.uniform(Scheme.INT8)) == pytest.approx(2.0)
    assert table.predict(space.uniform(Scheme.FP32)) == pytest.approx(8.0)


def test_a_scheme_without_a_time_counts_as_the_slowest(
    space: SearchSpace, sites: tuple[Site, ...]
) -> None:
    table = spread_costs(space, sites, {Scheme.INT8: 2.0, Scheme.FP32: 8.0})
    assert table.predict(space.uniform(Scheme.FP16)) == pytest.approx(8.0)


def test_an_op_with_more_work_takes_more_of_the_time(
    space: SearchSpace, sites: tuple[Site, ...]
) -> None:
    table = spread_costs(space, sites, {Scheme.INT8: 2.0, Scheme.FP32: 8.0})
    ranked = sorted(sites, key=lambda site: site.macs)
    assert table.ops[ranked[0].name, Scheme.FP32] < table.ops[ranked[-1].name, Scheme.FP32]
