"""`aq.check`: healthy models are clean, and mistakes are refused before anything runs."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.quantization import (
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    QConfig,
    QConfigMapping,
)

import autoquant as aq
from autoquant.backends.targets import load_target
from autoquant.backends.torch_cpu.engines import engines_here
from autoquant.core.build import BuildSettings
from autoquant.core.progress import Advance, Silent
from autoquant.errors import AutoquantError, JobError, PlanError
from tests import misbuilt as nets
from tests.networks import LinearNet, MixedNet, TextNet, images, seeded
from tests.untraceable import TokenNet, tokens


@pytest.mark.slow
@pytest.mark.parametrize("build", [lambda: seeded(MixedNet), lambda: nets.misbuilt(nets.Apart())])
def test_a_healthy_model_needs_no_attention(build: type[nn.Module]) -> None:
    report = aq.check(build(), images(16))
    assert not report.needs_attention, report.concerns


@pytest.mark.slow
def test_the_model_is_not_changed() -> None:
    model = seeded(MixedNet).train()
    before = copy.deepcopy(model.state_dict())
    aq.check(model, images(16))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_torch_ao_would_tear_apart_needs_nothing() -> None:
    report = aq.check(nets.misbuilt(nets.SharedBehindNorms()), images(16))
    assert not report.needs_attention, report.concerns
    # its average would lose bits on the grid of what it averages
    assert {row.runs for row in report.ops if row.runs and row.kind != "pool"} == {"int8 native"}


@pytest.mark.slow
def test_a_shared_module_inside_a_shared_block_names_the_block_to_split_for_a_mapping() -> None:
    model = nets.misbuilt(nets.SharedBlock())
    mends = {item.where: item.mend for item in aq.check(model, images(16)).concerns}
    assert "aq.split_shared(model, batch, ['block'])" in mends["block.conv",]
    split = aq.check(aq.split_shared(model, images(2)), images(16))
    assert [item.where for item in split.concerns if item.topic.value == "calls"] == []


@pytest.mark.slow
def test_the_reach_of_the_sites_and_what_no_output_depends_on_are_told() -> None:
    report = aq.check(seeded(TokenNet), tokens(16))
    assert report.reach.startswith("sites hold 100.0% of the weights")
    (concern,) = [item for item in report.concerns if item.severity.value == "attention"]
    assert concern.where == ("unused",)
    assert "no output depends on them" in concern.what


def test_a_model_that_torch_export_cannot_follow_is_checked_module_by_module() -> None:
    report = aq.check(misleading_model(), torch.randn(8, 16))
    assert any("captured module by module" in item.what for item in report.concerns)
    assert {row.name for row in report.ops} == {"first", "second"}
    assert {row.runs for row in report.ops} == {"int8 native"}


def test_what_needs_attention_comes_first() -> None:
    misfit = {"fixed_ranges": {"inputs.x": [0.0, 0.1]}}
    report = aq.check(nets.misbuilt(nets.Ranked()), images(8), ranges=misfit)
    order = [item.severity.value for item in report.concerns]
    assert order == sorted(order)
    assert set(order) == {"attention", "note"}


@pytest.mark.slow
def test_a_model_that_reads_its_shapes_and_has_default_arguments_is_checked() -> None:
    assert "x.shape[0]" in inspect.getsource(nets.Uncomparable.forward)
    assert "scale: float = 2.0" in inspect.getsource(nets.SharedBlock.forward)
    for network in (nets.Uncomparable, nets.SharedBlock):
        assert aq.check(nets.misbuilt(network()), images(8)).ops


class Misleading(nn.Module):
    """Chooses by a value, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x)
        if float(hidden.abs().max()) > 1e6:
            hidden = hidden / 2
        found: torch.Tensor = self.second(hidden)
        return found


def misleading_model() -> nn.Module:
    torch.manual_seed(0)
    return Misleading().eval()


def test_an_engine_that_refuses_the_plan_is_a_finding() -> None:
    plan = aq.Plan.of(
        dict.fromkeys(("embed", "rnn", ":matmul:0", ":mean:0", "head"), aq.Scheme.INT8)
    )
    report = aq.check(seeded(TextNet), torch.randint(0, 50, (8, 6)), plan=plan)
    assert report.needs_attention
    assert report.ops == ()
    assert "int8" in report.concerns[0].what
    assert report.concerns[0].topic.value == "configuration"


