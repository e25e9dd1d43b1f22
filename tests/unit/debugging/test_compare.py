"""Layers are compared in three ways, in every kind of quantized model, and faults are named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import get_default_qat_qconfig_mapping, get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import (
    convert_fx,
    convert_to_reference_fx,
    prepare_fx,
    prepare_qat_fx,
)
from torch.fx import GraphModule

import autoquant as aq
from autoquant.cli import main
from autoquant.core.findings.layers import Cause, LayerComparison, LayerRow
from autoquant.core.measurement import Kind
from autoquant.core.precision import Scheme
from autoquant.errors import DataError, JobError, MetricError, ModelError, PlanError
from autoquant.results.layers_report import render_layers
from autoquant.torch_ao.tracing import trace
from tests.faulty import chain_model, outlier_model
from tests.networks import LinearNet, MixedNet, TextNet, images, seeded
from tests.seeded_faults import outlier_channels
from tests.untraceable import TokenNet, tokens

pytestmark = pytest.mark.filterwarnings("ignore")

DATA = images(10)


def row_of(found: LayerComparison, op: str, scheme: Scheme | None = None) -> LayerRow:
    return next(
        row for row in found.rows if row.op == op and (scheme is None or row.scheme is scheme)
    )


def causes(found: LayerComparison) -> dict[str, Cause]:
    return {row.op: row.reading.cause for row in found.rows if row.reading is not None}


def native(model: nn.Module) -> GraphModule:
    prepared = prepare_fx(model, get_default_qconfig_mapping("x86"), (DATA,))
    prepared(DATA)
    converted: GraphModule = convert_fx(prepared)
    return converted


def prepared_for_training(model: nn.Module, data: Tensor) -> GraphModule:
    prepared = prepare_qat_fx(
        copy.deepcopy(model).train(), get_default_qat_qconfig_mapping("x86"), (data,)
    )
    for module in prepared.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    prepared(data)
    return prepared


# Ways


def test_rows_are_in_execution_order_with_all_figures() -> None:
    found = aq.compare(seeded(MixedNet), "int8", DATA)
    names = [row.op for row in found.rows]
    assert names[:4] == ["input x", "stem", "b1.conv1", "b1.act"]
    assert names[-1] == "head"
    assert found.samples == 10
    stem = row_of(found, "stem")
    assert (stem.float_type, stem.quantized_type) == ("conv2d + relu", "conv2d + relu")
    assert (stem.shape, stem.format.dtype) == ((10, 16, 16, 16), "quint8")
    assert stem.error.max_steps == pytest.approx(stem.error.max_absolute / stem.format.scale)
    assert [row.op for row in found.rows if row.call == 1] == ["pool"]


@pytest.mark.slow
def test_a_healthy_model_needs_no_attention() -> None:
    for mode in ("unshadowed", "shadowed"):
        assert aq.compare(seeded(MixedNet), "int8", DATA, mode=mode).findings == ()


def mean_error(expected: Tensor, found: Tensor) -> float:
    return float((found - expected).double().mean())


def sample_errors(expected: Tensor, found: Tensor) -> Tensor:
    return (found - expected).flatten(1).mean(1)


@pytest.mark.parametrize("error", [mean_error, sample_errors])
def test_an_own_function_compares_layers_by_its_mean_over_samples(
    error: Callable[[Tensor, Tensor], Any],
) -> None:
    """Batches differ in size, so that a mean over batches would be another number."""
    model, data = seeded(MixedNet), images(10)
    found = aq.compare(model, native(model), [data[:8], data[8:]], error=error)
    assert found.own == error.__name__
    assert any(row.own for row in found.rows)
    for row in found.rows:
        assert row.own == pytest.approx(row.found.mean - row.expected.mean, abs=1e-6)
    assert f"<th>{error.__name__}</th>" in render_layers(found, "net")


def test_an_own_function_that_fails_is_named_with_the_layer() -> None:
    model, data = seeded(LinearNet), torch.randn(20, 16)
    with pytest.raises(MetricError, match="gave 2 numbers for 20 samples of input x"):
        aq.compare(model, "int8", data, error=lambda a, b: (a - b)[:2, 0])
    with pytest.raises(MetricError, match="raised TypeError"):
        aq.compare(model, "int8", data, error=lambda a: a)  # type: ignore[misc, arg-type]


def test_outputs_are_those_of_the_two_models() -> None:
    model = seeded(MixedNet)
    found = aq.compare(model, "int8", DATA).output
    assert found is not None
    assert found.sqnr_db > 30
    assert aq.compare(model, "int8", DATA, mode="shadowed").output is None


@pytest.mark.slow
def test_shadowed_shows_each_ops_own_error() -> None:
    model = seeded(MixedNet)
    piled = aq.compare(model, "int8", DATA)
    alone = aq.compare(model, "int8", DATA, mode="shadowed")
    first = "stem"  # it reads the same rounded input either way
    assert row_of(alone, first).error.sqnr_db == pytest.approx(
        row_of(piled, first).error.sqnr_db, abs=0.2
    )
    for op in ("b1.conv2", "b2.conv1", "b2.conv2"):
        assert row_of(alone, op).error.sqnr_db > row_of(piled, op).error.sqnr_db + 1


def test_a_shadowed_fp32_op_on_float_inputs_is_exact() -> None:
    plan = aq.Plan.of({"first": Scheme.FP32, "second": Scheme.INT8, "last": Scheme.FP32})
    found = aq.compare(seeded(LinearNet), plan, torch.randn(32, 16), mode="shadowed")
    assert row_of(found, "first").error.sqnr_db == 150.0
    assert row_of(found, "second").error.sqnr_db < 60


def test_n_shadows_show_schemes_side_by_side() -> None:
    found = aq.compare(
        seeded(MixedNet), "", DATA, mode="n-shadows", schemes=["int8", "int16", "fp16"]
    )
    eight, sixteen, half = (
        row_of(found, "head", scheme).error.sqnr_db
        for scheme in (Scheme.INT8, Scheme.INT16, Scheme.FP16)
    )
    assert eight < sixteen < half
    heads = [row.scheme for row in found.rows if row.op == "head"]
    assert heads == [Scheme.INT8, Scheme.INT16, Scheme.FP16]
    assert found.kind is Kind.EMULATED


@pytest.mark.slow
def test_n_shadows_of_one_scheme_are_shadowed() -> None:
    model = seeded(MixedNet)
    one = aq.compare(model, "int8", DATA, mode="shadowed")
    several = aq.compare(model, "", DATA, mode="n-shadows", schemes=["int8", "fp16"])
    assert [row.error for row in several.rows if row.scheme is Scheme.INT8] == [
        row.error for row in one.rows
    ]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "int16", "fp16", "bf16"])
def test_estimates_foretell_the_rounding_of_a_scheme(scheme: str) -> None:
    found = aq.compare(seeded(MixedNet), scheme, DATA, mode="shadowed")
    pool = row_of(found, "pool")  # computes nothing: what it errs is the rounding of its input
    if scheme in pool.sqnr_estimates:
        assert pool.error.sqnr_db == pytest.approx(pool.sqnr_estimates[scheme], abs=7)


# Kinds of quantized models


@pytest.mark.slow
def test_fake_quantized_models_show_rounded_outputs_and_folded_weights() -> None:
    model = seeded(MixedNet)
    prepared = prepared_for_training(model, DATA)
    scales = {name: value.clone() for name, value in prepared.state_dict().items()}
    found = aq.compare(model, prepared, DATA)
    converted = aq.compare(model, convert_fx(copy.deepcopy(prepared).eval()), DATA)
    assert [row.op for row in found.rows] == [row.op for row in converted.rows]
    for simulated, native in zip(found.rows, converted.rows, strict=True):
        assert simulated.error.sqnr_db == pytest.approx(native.error.sqnr_db, abs=1.5)
    assert [row.op for row in found.weights] == [row.op for row in converted.weights]
    assert all(torch.equal(value, scales[name]) for name, value in prepared.state_dict().items())
    assert (found.kind, converted.kind) == (Kind.EMULATED, Kind.MEASURED)


@pytest.mark.slow
@pytest.mark.parametrize("op", ["stem", "b1.conv1", "b1.fc1", "head"])
def test_weights_in_training_are_folded_and_rounded_at_their_own_scale(op: str) -> None:
    model = seeded(MixedNet)
    prepared = prepared_for_training(model, DATA)
    found = next(row for row in aq.compare(model, prepared, DATA).weights if row.op == op)
    module = trace(model).fused.get_submodule(op)
    folded = (module[0] if isinstance(module, nn.Sequential) else module).weight.double()
    scale = prepared.get_submodule(op).weight_fake_quant.scale.double()
    scale = scale.reshape(-1, *[1] * (folded.ndim - 1))
    error = (folded / scale).round().clamp(-128, 127) * scale - folded
    sqnr = 10 * torch.log10(folded.square().sum() / error.square().sum())
    assert found.error.sqnr_db == pytest.approx(float(sqnr), abs=0.02)


@pytest.mark.slow
def test_reference_models_agree_with_native_ones() -> None:
    model = seeded(MixedNet)
    prepared = prepare_fx(model, get_default_qconfig_mapping("x86"), (DATA,))
    prepared(DATA)
    native = aq.compare(model, convert_fx(copy.deepcopy(prepared)), DATA)
    reference = aq.compare(model, convert_to_reference_fx(prepared), DATA)
    for one, other in zip(native.rows, reference.rows, strict=True):
        assert one.error.sqnr_db == pytest.approx(other.error.sqnr_db, abs=0.5)


class Keyed(nn.Module):
    """Takes a dict, and calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        once = torch.relu(self.layer(batch["left"]))
        twice = torch.relu(self.layer(once + batch["right"]))
        return {"scores": self.head(twice)}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["unshadowed", "shadowed"])
