"""A candidate built from cached statistics equals what torch makes by calibrating again."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization.quantize_fx import (
    _convert_to_reference_decomposed_fx,
    convert_fx,
    prepare_fx,
)

from autoquant.backends.torch_cpu.backend import TorchCpuBackend, engine_settings
from autoquant.backends.torch_cpu.engines import engines_here, using_engine
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.statistics import ObserverName
from autoquant.model.calibration import calibrate
from autoquant.model.capture import Capture, capture
from autoquant.model.torch_ao.backend_config import backend_config
from autoquant.model.torch_ao.qconfig import QuantizationSettings, build_qconfig_mapping
from tests.networks import MixedNet, images, seeded
from tests.spaces import full_space, random_plan

pytestmark = pytest.mark.filterwarnings("ignore")
BATCHES = [images(8, seed) * (1.0 + seed) for seed in range(3)]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return seeded(MixedNet)


@pytest.fixture(scope="module")
def captured(model: nn.Module) -> Capture:
    return capture(model, (BATCHES[0],))


def build(
    captured: Capture, engine: str, observer: ObserverName
) -> tuple[TorchCpuBackend, QuantizationSettings]:
    statistics = calibrate(captured, [(batch,) for batch in BATCHES])
    settings = engine_settings(engine, observer)
    return TorchCpuBackend(captured, statistics, engine, settings, (BATCHES[0],)), settings


def torch_alone(
    model: nn.Module, captured: Capture, plan: Plan, settings: QuantizationSettings, engine: str
) -> nn.Module:
    """torch's own prepare, calibrate, convert with the same observers."""
    sites = {site.name: site for site in captured.sites}
    mapping = build_qconfig_mapping(captured.addresses, sites, plan, settings)
    with using_engine(engine), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_fx(
            copy.deepcopy(model), mapping, (BATCHES[0],), backend_config=backend_config()
        )
        for batch in BATCHES:
            prepared(batch)
        return convert_fx(prepared, backend_config=backend_config())


@pytest.mark.parametrize(
    ("engine", "observer"),
    [
        *((engine, ObserverName.HISTOGRAM) for engine in engines_here()),
        *((engines_here()[0], item) for item in ObserverName if item is not ObserverName.MIX),
    ],
    ids=lambda item: getattr(item, "value", item),
)
def test_outputs_are_bit_equal_to_prepare_calibrate_convert(
    model: nn.Module, captured: Capture, engine: str, observer: ObserverName
) -> None:
    backend, settings = build(captured, engine, observer)
    space = full_space(captured, backend)
    for seed in range(4):
        mixed = (Scheme.INT8, Scheme.INT8_DYNAMIC, Scheme.FP32)
        plan = space.uniform(Scheme.INT8) if seed == 0 else random_plan(space, seed, mixed)
        ours = backend.run(backend.build(plan).module, (BATCHES[0],))
        theirs = backend.run(torch_alone(model, captured, plan, settings, engine), (BATCHES[0],))
        assert torch.equal(ours, theirs), f"plan {plan.to_json()}"


def test_int16_equals_the_reference_decomposed_conversion_of_torch(
    model: nn.Module, captured: Capture
) -> None:
    backend, settings = build(captured, "fbgemm", ObserverName.MINMAX)
    plan = full_space(captured, backend).uniform(Scheme.INT16)
    sites = {site.name: site for site in captured.sites}
    mapping = build_qconfig_mapping(captured.addresses, sites, plan, settings)
    prepared = prepare_fx(
        copy.deepcopy(model), mapping, (BATCHES[0],), backend_config=backend_config()
    )
    for batch in BATCHES:
        prepared(batch)
    reference = _convert_to_reference_decomposed_fx(prepared, backend_config=backend_config())
    executable = backend.build(plan)
    ours = backend.run(executable.module, (BATCHES[1],))
    with torch.no_grad():
        theirs: Tensor = reference(BATCHES[1])
    # the two round x / scale and x * (1 / scale): an element on a tie may land one step apart
    step = (theirs.max() - theirs.min()) / 65535
    assert (ours - theirs).abs().max() <= 2 * step
    assert set(executable.executed.values()) == {"int16 emulated"}


def test_the_model_given_is_never_changed(model: nn.Module, captured: Capture) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    backend, _ = build(captured, engines_here()[0], ObserverName.HISTOGRAM)
    backend.build(random_plan(full_space(captured, backend), 3))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
