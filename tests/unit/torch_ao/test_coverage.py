"""What a mapping does not carry is listed, and what torch computes wrongly is found."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.errors import PlanError
from autoquant.torch_ao.agreement import differences
from autoquant.torch_ao.carried import carry
from autoquant.torch_ao.way_out import WayOut
from tests import fx_networks as nets
from tests.networks import LinearNet, MixedNet, images, seeded
from tests.unit.torch_ao.wayout import captured, rows, uniform, way_out

pytestmark = pytest.mark.filterwarnings("ignore")

PICTURES = (images(8, size=32),)
ROWS = (rows(8, 16),)
SEQUENCES = (rows(8, 5, 16),)


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (Scheme.BF16, "bf16 is a cast, which no QConfig carries"),
        (Scheme.INT16_WEIGHT, "torch.ao's convert drops the scales of int16 weights"),
    ],
    ids=["bf16", "int16_weight"],
)
def test_a_scheme_without_a_qconfig_stays_in_fp32_and_says_why(scheme: Scheme, reason: str) -> None:
    found = captured(LinearNet, ROWS)
    plan = Plan.of({**uniform(found, Scheme.INT8).schemes, "second": scheme})
    mapped = way_out(LinearNet, ROWS).of(plan)
    assert mapped.coverage.left == {"second": reason}
    assert mapped.plan["second"] is Scheme.FP32
    assert (mapped.coverage.carried, mapped.coverage.planned) == (2, 3)
    assert str(mapped.coverage).startswith("a QConfigMapping carries 2 of 3 sites; second")


def test_a_complete_mapping_says_so() -> None:
    plan = uniform(captured(nets.ResNet, PICTURES), Scheme.INT8)
    coverage = way_out(nets.ResNet, PICTURES).of(plan).coverage
    assert coverage.is_complete
    assert str(coverage) == "a QConfigMapping carries 17 of 17 sites"


def test_a_relu_that_torch_ao_does_not_fuse_leaves_its_op_in_fp32_and_says_why() -> None:
    """torch's BackendConfig knows `F.relu` and `nn.ReLU` behind a layer, not `torch.relu`."""
    plan = uniform(captured(OtherRelu, PICTURES), Scheme.INT8)
    coverage = way_out(OtherRelu, PICTURES).of(plan).coverage
    assert coverage.left.keys() == {"conv"}
    assert "only F.relu and nn.ReLU join it" in coverage.left["conv"]


class OtherRelu(nn.Module):
    """A relu by `torch.relu` between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.conv(x)))


def test_a_kernel_that_computes_something_else_is_left_out_by_name() -> None:
    """torch's int8 PReLU is a hundred levels off, whichever the engine."""
    found = captured(nets.Attention, SEQUENCES)
    coverage = way_out(nets.Attention, SEQUENCES).of(uniform(found, Scheme.INT8)).coverage
    assert "torch.ao's kernels compute something else" in coverage.left["act"]
    assert "cannot keep what it reads in fp32" in coverage.left["shrink"]
    assert {"embed", "grow", ":add:0"}.isdisjoint(coverage.left)


def test_a_fault_of_the_engine_of_a_search_is_told_from_a_wrong_mapping() -> None:
    found = captured(MixedNet, PICTURES)
    coverage = way_out(MixedNet, PICTURES, "fbgemm").of(uniform(found, Scheme.INT8)).coverage
    assert coverage.left == {}
    if coverage.engine == "fbgemm":
        pytest.skip("fbgemm's depthwise convolution does not saturate on this CPU")
    assert set(coverage.faults) == {"b1.conv1", "b2.conv1"}
    assert min(coverage.faults.values()) > 1.1


def test_a_sigmoid_that_reads_float_is_left_out() -> None:
    """torch would put the fixed range of its output on what it reads."""
    found = captured(MixedNet, PICTURES)
    plan = Plan.of({**uniform(found, Scheme.INT8).schemes, "b1.fc2": Scheme.FP32})
    coverage = way_out(MixedNet, PICTURES).of(plan).coverage
    assert "fixed range of its output" in coverage.left["b1:sigmoid:0"]


class Joined(nn.Module):
    """A tanh beside what is far larger, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([torch.tanh(self.left(x)), self.right(x) * 10.0], 1))


def test_a_bounded_part_of_a_concatenation_is_left_out() -> None:
    """torch would clip the other parts to its fixed range."""
    given = (rows(16, 8),)
    found = way_out(Joined, given).of(uniform(captured(Joined, given), Scheme.INT8))
    assert "fixed range" in found.coverage.left[":tanh:0"]
    expected = seeded(Joined)(*given)
    error = found.run(given) - expected  # type: ignore[operator]
    assert error.norm() < 0.05 * expected.norm()


def test_the_first_op_that_computes_something_else_is_named() -> None:
    found = captured(LinearNet, ROWS)
    way, plan = way_out(LinearNet, ROWS), uniform(found, Scheme.INT8)
    other = seeded(LinearNet)
    with torch.no_grad():
        other.second.weight.mul_(-1.0)
    setting = replace(way.setting, model=other, engine="x86")
    wrong = [
        item for item in differences(carry(plan, setting, {}), setting) if not item.is_rounding
    ]
    assert [item.site for item in wrong] == ["second"]


def test_an_op_in_fp32_that_computes_something_else_is_an_error() -> None:
    found = captured(LinearNet, ROWS)
    way = way_out(LinearNet, ROWS)
    broken: WayOut = object.__new__(WayOut)
    other = seeded(LinearNet)
    with torch.no_grad():
        other.second.weight.mul_(-1.0)
    broken.__dict__.update({**way.__dict__, "setting": replace(way.setting, model=other)})
    plan = Plan.of({**uniform(found, Scheme.INT8).schemes, "second": Scheme.FP32})
    with pytest.raises(PlanError, match="computes something else at 'second'"):
        broken.of(plan)


def test_a_model_captured_module_by_module_has_no_mapping() -> None:
    from autoquant.core.build import BuildSettings
    from autoquant.model.calibration.calibrate import calibrate
    from autoquant.model.graph.capture import capture

    model: nn.Module = seeded(LinearNet)
    found = capture(model, ROWS, how="modules")
    with pytest.raises(PlanError, match="module_qconfigs"):
        WayOut(model, found, calibrate(found, [ROWS]), BuildSettings(), ROWS)