def test_a_model_of_dicts_that_calls_a_layer_twice_is_compared_call_by_call(mode: str) -> None:
    model = seeded(Keyed)
    batch = {"left": torch.randn(16, 16), "right": torch.randn(16, 16)}
    prepared = prepare_fx(model, get_default_qconfig_mapping("x86"), (batch,))
    prepared(batch)
    found = aq.compare(model, convert_fx(prepared), [batch], mode=mode)
    assert [(row.op, row.call) for row in found.rows] == [
        ("layer", 0),
        (":add:0", 0),
        ("layer", 1),
        ("head", 0),
    ]
    assert all(25 < row.error.sqnr_db < 60 for row in found.rows)
    assert [row.op for row in found.weights] == ["layer", "head"]


@pytest.mark.slow
def test_int16_that_torch_only_simulates_is_compared_with_its_grid(tmp_path: Path) -> None:
    model, data = seeded(LinearNet), torch.randn(32, 16)
    result = aq.search(
        model,
        calibration=data,
        evaluation=(data, model(data).argmax(1)),
        space={"schemes": ["int16", "fp32"]},
        objectives=("output_error", "size"),
        trials=2,
        output=tmp_path,
    )
    candidate = next(item for item in result.candidates if "fp32" not in item.plan.counts())
    config = aq.backend_config()
    prepared = prepare_fx(model, candidate.qconfig_mapping(), (data,), backend_config=config)
    candidate.fix_scales(prepared)
    found = aq.compare(model, convert_fx(prepared, backend_config=config), data)
    assert row_of(found, "first").format.dtype == "int16"
    assert found.kind is Kind.EMULATED


