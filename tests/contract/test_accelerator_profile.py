"""An accelerator by its file: the reference's numerics, and estimates that its table predicts."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import autoquant as aq
from autoquant.backends.profile.backend import ProfileBackend
from autoquant.backends.profile.reading import read_accelerator, shipped_profiles
from autoquant.backends.profile.reference import reference_engine
from autoquant.backends.profile.schema import SCHEMES
from autoquant.backends.protocol import BuildRequest
from autoquant.backends.targets import load_target
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.cli import main
from autoquant.core.build import BuildSettings
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan, load_plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import Capture, capture
from tests.networks import LinearNet, MixedNet, images, seeded
from tests.spaces import full_space, random_plan

pytestmark = pytest.mark.filterwarnings("ignore")
NPU = shipped_profiles()["npu_int8_int16_fp16"]
RATE = 1.0e9
FORMATS = ("int8", "int16", "fp16", "bf16", "fp32")


def everything() -> str:
    """A chip that runs every kind in every scheme."""
    conversion = {"elements_per_second": RATE, "fixed_us": 1}
    return json.dumps(  # JSON is YAML
        {
            "name": "everything",
            "source": "a test",
            "launch_us": 1,
            "bandwidth": {"weights": RATE, "activations": RATE},
            "throughput": {
                scheme.value: {
                    kind.value: RATE
                    for kind in OpKind
                    if scheme is not Scheme.INT16_WEIGHT or kind.is_weighted
                }
                for scheme in SCHEMES
            },
            "conversions": {
                before: {after: conversion for after in FORMATS if after != before}
                for before in FORMATS
            },
        }
    )


def request_of(text: str, model: nn.Module, captured: Capture) -> BuildRequest:
    example = images(4)
    return BuildRequest(
        model,
        captured,
        calibrate(captured, [(example,)]),
        BuildSettings("profile", options={"profile": text}),
        (example,),
        (example[:1],),
    )


MODEL = seeded(MixedNet)


@cache
def captured_model() -> Capture:
    return capture(MODEL, (images(4),))


@pytest.fixture(scope="module", params=[NPU, everything()], ids=["npu", "everything"])
def backend(request: pytest.FixtureRequest) -> ProfileBackend:
    return open_profile(request.param)


def open_profile(text: str) -> ProfileBackend:
    opened = load_target("profile").open_backend(request_of(text, MODEL, captured_model()))
    assert isinstance(opened, ProfileBackend)
    return opened


def spaced(backend: ProfileBackend) -> SearchSpace:
    return full_space(captured_model(), backend)


def test_estimates_are_what_the_table_predicts(backend: ProfileBackend) -> None:
    space = spaced(backend)
    table = backend.costs(space, (images(1),), time.perf_counter)
    assert table.kind is Kind.ESTIMATED
    for seed in range(3):
        plan = random_plan(space, seed)
        built = backend.build(plan)
        assert built.estimated_ms == table.predict(plan)
        assert built.estimated_ms == pytest.approx(
            table.by_knob(space).predict(Plan.of(space.choices(plan)))
        )


def test_everything_is_labelled_emulated(backend: ProfileBackend) -> None:
    for scheme in spaced(backend).schemes:
        plan = spaced(backend).uniform(scheme)
        built = backend.build(plan)
        assert built.kind is Kind.EMULATED
        assert built.executed.keys() == plan.schemes.keys()
        assert all(ran.is_emulated for ran in built.executed.values())


def test_the_numerics_are_those_of_the_reference_engine() -> None:
    backend = open_profile(everything())
    plan = random_plan(spaced(backend), 1)
    engine = reference_engine()
    asked = request_of(everything(), MODEL, captured_model())
    torch_backend = TorchGraphBackend(
        replace(asked, settings=BuildSettings(options={"engine": engine}))
    )
    expected = torch_backend.run(torch_backend.build(plan).module, asked.example)
    found = backend.run(backend.build(plan).module, asked.example)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("text", "rival", "scheme"),
    [
        (NPU, "all fp16 on npu_int8_int16_fp16 (profile)", Scheme.FP16),
        (everything(), "all fp32 on everything (profile)", Scheme.FP32),
    ],
    ids=["slowest", "fp32"],
)
def test_the_rival_is_a_uniform_plan_of_the_accelerator(
    text: str, rival: str, scheme: Scheme
) -> None:
    backend = open_profile(text)
    assert backend.rival == rival
    assert backend.rival_ms == backend.build(spaced(backend).uniform(scheme)).estimated_ms


def test_what_the_file_does_not_describe_is_unsupported() -> None:
    target = load_target("profile")
    settings = BuildSettings("profile", options={"profile": NPU})
    (conv, *_) = captured_model().sites
    assert target.site_support(settings, conv, Scheme.INT16) is Support.EMULATED
    for scheme in (Scheme.FP32, Scheme.BF16, Scheme.INT16_WEIGHT, Scheme.INT8_DYNAMIC):
        assert target.site_support(settings, conv, scheme) is Support.UNSUPPORTED
    assert target.kind_support(settings, OpKind.CONV3D, Scheme.INT8) is Support.UNSUPPORTED
    assert target.kind_support(settings, OpKind.LINEAR, Scheme.FP16) is Support.EMULATED


def test_what_the_reference_cannot_compute_is_unsupported() -> None:
    settings = BuildSettings("profile", options={"profile": everything()})
    support = load_target("profile").kind_support
    assert support(settings, OpKind.LSTM, Scheme.INT16) is Support.UNSUPPORTED
    assert support(settings, OpKind.LSTM, Scheme.FP32) is Support.EMULATED


def test_a_plan_that_the_file_does_not_describe_is_refused_by_site() -> None:
    plan = Plan.of({site.name: Scheme.FP32 for site in captured_model().sites})
    with pytest.raises(
        BackendError, match=r"npu_int8_int16_fp16 does not run .* in fp32 and 22 more"
    ):
        open_profile(NPU).build(plan)


def test_the_exported_file_holds_the_plan_and_its_estimates(tmp_path: Path) -> None:
    backend = open_profile(NPU)
    plan = random_plan(spaced(backend), 3)
    path = backend.export(plan, tmp_path / "deep" / f"plan{backend.suffix}", {"trial": 7})
    written = json.loads(path.read_text())
    estimate = written["estimate"]
    assert load_plan(path) == plan
    assert written["autoquant"] == {"trial": 7}
    assert written["source"] == read_accelerator(NPU).source
    assert estimate["kind"] == "estimated"
    assert estimate["latency_ms"] == backend.build(plan).estimated_ms
    parts = [*estimate["op_ms"].values(), *estimate["boundary_ms"].values()]
    assert sum(parts) + estimate["call_ms"] == pytest.approx(estimate["latency_ms"])


def test_fp16_rounds_activations_and_weights_of_linear_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8)).eval()
    inputs = torch.randn(4, 8)
    captured = capture(model, (inputs,))
    opened = load_target("profile").open_backend(
        BuildRequest(
            model,
            captured,
            calibrate(captured, [(inputs,)]),
            BuildSettings("profile", options={"profile": NPU}),
            (inputs,),
            (inputs,),
        )
    )
    found = opened.run(opened.build(Plan.of({"0": Scheme.FP16})).module, (inputs,))
    weight, bias = (item.detach() for item in (model[0].weight, model[0].bias))
    exact = nn.functional.linear(inputs.half().float(), weight.half().float(), bias)
    # the result is rounded to fp16 too: half a unit in the last place of 11 bits, plus the bias's
    assert (found - exact).abs().max() <= 2**-10 * exact.abs().max()
    assert torch.equal(found, found.half().float())


@pytest.mark.slow
def test_check_compare_and_search_run_on_an_accelerator_without_fp32() -> None:
    network, data = seeded(LinearNet), torch.randn(64, 16)
    backend = {"name": "profile", "profile": "npu_int8_int16_fp16"}
    report = aq.check(network, data, plan="int8", backend=backend, progress=False)
    assert {row.runs for row in report.ops if row.kind} == {"int8 emulated"}
    assert aq.compare(network, "int8", data, backend=backend, progress=False).rows
    found = aq.search(
        network,
        calibration=data,
        evaluation=(data, network(data).argmax(1)),
        backend=backend,
        space={"schemes": ["int8", "int16", "fp16"], "fallback": "fp16"},
        trials=4,
        max_drop=None,
        progress=False,
    )
    assert len(found.frontier) > 0


def test_the_metric_of_a_knob_is_measured_on_an_accelerator_without_fp32() -> None:
    """The rest of the model is then in the widest scheme that the accelerator runs."""
    network, data = seeded(LinearNet), torch.randn(64, 16)
    report = aq.sensitivity(
        network,
        calibration=data,
        evaluation=(data, network(data).argmax(1)),
        backend={"name": "profile", "profile": "npu_int8_int16_fp16"},
        space={"schemes": ["int8", "int16", "fp16"], "fallback": "fp16"},
        metric_rows=3,
        progress=False,
    )
    assert len(report.metric) == 3


class Smooth(nn.Module):
    """A GELU between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.act(self.first(x)))
        return found


