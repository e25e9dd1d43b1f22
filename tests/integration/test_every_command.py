"""A vision transformer and a text encoder with dict inputs go through every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import autoquant as aq
from autoquant.backends.torch_cpu.engines import using_engine
from autoquant.cli import main
from tests.encoders import job_of, text_data, text_model, vision_data, vision_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", params=["vision", "text"])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job_of(request.param, str(folder / "out"))))
    return path


@pytest.fixture(scope="module")
def searched(job: Path) -> Path:
    """The result folder of the job's search."""
    assert main(["search", str(job)]) == 0
    return job.parent / "out"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["check"], "nothing needs attention"),
        (["sensitivity", "--metric-rows", "2"], "int8: SQNR in dB with one knob alone"),
        (["badcases"], "worst sample of each output"),
        (["compare"], "layers.0:add:0"),
        (["compare", "--mode", "n-shadows", "--schemes", "int8,int16"], "layers.0:add:0"),
        (["diagnose"], "healthy: the error is what rounding makes"),
        (["calibrate", "--observer", "minmax", "--observer", "mse"], "most SQNR with all data"),
        (["tune"], "All int8 meets the goal"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_works_on_an_encoder(
    words: list[str], told: str, job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = words
    assert main([name, str(job), "--set", f"output={tmp_path / 'out'}", *options]) == 0
    assert told in capsys.readouterr().out


def test_an_encoder_is_fine_tuned_to_what_its_engine_then_computes(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--plan", "int8", "--output", str(tmp_path / "tuned"), "--json"]
    assert main(["finetune", str(job), *words]) == 0
    (recovery, _) = json.loads(capsys.readouterr().out)["recoveries"]
    assert recovery["gap_sqnr_db"]["value"] > 20


@pytest.mark.parametrize("backend", ["openvino"])
def test_plans_of_an_encoder_are_confirmed_on_another_engine(
    backend: str, searched: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(backend)
    assert main(["confirm", str(searched), "-b", backend]) == 0
    confirmed = aq.confirm(searched, backend)
    assert f"{backend}; speed-ups are over fp32" in capsys.readouterr().out
    whole = [item for item in confirmed.after if set(item.plan.counts()) == {"fp32"}]
    assert [item.value("sqnr_db") > 100 for item in whole] == [True]


def test_an_exported_encoder_gives_what_was_searched(searched: Path, tmp_path: Path) -> None:
    result = aq.load_result(searched)
    candidate = min(result.frontier, key=lambda item: item.value("bops_ratio"))
    path = tmp_path / "model.ts"
    assert main(["export", str(searched), "-o", str(path), "--number", str(candidate.number)]) == 0
    with using_engine("onednn"):  # weights are packed for the engine that is set while a file loads
        exported = torch.jit.load(str(path))
    if result.findings.facts.name == "vision":
        inputs, model = vision_data(7)[0][0], vision_model()
        with torch.no_grad():
            found, built = exported(inputs), candidate.quantize(model)(inputs)
    else:
        given, model = text_data(7, lengths=(13,))[0][0], text_model()
        with torch.no_grad():
            found, built = exported(**given), candidate.quantize(model)(**given)
    assert type(found) is type(built)
    torch.testing.assert_close(found, built)


def test_every_step_on_an_encoder_works_from_python(tmp_path: Path) -> None:
    data = {"calibration": text_data(1), "evaluation": text_data(2)}
    model = text_model()
    score = {"metric": lambda outputs, targets: (outputs["logits"].argmax(1) == targets).float()}
    engine = {"backend": {"engine": "onednn", "pairs": 3}}
    quantized = (
        aq.search(
            model,
            **data,
            **score,
            **engine,
            space={"schemes": ["int8", "fp32"]},
            objectives=("output_error", "size"),
            trials=0,
            max_drop=None,
            output=tmp_path / "out",
        )
        .frontier[0]
        .quantize(model)
    )
    bad = aq.find_bad_cases(model, quantized, data["evaluation"])
    assert (bad.outputs, bad.samples) == (("logits", "embedding"), 128)
    assert not aq.check(model, data["calibration"], **engine).needs_attention
    rows = aq.sensitivity(model, **data, **score, **engine, samples=32, metric_rows=1)
    assert rows.table.rows
    layers = aq.compare(
        model, "int8", data["evaluation"], calibration=data["calibration"], **engine
    )
    assert layers.rows
    assert (
        aq.diagnose(model, "int8", **data, backend={"engine": "onednn"}).pattern.value == "healthy"
    )
    tuned = aq.tune(
        model, **data, **score, **engine, max_drop=0.3, trials=2, output=tmp_path / "tune"
    )
    assert tuned.plan is not None
    observers = aq.compare_observers(model, **data, **score, observers=["minmax"], engine="onednn")
    assert observers.best.observer.value == "minmax"


@pytest.mark.parametrize("backend", ["onnxruntime"])
def test_a_text_job_with_a_metric_over_the_data_is_searched_on_another_engine(
    backend: str, tmp_path: Path
) -> None:
    pytest.importorskip(backend)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job_of("text", str(tmp_path / "out"))))
    changes = [
        f"backend={{name: {backend}, batch_size: 8, pairs: 3}}",
        "space={schemes: [int8, fp32]}",
    ]
    assert main(["search", str(path), *(word for item in changes for word in ("--set", item))]) == 0
    result = aq.load_result(tmp_path / "out")
    assert result.findings.facts.metric == "MacroF1"
    assert not [item for item in result.candidates if item.failure is not None]
    assert result.frontier[-1].value("accuracy") == 1.0
    assert "heldout_accuracy_drop" in result.frontier[0].measurements


def test_a_metric_of_torchmetrics_works_as_it_is(tmp_path: Path) -> None:
    torchmetrics = pytest.importorskip(
        "torchmetrics.classification", reason="torchmetrics is no dependency"
    )

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = text_model()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.text(input_ids, attention_mask)["logits"]
            return logits

    result = aq.search(
        Logits().eval(),
        calibration=text_data(1),
        evaluation=text_data(2),
        metric=torchmetrics.MulticlassF1Score(num_classes=4),
        backend="onednn",
        space={"schemes": ["int8", "fp32"]},
        objectives=("output_error", "size"),
        trials=0,
        max_drop=None,
        output=tmp_path / "out",
    )
    assert result.findings.facts.metric == "MulticlassF1Score"
    assert result.frontier[-1].value("accuracy") == 1.0
    assert result.frontier[0].measurements["accuracy_drop"].stderr is not None