def test_dynamic_and_weight_only_ops_are_compared() -> None:
    tokens = torch.arange(24).reshape(2, 12)
    found = aq.compare(seeded(TextNet), "int8_dynamic", tokens)
    assert row_of(found, "rnn").format.dtype == "float32"
    assert 20 < row_of(found, "rnn").error.sqnr_db < 80
    assert {row.tensor for row in found.weights} == {"weight_ih_l0", "weight_hh_l0", "weight"}


# Readings


def test_a_clipped_range_is_read_with_the_range_it_needs() -> None:
    model = chain_model()
    converted = native(model)
    converted.get_submodule("second").scale /= 8
    found = aq.compare(model, converted, DATA, mode="shadowed")
    second = row_of(found, "second")
    assert causes(found)["second"] is Cause.OUT_OF_RANGE
    assert second.reading is not None
    assert f"{second.expected.high:.3g}]" in second.reading.advice
    assert "first" not in causes(found)


def test_errors_of_a_clipped_input_are_inherited_unshadowed() -> None:
    found = aq.compare(chain_model(), "int8", 8 * DATA, calibration=DATA)
    assert causes(found)["input x"] is Cause.OUT_OF_RANGE
    assert Cause.INHERITED in causes(found).values()


def test_ranges_for_other_data_are_too_coarse() -> None:
    found = aq.compare(chain_model(), "int8", DATA / 100, calibration=DATA)
    assert causes(found)["input x"] is Cause.TOO_COARSE