def test_the_report_is_json() -> None:
    report = aq.check(nets.misbuilt(nets.Ranked()), images(8))
    document = json.loads(json.dumps(report.to_json()))
    assert document["outputs"][0]["compared"] == "linear"
    assert document["needs_attention"] is False
    assert len(document["ops"]) == len(report.ops)


@pytest.mark.slow
def test_a_plan_value_is_checked_and_a_foreign_one_is_refused() -> None:
    plan = aq.Plan.of({"first": aq.Scheme.INT8, "second": aq.Scheme.FP32, "last": aq.Scheme.INT8})
    inputs = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    report = aq.check(seeded(LinearNet), inputs, plan=plan)
    assert [row.runs for row in report.ops if row.runs][:2] == ["int8 native", "fp32 native"]
    with pytest.raises(PlanError, match="the plan lacks the site"):
        aq.check(seeded(MixedNet), images(4), plan=plan)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"backend": "tpu"}, JobError),
        ({"observer": "magic"}, JobError),
        ({"plan": "int4"}, PlanError),
    ],
    ids=["backend", "observer", "plan"],
)
def test_wrong_arguments_are_refused(settings: dict[str, str], error: type[AutoquantError]) -> None:
    with pytest.raises(error):
        aq.check(seeded(MixedNet), images(4), **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "limits", "severity", "what"),
    [
        ("first", [-0.1, 0.1], "attention", "of its values lie outside"),
        ("inputs.x", [-0.5, 0.5], "attention", "of its values lie outside"),
        ("inputs.x", [-100.0, 100.0], "attention", "calibration saw only"),
        ("inputs.x", [-5.0, 5.0], "note", "calibration saw"),
    ],
    ids=["site-clips", "input-clips", "input-unused", "input-fits"],
)
def test_a_fixed_range_of_the_job_is_judged_by_what_was_observed(
    name: str, limits: list[float], severity: str, what: str
) -> None:
    """Also of inputs; `calibration saw` is exact, and the key is named."""
    data = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    report = aq.check(seeded(LinearNet), data, ranges={"fixed_ranges": {name: limits}})
    (concern,) = [item for item in report.concerns if "fixed_ranges" in item.what]
    assert (concern.where, concern.severity.value) == ((name,), severity)
    assert what in concern.what
    assert f"calibration.fixed_ranges fixes {name}" in concern.what
    if name == "inputs.x":
        assert f"[{data.min():.3g}, {data.max():.3g}]" in concern.what
    tried = re.search(r"as it runs here, left out: outputs (\S+) -> (\S+) dB$", concern.mend)
    assert bool(tried) is (severity == "attention")
    if tried:
        assert float(tried[2]) > float(tried[1])


class Uncalibrated(Silent):
    """Fails where calibration begins."""

    @contextmanager
    def stage(self, title: str, total: int | None) -> Iterator[Advance]:  # type: ignore[override]  # noqa: ARG002
        assert title != "calibrating"
        yield lambda steps: None


def test_a_plan_that_will_be_refused_is_refused_before_calibration(tmp_path: Path) -> None:
    data, progress = torch.randn(64, 16), Uncalibrated()
    plan = aq.Plan.from_json({"first": "int8"})
    with pytest.raises(PlanError, match="lacks the site"):
        aq.check(seeded(LinearNet), data, plan=plan, progress=progress)
    saved = tmp_path / "plan.json"
    plan.save(saved)
    saved.write_text(saved.read_text().replace("int8", "fp16"))
    with pytest.raises(PlanError, match="is not that of its plan"):
        aq.check(seeded(LinearNet), data, plan=str(saved), progress=progress)


def test_a_model_that_hands_out_classes_alone_is_looked_at_by_its_logits() -> None:
    class Ranking(LinearNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).argmax(1)

    data = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    (given,) = aq.check(seeded(Ranking), data).outputs
    assert given.dtype == "int64"
    assert given.compared == "linear_2"
    found, expected = (aq.compare(seeded(net), "int8", data) for net in (Ranking, LinearNet))
    assert found.output == expected.output


