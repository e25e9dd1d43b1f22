"""The table says what really runs, for plans and for mappings of torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.ao.quantization import (
    FixedQParamsObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
    QConfigMapping,
    default_per_channel_weight_observer,
    default_weight_observer,
)

import autoquant as aq
from autoquant.backends.torch_cpu.engines import engines_here, saturates
from autoquant.core.findings.concerns import Concern, Topic
from autoquant.core.findings.structure import CheckReport
from tests import misbuilt as nets
from tests.networks import MixedNet, TextNet, images, seeded

WIDE = {"quant_min": -32768, "quant_max": 32767}
INT16 = MinMaxObserver.with_args(dtype=torch.int16, qscheme=torch.per_tensor_symmetric, **WIDE)
SATURATES = saturates(engines_here()[0])
UINT8 = MinMaxObserver.with_args(dtype=torch.quint8, reduce_range=SATURATES)
INT16_WEIGHT = PerChannelMinMaxObserver.with_args(
    dtype=torch.int16, qscheme=torch.per_channel_symmetric, **WIDE
)
INT8_WEIGHT = default_per_channel_weight_observer


def mapped(mapping: QConfigMapping) -> CheckReport:
    return aq.check(seeded(MixedNet), images(16), mapping=mapping)


def concerns(report: CheckReport, topic: Topic) -> list[Concern]:
    return [item for item in report.concerns if item.topic is topic]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "runs", "types", "stored"),
    [
        ("int8", "int8 native", ("quint8",), "qint8"),
        ("bf16", "bf16 native", ("bfloat16",), "bfloat16"),
        ("int16", "int16 emulated", ("int16 in float32",), "int8 in float32"),
        ("int16_weight", "int16_weight emulated", ("int8 in float32",), "int16 in float32"),
        ("fp16", "fp16 emulated", ("fp16 in float32",), "fp16 in float32"),
        ("fp32", "fp32 native", ("float32",), "float32"),
    ],
)
def test_the_table_of_a_plan_reads_back_what_each_scheme_runs(
    scheme: str, runs: str, types: tuple[str, ...], stored: str
) -> None:
    report = aq.check(seeded(MixedNet), images(16), plan=scheme)
    row = {item.node: item for item in report.ops}["conv2d_1"]
    assert (row.configured, row.runs, row.inputs) == (scheme, runs, types)
    weight = {item.site: item for item in report.weights}["b1.conv1"]
    assert weight.stored == stored
    assert all(item.took_effect for item in (*report.ops, *report.weights))


@pytest.mark.slow
def test_a_row_for_every_call_and_a_weight_for_every_site_that_owns_one() -> None:
    report = aq.check(seeded(MixedNet), images(16))
    assert len({row.node for row in report.ops}) == len(report.ops) == 25
    assert [row.name for row in report.ops].count("pool") == 2
    assert len(report.weights) == 10
    assert {(row.axis, row.stored) for row in report.weights} == {(0, "qint8")}
    assert {row.site: row.scale_count for row in report.weights}["b1.fc1"] == 8


@pytest.mark.slow
def test_the_weights_of_embeddings_and_recurrent_layers_are_read_back() -> None:
    tokens = torch.randint(0, 50, (16, 6), generator=torch.Generator().manual_seed(0))
    embedded = aq.check(seeded(TextNet), tokens, plan="int8_weight_only").weights
    dynamic = aq.check(seeded(TextNet), tokens, plan="int8_dynamic").weights
    assert (embedded[0].site, embedded[0].stored) == ("embed", "quint8")
    assert [(row.site, row.stored, row.scale_count) for row in dynamic][1:] == [
        ("rnn", "qint8", 1),
        ("head", "qint8", 4),
    ]


@pytest.mark.slow
def test_a_mapping_that_takes_effect_is_clean() -> None:
    mapping = QConfigMapping().set_global(QConfig(activation=UINT8, weight=INT8_WEIGHT))
    report = mapped(mapping)
    assert not report.needs_attention
    assert {row.runs for row in report.ops if row.runs} == {"int8 native"}
    assert report.configuration == "QConfigMapping"


@pytest.mark.slow
def test_int16_on_both_sides_is_suspicious_and_marked_as_without_effect() -> None:
    both = QConfig(activation=INT16, weight=INT16_WEIGHT)
    report = mapped(QConfigMapping().set_module_name("b1.conv1", both))
    (row,) = [item for item in report.ops if not item.took_effect]
    assert (row.name, row.configured) == ("b1.conv1", "int16 weight, int16 activation")
    assert "unrounded weights, int16 inputs" in row.runs
    assert [item.where for item in concerns(report, Topic.SETTINGS)] == [("b1.conv1",)]
    assert [item.where for item in concerns(report, Topic.CONFIGURATION)] == [("b1.conv1",)]


@pytest.mark.slow
def test_an_entry_that_reaches_nothing_is_found() -> None:
    report = mapped(QConfigMapping().set_module_name("frist", None))
    (concern,) = concerns(report, Topic.CONFIGURATION)
    assert concern.where == ("module name 'frist'",)


@pytest.mark.slow
def test_a_mapping_that_torch_refuses_is_a_finding_with_its_mend() -> None:
    mapping = QConfigMapping().set_object_type(
        nn.Conv2d, QConfig(activation=UINT8, weight=INT8_WEIGHT)
    )
    report = aq.check(nets.misbuilt(nets.Apart()), images(8), mapping=mapping)
    (concern,) = report.concerns
    assert "torch refuses the QConfigMapping" in concern.what
    assert "one QConfig" in concern.mend


@pytest.mark.slow
def test_a_per_tensor_weight_of_a_mapping_is_suspicious() -> None:
    coarse = QConfig(activation=UINT8, weight=default_weight_observer)
    report = mapped(QConfigMapping().set_module_name("stem", coarse))
    assert {row.site: row.axis for row in report.weights}["stem"] is None
    assert [item.where for item in concerns(report, Topic.SETTINGS)] == [("stem",)]


@pytest.mark.slow
def test_a_fixed_scale_of_a_mapping_that_clips_is_suspicious() -> None:
    narrow = QConfig(
        activation=FixedQParamsObserver.with_args(scale=0.001, zero_point=128), weight=INT8_WEIGHT
    )
    report = mapped(QConfigMapping().set_module_name("stem", narrow))
    found = ["clipped" in item.why for item in concerns(report, Topic.SETTINGS)]
    assert sorted(found) == [False] * SATURATES + [True]  # and of eight bits, where they saturate


@pytest.mark.slow
def test_quantization_behind_a_final_softmax_is_suspicious_and_fp32_is_not() -> None:
    model = nets.misbuilt(nets.SoftmaxTail())
    (concern, *_) = concerns(aq.check(model, images(16)), Topic.SETTINGS)
    assert concern.where == (":mul:0",)
    assert not aq.check(model, images(16), plan="fp32").needs_attention