@pytest.mark.parametrize(
    ("rule", "told", "runs"),
    [
        ({"schemes": ["fp16"]}, "int8 was asked for all ops", "fp16 emulated"),
        ({"range": [-0.2, 0.1]}, "the target fixes act to [-0.2, 0.1]", "int8 emulated"),
    ],
    ids=["schemes", "range"],
)
def test_check_shows_what_the_file_says_of_a_function(
    rule: dict[str, object], told: str, runs: str, tmp_path: Path
) -> None:
    chip = tmp_path / "chip.yaml"
    document = yaml.safe_load(NPU)
    chip.write_text(yaml.safe_dump(document | {"functions": {"gelu": rule}}))
    report = aq.check(
        seeded(Smooth),
        torch.randn(64, 16),
        backend={"name": "profile", "profile": str(chip)},
        space={"schemes": ["int8", "int16", "fp16"], "fallback": "fp16"},
        progress=False,
    )
    assert any(told in item.what for item in report.concerns)
    assert {row.name: row.runs for row in report.ops}["first"] == runs


def test_a_range_of_the_file_is_that_of_the_numerics(tmp_path: Path) -> None:
    """What lies outside is clipped, in the reference numerics and where the plan runs."""
    model, data = seeded(Smooth), torch.randn(64, 16)
    found = {}
    for high in (0.1, 100.0):
        chip = tmp_path / f"chip{high}.yaml"
        rule = {"functions": {"gelu": {"range": [-0.2, high]}}}
        chip.write_text(yaml.safe_dump(yaml.safe_load(NPU) | rule))
        backend = {"name": "profile", "profile": str(chip)}
        rows = aq.compare(model, "int8", data, backend=backend, progress=False).rows
        (found[high],) = [row for row in rows if row.op == "act"]
    assert found[0.1].found.high == pytest.approx(0.1, abs=0.3 / 255)
    assert found[0.1].format.scale == pytest.approx(0.3 / 255)
    assert found[100.0].format.scale == pytest.approx(100.2 / 255)


