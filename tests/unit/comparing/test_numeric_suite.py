"""The same models give the same SQNR as torch's FX Numeric Suite."""

from __future__ import annotations

import pytest
import torch
import torch.ao.ns._numeric_suite_fx as ns
from torch import Tensor, nn
from torch.ao.ns.fx.utils import compute_sqnr
from torch.ao.quantization import (
    QConfigMapping,
    default_dynamic_qconfig,
    get_default_qconfig_mapping,
    per_channel_dynamic_qconfig,
)
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

import autoquant as aq
from autoquant.core.findings.layers import LayerComparison
from autoquant.torch_ao.tracing import trace
from tests.networks import LinearNet, MixedNet, TextNet, images, seeded

pytestmark = pytest.mark.filterwarnings("ignore")

DATA = images(8)
DYNAMIC = QConfigMapping().set_global(per_channel_dynamic_qconfig)
RECURRENT = (
    QConfigMapping()
    .set_object_type(nn.LSTM, default_dynamic_qconfig)
    .set_object_type(nn.Linear, per_channel_dynamic_qconfig)
)


def static(model: nn.Module) -> GraphModule:
    prepared = prepare_fx(model, get_default_qconfig_mapping("x86"), (DATA,))
    prepared(DATA)
    return convert_fx(prepared)


def suite_activations(model: nn.Module, quantized: GraphModule, data: Tensor) -> list[float]:
    """SQNR of each op in execution order, from torch's own loggers."""
    traced = trace(model).fused
    first, second = ns.add_loggers("float", traced, "int8", quantized, ns.OutputLogger)
    with torch.no_grad():
        first(data)
        second(data)
    results = ns.extract_logger_info(first, second, ns.OutputLogger, "float")
    ns.extend_logger_results_with_comparison(results, "float", "int8", compute_sqnr, "sqnr")
    return [float(item["node_output"]["int8"][0]["sqnr"][0]) for item in results.values()]


def suite_weights(model: nn.Module, quantized: GraphModule) -> list[float]:
    """SQNR of each weight that torch pairs, in execution order."""
    traced = trace(model).fused
    results = ns.extract_weights("float", traced, "int8", quantized)
    paired = {name: item for name, item in results.items() if "int8" in item.get("weight", {})}
    ns.extend_logger_results_with_comparison(paired, "float", "int8", compute_sqnr, "sqnr")
    return [
        float(value)
        for item in paired.values()
        for value in pytree.tree_leaves(item["weight"]["int8"][0]["sqnr"])
    ]


def sqnr_of(found: LayerComparison) -> list[float]:
    return [row.error.sqnr_db for row in found.rows if not row.op.startswith("input ")]


def test_activations_agree_on_a_static_model() -> None:
    model = seeded(MixedNet)
    quantized = static(model)
    found = sqnr_of(aq.compare(model, quantized, DATA))
    expected = suite_activations(model, quantized, DATA)
    assert len(expected) == 23
    # float convolutions in another memory format differ in the last bit
    assert found == pytest.approx(expected, abs=1e-3)


def test_weights_agree_on_a_static_model() -> None:
    model = seeded(MixedNet)
    quantized = static(model)
    found = aq.compare(model, quantized, DATA, samples=2)
    expected = suite_weights(model, quantized)
    assert len(expected) == 10
    assert [row.error.sqnr_db for row in found.weights] == pytest.approx(expected, abs=1e-3)


def test_activations_agree_on_a_dynamic_model() -> None:
    model, data = seeded(LinearNet), torch.randn(32, 16)
    quantized = convert_fx(prepare_fx(model, DYNAMIC, (data,)))
    found = sqnr_of(aq.compare(model, quantized, data))
    assert found == pytest.approx(suite_activations(model, quantized, data), abs=1e-3)


def test_weights_agree_on_a_dynamic_model_with_an_lstm() -> None:
    model = seeded(TextNet)
    tokens = torch.arange(24).reshape(2, 12)
    quantized = convert_fx(prepare_fx(model, RECURRENT, (tokens,)))
    rows = aq.compare(model, quantized, tokens).weights
    found = [row.error.sqnr_db for row in rows if row.op != "embed"]  # float in both models
    expected = suite_weights(model, quantized)
    assert len(expected) == 3  # two of the LSTM, one of the head
    assert found == pytest.approx(expected, abs=1e-3)