def test_outlier_channels_are_named_where_they_hurt() -> None:
    data = DATA
    assert torch.allclose(outlier_model()(data), chain_model()(data), atol=1e-4)
    assert aq.compare(chain_model(), "int8", data, mode="shadowed").findings == ()
    second = row_of(aq.compare(outlier_model(), "int8", data, mode="shadowed"), "second")
    assert second.reading is not None
    assert second.reading.cause is Cause.OUTLIERS
    assert "first" in second.reading.evidence


def test_a_wrong_kernel_stays_unexplained() -> None:
    model = chain_model()
    converted = native(model)
    third = converted.get_submodule("third")
    third.set_weight_bias(third.weight(), third.bias() + 1.0)
    assert causes(aq.compare(model, converted, DATA, mode="shadowed")) == {
        "third": Cause.UNEXPLAINED
    }


def test_coarse_weights_are_read() -> None:
    model = seeded(LinearNet)
    with torch.no_grad():
        model.second.weight[:, 0] *= 300  # one large weight in each row sets its scale
        model.first.weight[0] = 0
        model.first.bias[0] = 0
    found = aq.compare(model, "int8", torch.randn(64, 16), mode="shadowed")
    assert row_of(found, "second").error.sqnr_db < 20
    assert causes(found)["second"] in (Cause.WEIGHTS, Cause.UNEXPLAINED)


# Choices and mistakes


@pytest.mark.slow
def test_chosen_samples_alone_are_compared() -> None:
    model = seeded(MixedNet)
    chosen = aq.compare(model, "int8", DATA, indices=[3, 9])
    given = aq.compare(model, "int8", DATA[[3, 9]], calibration=DATA)
    assert chosen.samples == 2
    assert [row.error for row in chosen.rows] == [row.error for row in given.rows]


@pytest.mark.slow
def test_batches_do_not_change_the_figures() -> None:
    model = seeded(MixedNet)
    whole = aq.compare(model, "int8", DATA)
    split = aq.compare(model, "int8", list(DATA.split(5)), calibration=DATA)
    for one, other in zip(whole.rows, split.rows, strict=True):
        assert one.error.mse == pytest.approx(other.error.mse, rel=1e-3)
        assert one.error.cosine == pytest.approx(other.error.cosine, rel=1e-6)


def test_the_float_model_is_not_changed() -> None:
    model = seeded(MixedNet)
    before = copy.deepcopy(model.state_dict())
    aq.compare(model, "int8", DATA, mode="shadowed")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_mistakes_are_named() -> None:
    model = seeded(MixedNet)
    with pytest.raises(DataError, match="no sample 99"):
        aq.compare(model, "int8", DATA, indices=[99])
    with pytest.raises(PlanError, match="n-shadows needs schemes"):
        aq.compare(model, "int8", DATA, mode="n-shadows")
    with pytest.raises(PlanError, match="mode 'shadow' is unknown"):
        aq.compare(model, "int8", DATA, mode="shadow")
    with pytest.raises(ModelError, match="holds no module that torch quantized"):
        aq.compare(model, copy.deepcopy(model), DATA)
    with pytest.raises(JobError, match=r"backend\.name: 'gpu' is none of"):
        aq.compare(model, "int8", DATA, backend="gpu")