SMOOTH = """
import torch
from tests.contract.test_accelerator_profile import Smooth
from tests.networks import seeded

def model():
    return seeded(Smooth)

def batches():
    inputs = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    return [(inputs, model()(inputs).argmax(1))]
"""


def test_a_range_of_the_file_is_not_that_of_another_backend(tmp_path: Path) -> None:
    """A chip that clips gelu at 0.1 ruins a plan there, and not on torch."""
    (tmp_path / "entry.py").write_text(SMOOTH)
    rule = {"functions": {"gelu": {"range": [-0.2, 0.1]}}}
    (tmp_path / "chip.yaml").write_text(yaml.safe_dump(yaml.safe_load(NPU) | rule))
    job = {
        "name": "clipped",
        "model": "entry.py:model",
        "data": {
            "calibration": "entry.py:batches",
            "evaluation": "entry.py:batches",
            "metric": "accuracy",
        },
        "backend": {"name": "profile", "profile": "chip.yaml"},
        "space": {"schemes": ["int8", "fp16"], "fallback": "fp16"},
        "constraints": {"accuracy_drop": None},
        "budget": {"effort": "quick", "trials": 2},
        "execution": {"kind": "local"},
        "tracking": {"enabled": False},
        "output": str(tmp_path / "out"),
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert main(["search", str(tmp_path / "job.yaml")]) == 0
    (number,) = (
        item.number
        for item in aq.load_result(tmp_path / "out").candidates
        if set(item.plan.counts()) == {"int8"}
    )
    found = aq.confirm(tmp_path / "out", "fbgemm", numbers=[number], progress=False)
    (before,), (after,) = found.before, found.after
    assert before.value("sqnr_db") < 10
    assert after.value("sqnr_db") > 20
