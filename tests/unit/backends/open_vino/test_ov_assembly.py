"""Where quantizers go and which marks stay, on graphs that are never compiled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("openvino")

import openvino as ov

from autoquant.backends.openvino.backend import OpenVinoBackend
from autoquant.backends.openvino.engine import Options
from autoquant.backends.openvino.graph import PRECISE
from autoquant.backends.protocol import BuildRequest
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.model.calibration.calibrate import calibrate
from autoquant.model.graph.capture import capture

pytestmark = pytest.mark.filterwarnings("ignore")

IMAGES = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
INT8, BF16, FP32 = Scheme.INT8, Scheme.BF16, Scheme.FP32


class Residual(nn.Module):
    """Three convolutions, a sum around the second, a max pool before the third."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(4, 4, 1)
        self.pool = nn.MaxPool2d(2)
        self.third = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.third(self.pool(x + self.second(x)))


class Gram(nn.Module):
    """Multiplies rows with others."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ (2.0 * x).transpose(-1, -2)


Assemble = Callable[..., tuple[ov.Model, Options]]


@pytest.fixture(scope="module")
def assemble() -> Assemble:
    torch.manual_seed(0)
    backend, names = _open(Residual())

    def build(**schemes: Scheme) -> tuple[ov.Model, Options]:
        chosen = dict.fromkeys(names, FP32) | schemes
        if "add" in chosen:
            chosen[":add:0"] = chosen.pop("add")
        chosen["pool"] = chosen[":add:0"]
        return backend._assembler.assemble(Plan.of(chosen))

    return build


def _open(model: nn.Module, bits: int = 8) -> tuple[OpenVinoBackend, list[str]]:
    captured = capture(model.eval(), (IMAGES,), how="export")
    statistics = calibrate(captured, [(IMAGES,)])
    settings = BuildSettings("openvino").with_weight_bits(bits)
    request = BuildRequest(model, captured, statistics, settings, (IMAGES,), (IMAGES,))
    return OpenVinoBackend(request), [site.name for site in captured.sites]


def quantized_tensors(model: ov.Model) -> list[tuple[str, list[str]]]:
    """By quantizer, the type of what writes its tensor and the types of what read it."""
    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            readers = [t.get_node().get_type_name() for t in node.output(0).get_target_inputs()]
            found.append((node.input_value(0).get_node().get_type_name(), sorted(readers)))
    return found


def test_a_float_plan_has_no_quantizer(assemble: Assemble) -> None:
    assert quantized_tensors(assemble()[0]) == []


def test_an_int8_convolution_reads_a_quantizer_and_an_8_bit_weight(assemble: Assemble) -> None:
    model, _ = assemble(second=INT8)
    assert quantized_tensors(model) == [("Add", ["Convolution"])]
    stored = [n for n in model.get_ordered_ops() if n.get_element_type() == ov.Type.i8]
    assert [tuple(node.get_output_shape(0)) for node in stored] == [(4, 4, 1, 1)]


def test_the_second_operand_of_a_product_of_tensors_fills_half_the_levels_with_seven_bits() -> None:
    lows = []
    for bits in (8, 7):
        backend, names = _open(Gram(), bits)
        made, _ = backend._assembler.assemble(Plan.of(dict.fromkeys(names, INT8)))
        found = [n for n in made.get_ordered_ops() if n.get_type_name() == "FakeQuantize"]
        lows.append([float(n.input_value(1).get_node().get_data()) for n in found])
    (first, second), (as_before, half) = lows
    assert first == as_before
    assert half == pytest.approx(2 * second, rel=0.02)


def test_readers_of_one_tensor_share_its_quantizer(assemble: Assemble) -> None:
    # an int8 sum adds in the accumulators of the convolution before it: that side is not rounded
    model, _ = assemble(second=INT8, add=INT8)
    assert ("Add", ["Add", "Convolution"]) in quantized_tensors(model)


def test_a_max_pool_of_8_bits_needs_no_second_quantizer(assemble: Assemble) -> None:
    model, _ = assemble(first=INT8, second=INT8, add=INT8, third=INT8)
    assert quantized_tensors(model) == [
        ("Parameter", ["Convolution"]),
        ("Add", ["Add", "Convolution"]),
        ("Add", ["MaxPool"]),
    ]


def test_the_hint_is_bf16_only_where_the_plan_has_bf16(assemble: Assemble) -> None:
    assert assemble(second=INT8)[1].hint == "f32"
    assert assemble(second=BF16)[1].hint == "bf16"


def test_only_bf16_ops_lose_the_mark_that_keeps_them_in_f32(assemble: Assemble) -> None:
    model, _ = assemble(second=BF16)
    marked = [
        PRECISE in node.get_rt_info()
        for node in model.get_ordered_ops()
        if node.get_type_name() == "Convolution"
    ]
    assert marked == [True, False, True]


def test_a_plan_changes_no_plan_after_it(assemble: Assemble) -> None:
    before = quantized_tensors(assemble(third=INT8)[0])
    assemble(first=INT8, second=INT8, add=BF16, third=INT8)
    assert quantized_tensors(assemble(third=INT8)[0]) == before


def test_every_site_has_ops_that_compute_it_and_moved_values_are_none_of_them() -> None:
    flat = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    backend, names = _open(flat)
    layout = backend._layout
    assert set(layout.computing) == set(names)
    types = {site: [layout.types[op] for op in ops] for site, ops in layout.computing.items()}
    assert types["0"][:2] == ["Convolution", "Add"]
    assert "Reshape" not in {kind for kinds in types.values() for kind in kinds}


@pytest.mark.slow
def test_an_instance_norm_is_computed_by_small_ops_without_its_shapes() -> None:
    backend, _ = _open(nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, affine=True)))
    types = [backend._layout.types[op] for op in backend._layout.computing["1"]]
    assert types == ["MVN", "Multiply", "Add"]
