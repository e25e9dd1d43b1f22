"""Exported files take the model's inputs by name and give what the model gives."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoquant as aq
from autoquant.job.backend import backend_from_text

pytestmark = pytest.mark.filterwarnings("ignore")
Pair = namedtuple("Pair", "boxes scores")
IMAGES = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
FACTORS = torch.rand(64, 1, generator=torch.Generator().manual_seed(1))


@dataclass
class Found:
    boxes: Tensor
    scores: Tensor


class Heads(nn.Module):
    """Boxes and scores, in a form to choose."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.boxes = nn.Linear(16, 4)
        self.scores = nn.Linear(16, 4)
        self.form = form

    def forward(self, image: Tensor, factor: Tensor) -> Any:
        hidden = torch.relu(self.body(image)) * factor
        return self.form(self.boxes(hidden), torch.sigmoid(self.scores(hidden)))


def heads(form: Callable[[Tensor, Tensor], Any]) -> nn.Module:
    torch.manual_seed(0)
    return Heads(form).eval()


def smallest(model: nn.Module, backend: str, folder: Path) -> aq.ResultCandidate:
    result = aq.search(
        model,
        calibration=((IMAGES, FACTORS), torch.zeros(64)),
        evaluation=((IMAGES, FACTORS), torch.zeros(64)),
        metric=lambda outputs, targets: targets,
        backend=backend_from_text(backend) | {"pairs": 3},
        space={"schemes": ["int8", "fp32"]},
        objectives=("output_error", "size"),
        effort="quick",
        max_drop=None,
        batch_size=4,
        output=folder,
    )
    return max(result.candidates, key=lambda item: item.plan.counts().get("int8", 0))


FORMS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], Any]]] = {
    "a tensor": (lambda boxes, scores: boxes + scores, lambda given: given),
    "a tuple": (lambda boxes, scores: (boxes, scores), lambda given: given),
    "a list": (lambda boxes, scores: [boxes, scores], lambda given: given),
    "a dict": (lambda boxes, scores: {"scores": scores, "boxes": boxes}, lambda given: given),
    "a dict with a constant": (
        lambda boxes, scores: {"task": "boxes", "boxes": boxes, "scores": scores},
        lambda given: {name: given[name] for name in ("boxes", "scores")},
    ),
    "nested": (
        lambda boxes, scores: {"all": (boxes, [scores])},
        lambda given: given,
    ),
    "a dataclass": (Found, lambda given: {"boxes": given.boxes, "scores": given.scores}),
    "a named tuple": (Pair, tuple),
}


@pytest.mark.parametrize(("form", "as_written"), FORMS.values(), ids=FORMS.keys())
def test_torchscript_gives_what_the_model_gives(
    form: Callable[[Tensor, Tensor], Any], as_written: Callable[[Any], Any], tmp_path: Path
) -> None:
    model = heads(form)
    candidate = smallest(model, "fbgemm", tmp_path / "out")
    exported = torch.jit.load(aq.export(candidate, model, tmp_path / "model.ts"))
    with torch.no_grad():
        found = exported(image=IMAGES[:5], factor=FACTORS[:5])
        expected = as_written(candidate.quantize(model)(IMAGES[:5], FACTORS[:5]))
    assert type(found) is type(expected)
    torch.testing.assert_close(found, expected)


def test_a_search_by_the_pointwise_operators_writes_a_file_for_each_member(tmp_path: Path) -> None:
    model = heads(lambda boxes, scores: boxes + scores)
    candidate = smallest(model, "pointwise", tmp_path / "out")
    result = aq.load_result(tmp_path / "out")
    numbers = {item.number for item in result.frontier}
    assert {int(path.stem) for path in (tmp_path / "out" / "plans").glob("*.ts")} == numbers
    exported = torch.jit.load(aq.export(candidate, model, tmp_path / "model.ts"))
    with torch.no_grad():
        built = candidate.quantize(model)(IMAGES, FACTORS)
        torch.testing.assert_close(exported(IMAGES, FACTORS), built)


def test_a_litert_file_names_its_inputs_and_outputs_as_the_model_does(tmp_path: Path) -> None:
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    model = heads(lambda boxes, scores: {"scores": scores, "boxes": boxes})
    candidate = smallest(model, "litert", tmp_path / "out")
    path = aq.export(candidate, model, tmp_path / "model.tflite")
    runner = litert.Interpreter(model_path=str(path)).get_signature_runner()
    found = runner(factor=FACTORS[:4].numpy(), image=IMAGES[:4].numpy())
    with torch.no_grad():
        expected = candidate.quantize(model)(IMAGES[:4], FACTORS[:4])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(torch.from_numpy(found[name]), value)


@pytest.mark.parametrize(("backend", "ending"), [("onnxruntime", ".onnx"), ("openvino", ".xml")])
def test_an_output_that_is_called_as_an_input_has_a_name_of_its_own_in_a_file(
    backend: str, ending: str, tmp_path: Path
) -> None:
    engine = pytest.importorskip(backend)
    model = heads(lambda boxes, scores: {"image": boxes, "scores": scores})
    candidate = smallest(model, backend, tmp_path / "out")
    path = aq.export(candidate, model, tmp_path / f"model{ending}")
    given = {"image": IMAGES[:4].numpy(), "factor": FACTORS[:4].numpy()}
    names = ["output_image", "scores"]
    if backend == "onnxruntime":
        found = engine.InferenceSession(path).run(names, given)
    else:
        file = engine.Core().read_model(path)
        options = json.loads(file.get_rt_info(["autoquant"]).astype(str))["openvino"]
        results = engine.Core().compile_model(file, "CPU", options)(given)
        found = [results[name] for name in names]
    with torch.no_grad():
        expected = candidate.quantize(model)(IMAGES[:4], FACTORS[:4])
    assert list(expected) == ["image", "scores"]
    for value, name in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(value), expected[name], rtol=1e-4, atol=1e-4)


def test_the_metric_is_called_by_its_name_in_the_table(tmp_path: Path) -> None:
    def intersection(outputs: Tensor, targets: Tensor) -> Tensor:
        return targets + 0 * outputs.sum(1)

    result = aq.search(
        heads(lambda boxes, scores: boxes + scores),
        calibration=((IMAGES, FACTORS), torch.zeros(64)),
        evaluation=((IMAGES, FACTORS), torch.zeros(64)),
        metric=intersection,
        backend={"engine": "fbgemm", "pairs": 3},
        space={"schemes": ["int8", "fp32"]},
        objectives=("output_error", "size"),
        trials=0,
        max_drop=None,
        output=tmp_path / "out",
    )
    titles = [column.title for column in result.table().columns]
    assert "intersection, %" in titles
    assert "metric intersection" in (result.folder / "report.html").read_text()
    assert not any("accuracy" in title.lower() for title in titles)
