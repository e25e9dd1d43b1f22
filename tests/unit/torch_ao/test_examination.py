"""A mapping of the user's own: what it reaches, and what really runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.ao.quantization import (
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
    QConfigMapping,
    default_per_channel_weight_observer,
)

from autoquant.core.findings.structure import ShownConfiguration
from autoquant.core.precision import Scheme
from autoquant.errors import BackendError
from autoquant.torch_ao.examination import examine_mapping
from tests import fx_networks as nets
from tests.networks import MixedNet, images, seeded
from tests.unit.torch_ao.wayout import captured, uniform, way_out

pytestmark = pytest.mark.filterwarnings("ignore")

BATCHES = (images(8),)
WIDE = {"quant_min": -32768, "quant_max": 32767}
INT16 = MinMaxObserver.with_args(dtype=torch.int16, qscheme=torch.per_tensor_symmetric, **WIDE)
UINT8 = MinMaxObserver.with_args(dtype=torch.quint8)
INT8_WEIGHT = default_per_channel_weight_observer
INT16_WEIGHT = PerChannelMinMaxObserver.with_args(
    dtype=torch.int16, qscheme=torch.per_channel_symmetric, **WIDE
)


def examined(mapping: QConfigMapping, network: type[nn.Module] = MixedNet) -> ShownConfiguration:
    found = captured(network, BATCHES)
    return examine_mapping(seeded(network), found, mapping, [BATCHES], "x86")


@pytest.mark.parametrize("scheme", [Scheme.INT8, Scheme.INT16, Scheme.FP16], ids=lambda s: s.value)
def test_a_mapping_of_a_plan_takes_effect_everywhere(scheme: Scheme) -> None:
    plan = uniform(captured(MixedNet, BATCHES), scheme)
    found = examined(way_out(MixedNet, BATCHES).of(plan).mapping)
    assert found.unmatched == ()
    assert [row.name for row in found.ops if not row.took_effect] == []
    assert [row.site for row in found.weights if not row.took_effect] == []
    assert set(found.schemes.values()) == {scheme}
    assert len(found.weights) == 10


def test_int16_on_both_sides_is_without_effect() -> None:
    both = QConfig(activation=INT16, weight=INT16_WEIGHT)
    found = examined(QConfigMapping().set_module_name("b1.conv1", both))
    (row,) = [item for item in found.ops if not item.took_effect]
    assert (row.name, row.configured) == ("b1.conv1", "int16 weight, int16 activation")
    assert "unrounded weights, int16 inputs" in row.runs


def test_an_op_that_torch_leaves_in_float_against_its_qconfig_is_marked() -> None:
    signed = QConfig(activation=MinMaxObserver.with_args(dtype=torch.qint8), weight=INT8_WEIGHT)
    found = examined(QConfigMapping().set_module_name("head", signed))
    (row,) = [item for item in found.ops if not item.took_effect]
    assert (row.name, row.output) == ("head", "float32")
    (weight,) = [item for item in found.weights if not item.took_effect]
    assert (weight.site, weight.configured, weight.stored) == ("head", "qint8", "float32")


@pytest.mark.parametrize(
    ("mapping", "entry"),
    [
        (QConfigMapping().set_module_name("frist", None), "module name 'frist'"),
        (QConfigMapping().set_module_name("b1.bn1", None), "module name 'b1.bn1'"),
        (QConfigMapping().set_module_name_regex("c[0-9]+", None), "module names like 'c[0-9]+'"),
        (
            QConfigMapping().set_module_name_object_type_order("b1", torch.add, 0, None),
            "call 0 of add in module 'b1'",
        ),
    ],
    ids=["typo", "fused away", "regex", "other function"],
)
def test_entries_that_reach_nothing_are_found(mapping: QConfigMapping, entry: str) -> None:
    assert examined(mapping).unmatched == (entry,)


def test_entries_that_reach_something_are_not_found() -> None:
    mapping = (
        QConfigMapping()
        .set_module_name("b1", None)
        .set_object_type(nn.ConvTranspose2d, None)
        .set_module_name_regex("b[12].conv.", None)
        .set_module_name_object_type_order("b1", torch.sigmoid, 0, None)
    )
    assert examined(mapping).unmatched == ()


def test_a_module_that_is_called_twice_has_a_row_for_each_call() -> None:
    mapping = QConfigMapping().set_global(QConfig(activation=UINT8, weight=INT8_WEIGHT))
    found = examined(mapping)
    assert [row.name for row in found.ops].count("pool") == 2
    assert {row.runs for row in found.ops if row.runs} == {"int8 native"}


def test_a_mapping_that_torch_refuses_is_an_error_with_its_mend() -> None:
    convolutions = QConfig(activation=UINT8, weight=INT8_WEIGHT)
    mapping = QConfigMapping().set_object_type(nn.Conv2d, convolutions)
    with pytest.raises(BackendError, match="torch refuses the QConfigMapping") as caught:
        examined(mapping, nets.ResNet)
    assert "one QConfig" in str(caught.value.hint)