def test_the_mends_of_two_ranges_are_tried_together_too() -> None:
    data = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    ranges = {"fixed_ranges": {"first": [-0.1, 0.1], "inputs.x": [-0.5, 0.5]}}
    found = [item.mend for item in aq.check(seeded(LinearNet), data, ranges=ranges).concerns]
    tried = [re.search(r"-> (\S+) dB, (\S+) dB with all 2 mended", mend) for mend in found]
    assert [float(one[2]) > float(one[1]) + 10 for one in tried if one] == [True, True]


def tried_on(report: aq.CheckReport, what: str) -> tuple[str, float, float]:
    """What was tried of the one concern that says `what`, and SQNR before and after."""
    (mend,) = [item.mend for item in report.concerns if what in item.what]
    found = re.search(r"as it runs here, (.*): outputs (\S+) -> (\S+) dB", mend)
    assert found is not None, mend
    return found[1], float(found[2]), float(found[3])


def test_bits_that_a_check_would_leave_out_are_tried_on_the_kernels() -> None:
    """Reference numerics know no saturation: only where it is mended do the kernels agree."""
    data = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    model = seeded(LinearNet)
    saturates = load_target("torch").overflows(BuildSettings(options={"engine": engines_here()[0]}))
    wrong = aq.check(model, data, reduce_range=not saturates, progress=False)
    how, before, after = tried_on(wrong, "all 8 bits" if saturates else "7 of 8 bits")
    assert how == f"first, second, last in {7 if saturates else 8} bits"
    backend = {"reduce_range": saturates}
    reference = aq.compare(model, "int8", data, backend=backend, progress=False).output
    assert reference is not None
    assert after == pytest.approx(reference.sqnr_db, abs=2.0)  # integer kernels round at writes
    assert after > before


def mapping_of(activation: Any, weight: Any) -> QConfigMapping:
    return QConfigMapping().set_global(QConfig(activation=activation, weight=weight))


@pytest.fixture
def loud_channel() -> nn.Module:
    """A linear layer of which one channel is two hundred times as loud as the others."""
    model = seeded(LinearNet)
    with torch.no_grad():
        model.second.weight[0] *= 200
        model.last.weight[:, 0] /= 200
    return model


def test_a_weight_scale_for_each_channel_is_tried(loud_channel: nn.Module) -> None:
    data = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    weight = MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    mapping = mapping_of(HistogramObserver, weight)
    report = aq.check(loud_channel, data, mapping=mapping, progress=False)
    how, before, after = tried_on(report, "one scale for all channels")
    assert how == "first, second, last as a plan's int8"
    assert after > before


def test_int16_on_one_side_alone_is_tried() -> None:
    data = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    wide = {"dtype": torch.int16, "quant_min": -32768, "quant_max": 32767}
    activation = MinMaxObserver.with_args(**wide, qscheme=torch.per_tensor_symmetric)
    weight = PerChannelMinMaxObserver.with_args(**wide, qscheme=torch.per_channel_symmetric)
    report = aq.check(
        seeded(LinearNet), data, mapping=mapping_of(activation, weight), progress=False
    )
    how, before, after = tried_on(report, "both int16")
    assert how == "first, second, last as a plan's int16"
    assert before > 70 > after > 35  # weights of eight bits are what is left


def test_post_processing_in_fp32_is_tried() -> None:
    report = aq.check(nets.misbuilt(nets.SoftmaxTail()), images(64), progress=False)
    how, before, after = tried_on(report, "no weight comes behind it")
    assert how == ":mul:0 in fp32"
    assert after > before


class Recurrent(nn.Module):
    """An LSTM, for which torch has dynamic kernels alone, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.slow
def test_an_op_that_cannot_be_int8_is_named_with_the_scheme_that_would_run() -> None:
    data = torch.randn(32, 6, 16)
    report = aq.check(seeded(Recurrent), data)
    (concern,) = [item for item in report.concerns if "was asked for all ops" in item.what]
    assert (concern.where, concern.severity.value) == (("lstm",), "note")
    assert "no int8 for lstm: it runs fp32" in concern.what
    assert "int8_dynamic" in concern.why
    pinned = aq.check(seeded(Recurrent), data, plan="int8_dynamic")
    assert {row.runs for row in pinned.ops if row.kind} == {"int8_dynamic native"}
    assert not [item for item in pinned.concerns if "was asked" in item.what]