def test_a_model_that_only_observes_is_refused() -> None:
    model = seeded(MixedNet)
    prepared = prepare_fx(model, get_default_qconfig_mapping("x86"), (DATA,))
    with pytest.raises(ModelError, match="still observes"):
        aq.compare(model, prepared, DATA)


@pytest.mark.slow
def test_another_models_graph_is_refused() -> None:
    with pytest.raises(ModelError, match="do not pair"):
        aq.compare(seeded(MixedNet), native(chain_model()), DATA)


# What is written


def test_the_report_holds_every_row_and_escapes_names() -> None:
    found = aq.compare(outlier_model(), "int8", DATA)
    page = render_layers(found, "<b>net</b>")
    assert "&lt;b&gt;net" in page
    assert all(row.op in page for row in found.rows)
    assert "figure-layers" in page
    assert "figure-distributions" in page


def test_json_holds_what_rows_hold() -> None:
    found = aq.compare(outlier_model(), "int8", DATA)
    document = found.to_json()
    assert [row["op"] for row in document["activations"]] == [row.op for row in found.rows]
    marked = [row for row in document["activations"] if row["reading"]]
    assert len(marked) == len([row for row in found.rows if row.reading])
    assert {row["reading"]["cause"] for row in marked} <= {cause.value for cause in Cause}


def test_the_command_prints_json_and_writes_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        f"""
name: compared
model: tests.faulty:good_model
data:
  calibration: tests.faulty:good_data
  evaluation: tests.faulty:good_data
  metric: tests.faulty:good_metric
space: {{schemes: [int8, fp32]}}
output: {tmp_path / "out"}
"""
    )
    page = tmp_path / "page.html"
    words = ["compare", str(job), "--json", "--indices", "3,17", "--html", str(page)]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["samples"] == 2
    assert [row["op"] for row in document["weights"]] == ["first", "second", "last"]
    assert "compared: layer by layer" in page.read_text()
    assert main(["compare", str(job), "--indices", "64"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["unshadowed", "shadowed"])
def test_a_model_that_torch_fx_cannot_trace_is_compared(mode: str) -> None:
    found = aq.compare(seeded(TokenNet), "int8", tokens(8), mode=mode)
    assert found.kind is Kind.EMULATED
    key = row_of(found, "blocks.0.key")
    assert key.format.dtype == "quint8"  # read behind a transpose
    assert 25 < key.error.sqnr_db < 60
    assert {row.op for row in found.weights} >= {"embed", "grow", "blocks.1.output"}
    if mode == "unshadowed":
        assert found.output is not None
        assert 30 < found.output.sqnr_db < 60


def test_a_model_without_a_graph_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="captured module by module"):
        aq.compare(Branching().eval(), "int8", torch.randn(8, 16))


class Branching(LinearNet):
    """Chooses by a value, which no graph can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if float(x.sum()) > 0 else -x)


def test_the_mend_of_a_plan_is_tried_and_its_effect_is_the_outputs() -> None:
    fault = outlier_channels()
    space = {"schemes": ["int8", "int16", "bf16", "fp32"]}
    given = {"calibration": fault.calibration, "backend": {"engine": "onednn"}, "space": space}
    found = aq.compare(fault.model, "int8", fault.evaluation, **given)
    assert found.mend is not None
    assert found.mend.before_db < 10
    assert found.mend.after_db > 20
    assert "stem" in found.mend.sites
    assert f"-> {found.mend.after_db:.1f} dB" in str(found.to_json()["mend"])


def test_a_plan_that_is_close_to_float_needs_no_mend() -> None:
    assert aq.compare(seeded(MixedNet), "int8", DATA).mend is None
