"""Layers of models that torch quantized without FX are compared with those of their float model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization as ao

import autoquant as aq
from autoquant.core.findings.layers import LayerComparison, LayerRow
from autoquant.core.measurement import Kind
from autoquant.core.precision import Scheme
from autoquant.errors import ModelError
from tests.networks import LinearNet, MixedNet, TextNet, images, seeded

pytestmark = pytest.mark.filterwarnings("ignore")


class EagerNet(nn.Module):
    """Two convolutions around an addition, written for eager mode, and a head without a relu."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.conv1, self.bn1, self.relu1 = (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
        )
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.sum = torch.ao.nn.quantized.FloatFunctional()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(self.quant(x))))
        x = self.sum.add_relu(x, self.bn2(self.conv2(x)))
        return self.dequant(self.head(x.mean((2, 3))))


def eager(model: nn.Module, data: Tensor) -> nn.Module:
    made = copy.deepcopy(model)
    made.qconfig = ao.get_default_qconfig("x86")  # type: ignore[assignment]
    fused = ao.fuse_modules(made, [["conv1", "bn1", "relu1"], ["conv2", "bn2"]])
    prepared = ao.prepare(fused)
    prepared(data)
    return ao.convert(prepared)


def dynamic(model: nn.Module, data: Tensor) -> nn.Module:  # noqa: ARG001
    return ao.quantize_dynamic(model, {nn.Linear, nn.LSTM})


def exported(model: nn.Module, data: Tensor, quantizer: Any = None) -> nn.Module:
    pytest.importorskip("torchao")
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    if quantizer is None:
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(model, (data,)).module(), quantizer)
    prepared(data)
    return convert_pt2e(prepared)


class Wrapped(nn.Module):
    """Paths of the model within begin with `inner`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


IMAGES, ROWS, TOKENS = images(12), torch.randn(32, 16), torch.randint(0, 50, (16, 6))
MODELS = {
    "eager": (EagerNet, eager, IMAGES, {"input x", "conv1", "conv2", "head"}),
    "dynamic": (LinearNet, dynamic, ROWS, {"first", "second", "last"}),
    "dynamic-lstm": (TextNet, dynamic, TOKENS, {"embed", "rnn", "head"}),
    "pt2e": (MixedNet, exported, IMAGES, {"stem", "b1.conv1", "b1.conv2", "b2:add:0", "head"}),
}
Make = Callable[[nn.Module, Tensor], nn.Module]
given = pytest.mark.parametrize(("net", "make", "data", "ops"), MODELS.values(), ids=MODELS)


def row_of(found: LayerComparison, op: str) -> LayerRow:
    return next(row for row in found.rows if row.op == op)


@given
def test_layers_are_compared_on_their_own_activations_and_shadowed(
    net: type[nn.Module], make: Make, data: Tensor, ops: set[str]
) -> None:
    model = seeded(net)
    quantized = make(model, data)
    piled, alone = (
        aq.compare(model, quantized, data, mode=mode) for mode in ("unshadowed", "shadowed")
    )
    assert ops <= {row.op for row in piled.rows}
    assert piled.notices == ()
    for row in piled.rows:
        assert row.error.sqnr_db > 20, row.op
        assert row_of(alone, row.op).error.sqnr_db > row.error.sqnr_db - 1
    assert piled.output is not None
    with torch.no_grad():
        error = (quantized(data) - model(data)).double()
        noise = error.square().sum() / model(data).double().square().sum()
    assert piled.output.sqnr_db == pytest.approx(float(-10 * noise.log10()), abs=0.1)
    assert piled.weights
    assert all(row.error.sqnr_db > 30 for row in piled.weights)


@given
def test_a_wrapped_model_is_paired_in_order_and_says_so(
    net: type[nn.Module], make: Make, data: Tensor, ops: set[str]
) -> None:
    """A wrapper moves every path; what is then paired has the numbers that paths give."""
    model = seeded(net)
    outer = make(Wrapped(model).eval(), data) if make is exported else Wrapped(make(model, data))
    by_path = aq.compare(model, make(model, data), data)
    by_order = aq.compare(model, outer.eval() if make is not exported else outer, data)
    assert len(by_order.notices) == 1
    assert {row.op for row in by_order.rows} >= ops - {"input x"}
    known = {(row.op, row.call): row.error.sqnr_db for row in by_path.rows}
    for row in by_order.rows:
        assert row.error.sqnr_db == pytest.approx(known[row.op, row.call], abs=0.1)


def test_a_broken_layer_is_the_one_that_is_found() -> None:
    model = seeded(EagerNet)
    quantized = eager(model, IMAGES)
    quantized.conv2.scale *= 40  # type: ignore[operator]
    found = aq.compare(model, quantized, IMAGES, mode="shadowed")
    assert found.worst(1)[0].op == "conv2"
    assert row_of(found, "conv1").error.sqnr_db > 25
    assert (found.kind, row_of(found, "conv1").quantized_type) == (
        Kind.MEASURED,
        "ConvReLU2d (quantized)",
    )


def test_a_plan_as_a_quantizer_is_compared() -> None:
    pytest.importorskip("torchao")
    from autoquant.backends.inductor.quantizer import to_quantizer
    from autoquant.model.graph.capture import capture

    model = seeded(LinearNet)
    sites = capture(model, (ROWS,)).sites
    plan = aq.Plan.of(
        {site.name: Scheme.FP32 if site.name == "first" else Scheme.INT8 for site in sites}
    )
    found = aq.compare(model, exported(model, ROWS, to_quantizer(plan, sites)), ROWS)
    assert {row.op: row.format.dtype for row in found.rows if row.op == "last"} == {
        "last": "float32"
    }
    stored = {row.op: row.format.dtype for row in found.weights}
    assert stored == {"first": "float32", "second": "qint8", "last": "qint8"}


def test_another_models_layers_are_refused() -> None:
    with pytest.raises(ModelError, match="weights in 3 modules, the float model in"):
        aq.compare(seeded(EagerNet), Wrapped(dynamic(seeded(LinearNet), ROWS)), IMAGES)
