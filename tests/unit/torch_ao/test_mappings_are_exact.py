"""A mapping, given to torch alone, makes of a model what its plan says."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

import autoquant as aq
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind
from autoquant.core.statistics import ObserverName
from autoquant.model.graph.captured import Capture
from autoquant.torch_ao.conversion import using_engine
from tests import fx_networks as nets
from tests.networks import LinearNet, MixedNet, TextNet, images, seeded
from tests.unit.torch_ao.wayout import captured, rows, tokens, uniform, way_out

pytestmark = pytest.mark.filterwarnings("ignore")

NETWORKS = {
    nets.ResNet: tuple(images(8, seed, 32) * (1.0 + seed) for seed in range(3)),
    MixedNet: tuple(images(8, seed) * (1.0 + seed) for seed in range(3)),
    LinearNet: tuple(rows(8, 16, seed=seed) for seed in range(3)),
    nets.Functional: tuple(images(8, seed) for seed in range(2)),
}
network = pytest.mark.parametrize("network", NETWORKS, ids=lambda item: item.__name__)


def random_plan(found: Capture, seed: int, schemes: tuple[Scheme, ...]) -> Plan:
    """Sites that follow take the scheme of what feeds them, as in every search."""
    draw, chosen = random.Random(seed), dict[str, Scheme]()
    for site in found.sites:
        follows = site.follows in chosen
        chosen[site.name] = chosen[str(site.follows)] if follows else draw.choice(schemes)
    return Plan.of(chosen)


def bounded_alone(plan: Plan, found: Capture) -> Plan:
    """Leave in fp32 what reads a sigmoid in fp32: our grid of it is 0 to 1, torch observes one."""
    bounded = [site for site in found.sites if site.output_range is not None]
    floats = {site.module for site in bounded if plan[site.name] is Scheme.FP32}
    muls = [site.name for site in found.sites if site.kind is OpKind.MUL and site.module in floats]
    return Plan.of({**plan.schemes, **dict.fromkeys(muls, Scheme.FP32)})


def prepared_by_torch(model: type[nn.Module], plan: Plan, batches: tuple[Tensor, ...]) -> nn.Module:
    mapping = way_out(model, batches).of(plan).mapping
    return prepare_fx(
        copy.deepcopy(seeded(model)),
        mapping,
        (batches[0][:2],),
        backend_config=aq.backend_config(),
    )


def outputs_of(prepared: nn.Module, batch: Tensor) -> list[Tensor]:
    with using_engine("x86"), torch.no_grad():
        found = convert_fx(prepared, backend_config=aq.backend_config())(batch)
    return list(found.values()) if isinstance(found, dict) else [found]


@pytest.mark.slow
@network
@pytest.mark.parametrize("seed", range(4))
def test_the_scales_of_a_search_are_those_of_calibrating_again(
    network: type[nn.Module], seed: int
) -> None:
    """Torch's own minimum and maximum observers see what the statistics hold."""
    batches = NETWORKS[network]
    found = captured(network, batches)
    schemes = (Scheme.INT8, Scheme.INT8, Scheme.FP32)
    plan = uniform(found, Scheme.INT8) if seed == 0 else random_plan(found, seed, schemes)
    plan = bounded_alone(plan, found)
    calibrated = prepared_by_torch(network, plan, batches)
    with torch.no_grad():
        for batch in batches:
            calibrated(batch)
    fixed = prepared_by_torch(network, plan, batches)
    way_out(network, batches).fix_scales(fixed)
    theirs, ours = outputs_of(calibrated, batches[0]), outputs_of(fixed, batches[0])
    assert all(map(torch.equal, ours, theirs))


@network
@pytest.mark.parametrize("seed", range(6))
def test_every_plan_of_a_search_is_carried_and_agrees_op_by_op(
    network: type[nn.Module], seed: int
) -> None:
    batches = NETWORKS[network]
    schemes = (Scheme.INT8, Scheme.INT16, Scheme.FP16, Scheme.FP32)
    plan = random_plan(captured(network, batches), seed, schemes[:: 1 if seed % 2 else 3])
    coverage = way_out(network, batches).of(plan).coverage
    assert set(coverage.left) <= {":add:1", ":softmax:0", ":matmul:0"}, str(coverage)
    assert coverage.faults == {}


@pytest.mark.parametrize("scheme", [Scheme.INT16, Scheme.FP16], ids=lambda item: item.value)
def test_what_torch_only_simulates_is_rounded_after_conversion(scheme: Scheme) -> None:
    batches = NETWORKS[nets.ResNet]
    mapped = way_out(nets.ResNet, batches).of(uniform(captured(nets.ResNet, batches), scheme))
    with torch.no_grad():
        exact = seeded(nets.ResNet)(batches[0])
    found = mapped.run((batches[0],))
    assert isinstance(found, Tensor)
    noise_db = 10 * torch.log10(exact.square().mean() / (found - exact).square().mean())
    assert 40.0 < float(noise_db) < 90.0  # rounded to 16 bits: neither to 8 nor not at all


def test_dynamic_layers_of_a_text_model_are_carried_and_need_no_scales() -> None:
    batches = (tokens(8),)
    found = captured(TextNet, batches)
    plan = Plan.of(
        {
            site.name: Scheme.INT8_DYNAMIC if site.name in ("rnn", "head") else Scheme.FP32
            for site in found.sites
        }
        | {"embed": Scheme.INT8_WEIGHT_ONLY}
    )
    mapped = way_out(TextNet, batches).of(plan)
    assert (mapped.coverage.carried, mapped.coverage.planned) == (3, 3)
    kinds = {type(module).__name__ for module in mapped.converted.modules()}
    assert {"LSTM", "Embedding"} <= kinds
    assert any("quantized.dynamic" in type(m).__module__ for m in mapped.converted.modules())


def test_the_grid_of_a_histogram_is_that_of_the_search() -> None:
    batches = NETWORKS[LinearNet]
    way = way_out(LinearNet, batches, observer=ObserverName.HISTOGRAM)
    plan = uniform(captured(LinearNet, batches), Scheme.INT8)
    prepared = prepare_fx(
        seeded(LinearNet), way.of(plan).mapping, (batches[0],), backend_config=aq.backend_config()
    )
    way.fix_scales(prepared)
    scales = [
        float(module.scale)
        for module in prepared.modules()
        if type(module).__name__ == "KnownScale"
    ]
    ranges = way.ranges
    keys = ("x", "relu", "relu_1", "linear_2")
    assert scales == [ranges.int8_grid(key).scale for key in keys]
